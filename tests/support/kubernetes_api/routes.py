"""From a path to what is done: the routes of the public API."""

import base64
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.support.kubernetes_api import checks
from tests.support.kubernetes_api.answers import Object, Refusal, bad_request, conflict, no_such_path, not_found
from tests.support.kubernetes_api.call_faults import Asked, CallFaults
from tests.support.kubernetes_api.checks import VERSION
from tests.support.kubernetes_api.cluster import Cluster
from tests.support.kubernetes_api.log_streams import YES, log_stream
from tests.support.kubernetes_api.patches import patched
from tests.support.kubernetes_api.resources import BY_PATH, GROUPS, RESOURCES, Resource
from tests.support.kubernetes_api.selectors import by_fields, by_labels
from tests.support.kubernetes_api.watching import LONGEST, Fits, Watched, watch

PATH = re.compile(
    r"/(?:api|apis/(?P<group>[a-z0-9.]+))/v1(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<part>[a-z]+))?)?"
)


@dataclass(frozen=True)
class Request:
    """What came over the wire."""

    method: str
    path: str
    query: dict[str, str]
    kind: str = ""
    body: Any = None


@dataclass(frozen=True)
class Answer:
    """What goes back: an object, or a stream of pieces."""

    content: Object | None = None
    code: int = 200
    stream: Iterator[bytes] | None = None
    kind: str = "application/json"
    streams: str = ""
    """"watch" or "log": what a switch may cut."""


