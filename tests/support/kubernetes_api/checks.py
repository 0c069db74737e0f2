"""What the API refuses before it keeps an object: by the schemas that kubernetes-validate ships, and by rules that no schema holds.

Unknown fields are refused, as with `fieldValidation=Strict`; a cluster drops them and warns unless it is asked to be strict.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
from kubernetes_validate.utils import latest_version, schema_contents
from referencing import Registry
from referencing import Resource as SchemaResource

from tests.support.kubernetes_api.answers import Object, bad_request, invalid
from tests.support.kubernetes_api.quantities import BadQuantityError, quantity
from tests.support.kubernetes_api.resources import Resource

VERSION = latest_version()
"""Of Kubernetes: the newest whose schemas there are."""

LABEL_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
QUALIFIED = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
ENV_NAME = re.compile(r"[ -<>-~]+")
"""Any printable character but `=`, as Kubernetes has it since 1.34."""
NATIVE_RESOURCES = ("cpu", "memory", "ephemeral-storage")
CHOICES = {
    "restartPolicy": ("Always", "OnFailure", "Never"),
    "dnsPolicy": ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"),
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "terminationMessagePolicy": ("File", "FallbackToLogsOnError"),
    "operator": ("Equal", "Exists", "Lt", "Gt"),
    "effect": ("NoSchedule", "PreferNoSchedule", "NoExecute"),
}

Cause = tuple[str, str, str]


def check(resource: Resource, thing: Object) -> None:
    """Refuse an object that the API would refuse.

    Raises:
        Refusal: 400 where it is no such object at all, 422 with all causes where it breaks rules.
    """
    for key, wanted in (("apiVersion", resource.api_version), ("kind", resource.kind)):
        if thing.setdefault(key, wanted) != wanted:
            raise bad_request(f"the {key} in the data ({thing[key]}) does not match the expected {key} ({wanted})")
    causes = list(_schema_causes(resource, thing))
    if not causes:
        causes = [*_metadata_causes(resource, thing["metadata"]), *(_pod_causes(thing["spec"]) if resource.kind == "Pod" else ())]
    if causes:
        raise invalid(resource.kind, str(thing.get("metadata", {}).get("name", "")), causes)


@functools.cache
def _validator(resource: Resource) -> Any:
    folder = f"kubernetes-json-schema/v{VERSION}-local-strict"
    group = f"{resource.group.split('.')[0]}-" if resource.group else ""
    schema = schema_contents(f"{folder}/{resource.kind.lower()}-{group}v1.json", VERSION)
    definitions = schema_contents(f"{folder}/_definitions.json", VERSION)
    registry: Any = SchemaResource.from_contents(definitions) @ (SchemaResource.from_contents(schema) @ Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


def _schema_causes(resource: Resource, thing: Object) -> Iterator[Cause]:
    """The required fields that are missing; whatever else a schema finds makes the object unreadable."""
    for error in _validator(resource).iter_errors(thing):
        where = _path(error.absolute_path)
        if error.validator == "required":
            missing = next(key for key in error.validator_value if key not in error.instance)
            yield "FieldValueRequired", f"{where}.{missing}".lstrip("."), "Required value"
        elif error.validator == "additionalProperties":
            names = sorted(set(error.instance) - set(error.schema.get("properties", {})))
            raise bad_request("strict decoding error: " + ", ".join(f'unknown field "{where}.{name}"' for name in names))
        else:
            raise bad_request(f'{resource.kind} in version "v1" cannot be handled as a {resource.kind}: {where}: {error.message}')


def _path(parts: Any) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def _metadata_causes(resource: Resource, meta: Object) -> Iterator[Cause]:
    name = meta.get("name", "")
    if resource.group != "rbac.authorization.k8s.io" and (not SUBDOMAIN.fullmatch(name) or len(name) > 253):
        yield "FieldValueInvalid", "metadata.name", f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case'
    for key, value in (meta.get("labels") or {}).items():
        if not QUALIFIED.fullmatch(key):
            yield "FieldValueInvalid", "metadata.labels", f'Invalid value: "{key}": name part must consist of alphanumeric characters'
        if not LABEL_VALUE.fullmatch(value):
            yield "FieldValueInvalid", "metadata.labels", f'Invalid value: "{value}": a valid label must be an empty string or consist of'
    for key in meta.get("annotations") or {}:
        if not QUALIFIED.fullmatch(key):
            yield "FieldValueInvalid", "metadata.annotations", f'Invalid value: "{key}": name part must consist of alphanumeric characters'


def _pod_causes(spec: Object) -> Iterator[Cause]:
    if not spec.get("containers"):
        yield "FieldValueRequired", "spec.containers", "Required value"
    yield from _choice_causes(spec, "spec", "restartPolicy", "dnsPolicy")
    if "activeDeadlineSeconds" in spec and spec["activeDeadlineSeconds"] < 1:
        yield "FieldValueInvalid", "spec.activeDeadlineSeconds", f"Invalid value: {spec['activeDeadlineSeconds']}: must be between 1 and"
    if spec.get("terminationGracePeriodSeconds", 0) < 0:
        yield "FieldValueInvalid", "spec.terminationGracePeriodSeconds", "Invalid value: must be greater than or equal to 0"
    for number, toleration in enumerate(spec.get("tolerations", ())):
        where = f"spec.tolerations[{number}]"
        yield from _choice_causes(toleration, where, "operator", "effect")
        if toleration.get("operator") == "Exists" and toleration.get("value"):
            yield "FieldValueInvalid", f"{where}.operator", "Invalid value: value must be empty when `operator` is 'Exists'"
        if not toleration.get("key") and toleration.get("operator", "Equal") != "Exists":
            yield "FieldValueInvalid", f"{where}.operator", "Invalid value: operator must be Exists when `key` is empty"
    for key, value in spec.get("nodeSelector", {}).items():
        if not QUALIFIED.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
            yield "FieldValueInvalid", "spec.nodeSelector", f'Invalid value: "{key}={value}": a valid label expected'
    volumes = {volume["name"] for volume in spec.get("volumes", ())}
    for number, volume in enumerate(spec.get("volumes", ())):
        if len(volume) != 2:
            yield "FieldValueRequired", f"spec.volumes[{number}]", "must specify exactly one volume type"
    seen: set[str] = set()
    for part in ("initContainers", "containers"):
        for number, container in enumerate(spec.get(part) or ()):
            yield from _container_causes(container, f"spec.{part}[{number}]", volumes, seen)
            seen.add(container["name"])


def _choice_causes(thing: Object, where: str, *keys: str) -> Iterator[Cause]:
    for key in keys:
        if thing.get(key) and thing[key] not in CHOICES[key]:
            names = ", ".join(f'"{choice}"' for choice in CHOICES[key])
            yield "FieldValueNotSupported", f"{where}.{key}", f'Unsupported value: "{thing[key]}": supported values: {names}'


def _container_causes(container: Object, where: str, volumes: set[str], seen: set[str]) -> Iterator[Cause]:
    name = container["name"]
    if not LABEL_NAME.fullmatch(name):
        yield "FieldValueInvalid", f"{where}.name", f'Invalid value: "{name}": a lowercase RFC 1123 label must consist of lower case'
    if name in seen:
        yield "FieldValueDuplicate", f"{where}.name", f'Duplicate value: "{name}"'
    if not container.get("image"):
        yield "FieldValueRequired", f"{where}.image", "Required value"
    yield from _choice_causes(container, where, "imagePullPolicy", "terminationMessagePolicy")
    for number, variable in enumerate(container.get("env") or ()):
        if not ENV_NAME.fullmatch(variable["name"]):
            yield "FieldValueInvalid", f"{where}.env[{number}].name", f'Invalid value: "{variable["name"]}": a valid name must consist of'
        if variable.get("value") and variable.get("valueFrom"):
            yield "FieldValueInvalid", f"{where}.env[{number}].valueFrom", "Invalid value: may not be specified when `value` is not empty"
    paths: set[str] = set()
    for number, mount in enumerate(container.get("volumeMounts") or ()):
        if mount["name"] not in volumes:
            yield "FieldValueNotFound", f"{where}.volumeMounts[{number}].name", f'Not found: "{mount["name"]}"'
        if mount["mountPath"] in paths:
            yield "FieldValueInvalid", f"{where}.volumeMounts[{number}].mountPath", f'Invalid value: "{mount["mountPath"]}": must be unique'
        paths.add(mount["mountPath"])
    yield from _resource_causes(container.get("resources") or {}, f"{where}.resources")
    security = container.get("securityContext") or {}
    if security.get("allowPrivilegeEscalation") is False and security.get("privileged"):
        yield (
            "FieldValueInvalid",
            f"{where}.securityContext",
            "Invalid value: cannot set `allowPrivilegeEscalation` to false and `privileged`",
        )


def _resource_causes(resources: Object, where: str) -> Iterator[Cause]:
    amounts: dict[str, dict[str, Any]] = {"limits": {}, "requests": {}}
    for side, found in amounts.items():
        for name, text in (resources.get(side) or {}).items():
            try:
                found[name] = quantity(text)
            except BadQuantityError:
                yield (
                    "FieldValueInvalid",
                    f"{where}.{side}[{name}]",
                    f'Invalid value: "{text}": quantities must match the regular expression',
                )
    for name, limit in amounts["limits"].items():
        asked = amounts["requests"].get(name, limit)
        extended = name not in NATIVE_RESOURCES and not name.startswith("hugepages-")
        if extended and "/" not in name:
            yield (
                "FieldValueInvalid",
                f"{where}.limits[{name}]",
                f'Invalid value: "{name}": must be a standard resource type or fully qualified',
            )
        if extended and limit % 1:
            yield "FieldValueInvalid", f"{where}.limits[{name}]", f"Invalid value: {limit}: must be an integer"
        if extended and asked != limit:
            yield "FieldValueInvalid", f"{where}.requests", f'Invalid value: "{asked}": must be equal to {name} limit of {limit}'
        elif asked > limit:
            yield (
                "FieldValueInvalid",
                f"{where}.requests",
                f'Invalid value: "{asked}": must be less than or equal to {name} limit of {limit}',
            )
    for name in amounts["requests"]:
        if name not in amounts["limits"] and "/" in name:
            yield "FieldValueRequired", f"{where}.limits", "Required value: Limit must be set for non overcommitable resources"


def same_spec(before: Object, after: Object) -> None:
    """Refuse a change to the parts of a pod that are fixed once it exists."""

    def fixed(pod: Object) -> Object:
        spec = {key: value for key, value in pod["spec"].items() if key not in ("activeDeadlineSeconds", "tolerations", "schedulingGates")}
        for part in ("containers", "initContainers"):
            spec[part] = [{key: value for key, value in one.items() if key != "image"} for one in spec.get(part, ())]
        return spec

    gates = [gate["name"] for gate in before["spec"].get("schedulingGates", ())]
    added = [gate["name"] for gate in after["spec"].get("schedulingGates", ()) if gate["name"] not in gates]
    if fixed(before) != fixed(after) or added:
        why = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, "
        why += "`spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations)"
        raise invalid("Pod", before["metadata"]["name"], [("FieldValueForbidden", "spec", why)])
