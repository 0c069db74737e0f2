"""The cluster that steps run in as pods, looked at from Airflow's side: its API, our rights in it, and what the settings name there."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tasks.contracts import Finding
from tasks.doctor.findings import fault, good, warning
from tasks.doctor.scope import Scope
from tasks.errors import ServiceError, SettingsError
from tasks.schema.pods import GPU
from tasks.secrets.redaction import in_one_line
from tasks.settings import quiet_environment

WHAT = "cluster"
SECONDS = 15
"""How long the API may take for one answer."""

RIGHTS = (
    ("pods", "", ("create", "get", "list", "delete")),
    ("pods", "log", ("get",)),
    ("events", "", ("list",)),
)
"""What the runner does, as docker/kubernetes/rights.yaml grants it: resource, subresource, verbs."""


def cluster(scope: Scope) -> Iterator[Finding]:
    """Everything that a pod of the run will name; where the API does not answer, that alone."""
    from kubernetes import client
    from urllib3.exceptions import HTTPError

    api, settings = _client(scope.settings.kubernetes_conn), scope.settings
    try:
        version = client.VersionApi(api).get_code(_request_timeout=SECONDS)
    except (HTTPError, client.ApiException) as error:
        yield _refused(WHAT, error)
        return
    yield good(WHAT, f"{api.configuration.host} answers, Kubernetes {version.git_version}")
    core, custom = client.CoreV1Api(api), client.CustomObjectsApi(api)
    named: list[Callable[[], Finding | None]] = [
        partial(_rights, client.AuthorizationV1Api(api), settings.namespace),
        partial(_there, "service account", settings.service_account, core.read_namespaced_service_account, settings.namespace),
        partial(_gpus, core, scope),
        *(partial(_there, "config map", name, core.read_namespaced_config_map, settings.namespace) for name in settings.pod_config_maps),
        *(
            partial(_there, "secret", name, core.read_namespaced_secret, settings.namespace)
            for name in (*settings.pod_secrets, *settings.image_pull_secrets)
        ),
    ]
    if settings.volume_claim:
        read = core.read_namespaced_persistent_volume_claim
        named.append(partial(_there, "volume claim", settings.volume_claim, read, settings.namespace, _bound))
    if queue := (scope.recipe and scope.recipe.pods.queue) or settings.kueue_queue:
        remedy = "make it, or install Kueue: pods would wait for ever"
        named.append(partial(_there, "queue", queue, partial(_read_queue, custom), settings.namespace, missing=remedy))
    with ThreadPoolExecutor(max_workers=8) as pool:
        yield from filter(None, pool.map(lambda look: look(), named))


def _client(connection: str | None) -> Any:
    """A client as the runner has it: by Airflow's connection, or of the cluster that this runs in, or by KUBECONFIG.

    Raises:
        SettingsError: none of them leads to a cluster.
    """
    try:
        from kubernetes import config
        from kubernetes.config.kube_config import new_client_from_config_dict
    except ImportError:
        raise SettingsError(WHAT, "the kubernetes client is not installed", "the extra kubernetes", "install it") from None
    import yaml
    from kubernetes.client import ApiClient, Configuration

    extra = _connection(connection) if connection else {}
    context = extra.get("cluster_context") or None
    try:
        if inline := extra.get("kube_config"):
            return new_client_from_config_dict(yaml.safe_load(inline) if isinstance(inline, str) else inline, context=context)
        if path := extra.get("kube_config_path"):
            return config.new_client_from_config(path, context=context)
        try:
            inside = Configuration()
            config.load_incluster_config(client_configuration=inside)
            return ApiClient(inside)
        except config.ConfigException:
            return config.new_client_from_config(os.environ.get("KUBECONFIG"), context=context)
    except (config.ConfigException, OSError, ValueError) as error:
        remedy = "set LORAFLOW_KUBERNETES_CONN to an Airflow connection that leads there, or KUBECONFIG"
        raise SettingsError(WHAT, f"no way to it ({error})", "a cluster", remedy) from None


def _connection(name: str) -> dict[str, Any]:
    """Extra fields of an Airflow connection, by Airflow's own command; what they hold is never shown.

    Raises:
        SettingsError: there is no such connection.
        ServiceError: Airflow does not answer.
    """
    airflow = shutil.which("airflow")
    if airflow is None:
        raise SettingsError("LORAFLOW_KUBERNETES_CONN", "no airflow command here", "Airflow's side", "call doctor there")
    command = [airflow, "connections", "get", name, "--output", "json"]
    try:
        done = subprocess.run(
            command, env=quiet_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50, check=False
        )
    except subprocess.TimeoutExpired:
        raise ServiceError("LORAFLOW_KUBERNETES_CONN", "airflow connections get took over 50 s", "an answer", "try again") from None
    start = done.stdout.find("[")
    if done.returncode or start < 0:
        raise SettingsError(
            "LORAFLOW_KUBERNETES_CONN",
            f"is {name!r}, no connection of Airflow",
            "the name of a connection",
            "create it, or correct the name",
        )
    fields = parse_qs(urlsplit(str(json.loads(done.stdout[start:])[0]["get_uri"])).query)
    extra = json.loads(fields["__extra__"][0]) if "__extra__" in fields else {key: values[0] for key, values in fields.items()}
    return {key.removeprefix("extra__kubernetes__"): value for key, value in extra.items()}


def _refused(what: str, error: Exception) -> Finding:
    status = getattr(error, "status", None)
    if status in (401, 403):
        return fault(what, f"the API refuses us (HTTP {status} {getattr(error, 'reason', '')})", "see docker/kubernetes/rights.yaml")
    said = f"HTTP {status} {getattr(error, 'reason', '')}" if status else in_one_line(error)
    return fault(what, f"the API does not answer ({said})", "look at the cluster, the connection and the network", passing=True)


def _rights(api: Any, namespace: str) -> Finding:
    """Ask for each verb that the runner uses whether it is granted."""
    from kubernetes import client

    missing = []
    try:
        for resource, subresource, verbs in RIGHTS:
            for verb in verbs:
                asked = client.V1ResourceAttributes(namespace=namespace, verb=verb, resource=resource, subresource=subresource or None)
                review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=asked))
                if not api.create_self_subject_access_review(review, _request_timeout=SECONDS).status.allowed:
                    missing.append(f"{verb} {resource}{'/' + subresource if subresource else ''}")
    except client.ApiException as error:
        return _refused("cluster rights", error)
    if missing:
        return fault("cluster rights", f"in namespace {namespace} we may not {', '.join(missing)}", "apply docker/kubernetes/rights.yaml")
    return good("cluster rights", f"what the runner does is allowed in namespace {namespace}")


def _there(
    what: str, name: str, read: Callable[..., Any], namespace: str, judged: Callable[[Any], Finding] | None = None, missing: str = ""
) -> Finding:
    """Whether something that pods name is there; where we may not look, which is well for secrets, that is said.

    Args:
        what: kind of thing.
        name: of the thing.
        read: asks the API for it.
        namespace: where it should be.
        judged: what is found of one that is there; without it, that.
        missing: what to do where it is not there.
    """
    from kubernetes.client import ApiException

    try:
        there = read(name, namespace, _request_timeout=SECONDS)
    except ApiException as error:
        if error.status == 404:
            return fault(what, f"{name} is not in namespace {namespace}", missing or f"make it, or correct the setting that names {name}")
        if error.status == 403:
            return good(what, f"{name}: not looked for, we may not read it")
        return _refused(what, error)
    return judged(there) if judged else good(what, f"{name} is there")


def _bound(claim: Any) -> Finding:
    name, phase = claim.metadata.name, claim.status.phase
    if phase == "Bound":
        return good("volume claim", f"{name} is bound")
    # A claim that waits for its first pod to choose a node is pending until then.
    return warning("volume claim", f"{name} is {phase}", "see kubectl describe pvc; one that waits for its first pod is well")


def _read_queue(custom: Any, name: str, namespace: str, **options: Any) -> Any:
    """A LocalQueue of Kueue, which serves one or both of these versions."""
    from kubernetes.client import ApiException

    read = partial(custom.get_namespaced_custom_object, "kueue.x-k8s.io", namespace=namespace, plural="localqueues", name=name, **options)
    try:
        return read(version="v1beta2")
    except ApiException as error:
        if error.status != 404:
            raise
        return read(version="v1beta1")


def _gpus(core: Any, scope: Scope) -> Finding | None:
    """Whether any node has the GPUs that a pod will ask for; no fault, since nodes may be made on demand."""
    from kubernetes.client import ApiException

    recipe = scope.recipe
    if recipe is None or not recipe.pods.gpu_steps:
        return None
    wanted = max(recipe.pods.gpus_of(step, recipe.train.gpus) for step in recipe.pods.gpu_steps)
    selector = ",".join(f"{key}={value}" for key, value in recipe.pods.node_selector.items())
    try:
        nodes = core.list_node(label_selector=selector, _request_timeout=SECONDS).items
    except ApiException as error:
        return good("GPUs", "not looked for, we may not list nodes") if error.status == 403 else _refused("GPUs", error)
    most = max((int((node.status.allocatable or {}).get(GPU, 0)) for node in nodes), default=0)
    where = f" with {selector}" if selector else ""
    if most < wanted:
        remedy = "correct pods.node_selector or train.gpus; where nodes are made on demand, all is well"
        return warning("GPUs", f"no node{where} has {wanted}, the most is {most}", remedy)
    return good("GPUs", f"a node{where} has {most}, {wanted} asked for")