@dataclass
class Routes:
    """Answers requests."""

    cluster: Cluster
    faults: CallFaults
    _lists: dict[str, list[Object]] = field(default_factory=dict)

    def answer(self, request: Request) -> Answer:
        """Do what a request asks.

        Raises:
            Refusal: it is refused.
        """
        if found := _discovery(request.path):
            return Answer(found)
        if request.path in ("/healthz", "/livez", "/readyz"):
            return Answer(stream=iter([b"ok"]), kind="text/plain")
        match = PATH.fullmatch(request.path)
        if match is None:
            raise no_such_path()
        group, plural = match["group"] or "", match["plural"]
        if plural == "selfsubjectaccessreviews" and request.method == "POST":
            return self._review(request.body)
        resource = BY_PATH.get((group, plural))
        if resource is None or (match["namespace"] and not resource.namespaced):
            raise no_such_path()
        return self._on(resource, match["namespace"] or "", match["name"] or "", match["part"] or "", request)

    def _on(self, resource: Resource, namespace: str, name: str, part: str, request: Request) -> Answer:
        verb = _verb(request, name)
        self.faults.authorize(Asked(verb, f"{resource.plural}/{part}".rstrip("/"), namespace, name, resource.group))
        if part:
            return self._part(resource, namespace, name, part, request)
        match verb:
            case "create":
                return Answer(self._create(resource, namespace, request), 201)
            case "get":
                return Answer(self.cluster.store.get(resource.plural, namespace, name))
            case "list":
                return Answer(self._list(resource, namespace, request.query))
            case "watch":
                return Answer(stream=self._watch(resource, namespace, request.query), streams="watch")
            case "patch":
                return Answer(self._change(resource, namespace, name, lambda thing: patched(thing, request.kind, request.body)))
            case "update":
                return Answer(self._change(resource, namespace, name, lambda _: dict(request.body)))
            case "delete":
                return self._delete(resource, namespace, name, request)
        return self._delete_all(resource, namespace, request)

    # Verbs

    def _create(self, resource: Resource, namespace: str, request: Request) -> Object:
        thing = request.body
        if not isinstance(thing, dict):
            raise bad_request("the body of the request is not an object")
        meta = thing.setdefault("metadata", {})
        if meta.setdefault("namespace", namespace) != namespace:
            raise bad_request(f"the namespace of the provided object does not match that of the request: {meta['namespace']}, {namespace}")
        if not namespace:
            del meta["namespace"]
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        for key in ("uid", "creationTimestamp", "deletionTimestamp", "resourceVersion"):
            meta.pop(key, None)
        thing.pop("status", None)
        checks.check(resource, thing)
        dry = request.query.get("dryRun") == "All"
        if resource.plural == "pods":
            return self.cluster.create_pod(thing, dry)
        if namespace and not self.cluster.store.has("namespaces", "", namespace):
            raise not_found("namespaces", namespace)
        if resource.plural == "namespaces" and not dry:
            self.cluster.add_namespace(meta["name"], meta.get("labels"))
            return self.cluster.store.get("namespaces", "", meta["name"])
        for key, value in (thing.pop("stringData", None) or {}).items():
            thing.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()
        if resource.plural == "persistentvolumeclaims":
            thing["status"] = {"phase": "Bound", "accessModes": thing["spec"].get("accessModes", [])}
        return thing if dry else self.cluster.store.create(resource.plural, thing)

    def _fits(self, resource: Resource, query: dict[str, str]) -> Fits:
        labels = by_labels(query.get("labelSelector", ""))
        fields = by_fields(resource.plural, query.get("fieldSelector", ""))
        return lambda thing: labels(thing["metadata"].get("labels") or {}) and fields(thing)

    def _list(self, resource: Resource, namespace: str, query: dict[str, str]) -> Object:
        fits = self._fits(resource, query)
        found, version = self.cluster.store.all(resource.plural, namespace)
        found = [thing for thing in found if fits(thing)]
        start = 0
        if token := query.get("continue"):
            version, start = json.loads(base64.b64decode(token))
            if version < self.cluster.store.oldest:
                raise Refusal(410, "Expired", "The provided continue parameter is too old to display a consistent list result.")
        limit = int(query.get("limit") or 0) or len(found)
        meta: Object = {"resourceVersion": str(version)}
        if start + limit < len(found):
            meta["continue"] = base64.b64encode(json.dumps([version, start + limit]).encode()).decode()
            meta["remainingItemCount"] = len(found) - start - limit
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": meta}
        return head | {"items": found[start : start + limit]}

    def _watch(self, resource: Resource, namespace: str, query: dict[str, str]) -> Iterator[bytes]:
        wanted = Watched(
            resource=resource,
            namespace=namespace,
            fits=self._fits(resource, query),
            version=query.get("resourceVersion", ""),
            timeout=float(query.get("timeoutSeconds") or LONGEST),
        )
        return watch(self.cluster.store, wanted)

    def _change(self, resource: Resource, namespace: str, name: str, to: Any) -> Object:
        def change(thing: Object) -> None:
            before = json.loads(json.dumps(thing))
            after = to(thing)
            meta = after.setdefault("metadata", {})
            for key in ("uid", "creationTimestamp", "name", "namespace", "deletionTimestamp", "resourceVersion"):
                if key in before["metadata"]:
                    meta.setdefault(key, before["metadata"][key])
            if "status" in before:
                after["status"] = before["status"]
            checks.check(resource, after)
            if resource.plural == "pods":
                checks.same_spec(before, after)
            thing.clear()
            thing.update(after)

        return self.cluster.store.update(resource.plural, namespace, name, change)

    def _delete(self, resource: Resource, namespace: str, name: str, request: Request) -> Answer:
        options = request.body or {}
        thing = self.cluster.store.get(resource.plural, namespace, name)
        for key in ("uid", "resourceVersion"):
            wanted = (options.get("preconditions") or {}).get(key)
            if wanted and wanted != thing["metadata"][key]:
                why = f"Precondition failed: {key} in precondition: {wanted}, {key} in object meta: {thing['metadata'][key]}"
                raise conflict(resource.plural, name, why)
        if "All" in (options.get("dryRun") or request.query.get("dryRun", "")):
            return Answer(thing)
        if resource.plural == "pods":
            grace = options.get("gracePeriodSeconds", request.query.get("gracePeriodSeconds"))
            return Answer(self.cluster.delete_pod(namespace, name, None if grace is None else float(grace)))
        self.cluster.store.remove(resource.plural, namespace, name)
        details = {"name": name, "kind": resource.plural, "uid": thing["metadata"]["uid"]}
        return Answer({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    def _delete_all(self, resource: Resource, namespace: str, request: Request) -> Answer:
        found = self._list(resource, namespace, request.query)
        for thing in found["items"]:
            self._delete(resource, namespace, thing["metadata"]["name"], request)
        return Answer(found)

    # Subresources

    def _part(self, resource: Resource, namespace: str, name: str, part: str, request: Request) -> Answer:
        thing = self.cluster.store.get(resource.plural, namespace, name)
        if part == "status" and request.method == "GET":
            return Answer(thing)
        if resource.plural == "pods" and part == "log" and request.method == "GET":
            return Answer(stream=log_stream(self.cluster, thing, request.query), kind="text/plain", streams="log")
        if resource.plural == "pods" and part == "eviction" and request.method == "POST":
            options = (request.body or {}).get("deleteOptions") or {}
            self.cluster.evict_pod(namespace, name, options.get("gracePeriodSeconds"))
            return Answer({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}, 201)
        if request.method not in ("GET", "POST", "PATCH", "PUT"):
            raise Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        raise no_such_path()

    def _review(self, body: Object) -> Answer:
        head = {"apiVersion": "authorization.k8s.io/v1", "kind": body.get("kind", ""), "metadata": {"creationTimestamp": None}}
        wanted = body.get("spec", {}).get("resourceAttributes") or {}
        resource = "/".join(filter(None, (wanted.get("resource"), wanted.get("subresource"))))
        parts = (wanted.get(key, "") for key in ("namespace", "name", "group"))
        allowed = self.faults.allows(Asked(wanted.get("verb", "*"), resource, *parts))
        return Answer(head | {"spec": body.get("spec", {}), "status": {"allowed": allowed}}, 201)


def _verb(request: Request, name: str) -> str:
    if request.method == "GET" and not name:
        return "watch" if request.query.get("watch") in YES else "list"
    verbs = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete" if name else "deletecollection"}
    if request.method not in verbs or (request.method in ("PUT", "PATCH") and not name):
        raise Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    return verbs[request.method]


def _discovery(path: str) -> Object | None:
    match path.rstrip("/").split("/")[1:]:
        case ["version"]:
            major, minor = VERSION.split(".")[:2]
            build = {"gitCommit": "0" * 40, "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z", "goVersion": "none"}
            return {"major": major, "minor": minor, "gitVersion": f"v{VERSION}", **build, "compiler": "none", "platform": "linux/amd64"}
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            groups = [{"name": group, "versions": [_group_version(group)], "preferredVersion": _group_version(group)} for group in GROUPS]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case ["api", "v1"]:
            return _resource_list("", "v1")
        case ["apis", group, "v1"] if group in GROUPS:
            return _resource_list(group, f"{group}/v1")
    return None


def _group_version(group: str) -> Object:
    return {"groupVersion": f"{group}/v1", "version": "v1"}


def _resource_list(group: str, version: str) -> Object:
    resources = [resource.listed() for resource in RESOURCES if resource.group == group]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
