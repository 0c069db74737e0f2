"""What refuses a pod that is well formed: a missing namespace or account, a quota, the namespace's Pod Security level."""

from collections.abc import Iterator
from decimal import Decimal

from tests.support.kubernetes_api.answers import Object, Refusal, forbidden, not_found
from tests.support.kubernetes_api.quantities import Amounts, pod_amounts, quantity
from tests.support.kubernetes_api.store import Store

LEVEL = "pod-security.kubernetes.io/enforce"


def admit(store: Store, pod: Object) -> None:
    """Let a pod in.

    Raises:
        Refusal: 403 or 404.
    """
    meta, spec = pod["metadata"], pod["spec"]
    if not store.has("namespaces", "", meta["namespace"]):
        raise not_found("namespaces", meta["namespace"])
    if not store.has("serviceaccounts", meta["namespace"], spec["serviceAccountName"]):
        account = f"{meta['namespace']}/{spec['serviceAccountName']}"
        why = f'error looking up service account {account}: serviceaccount "{spec["serviceAccountName"]}" not found'
        raise forbidden("pods", meta["name"], why)
    _priority(store, pod)
    labels = store.get("namespaces", "", meta["namespace"])["metadata"].get("labels", {})
    if labels.get(LEVEL) == "restricted" and (broken := list(_unrestricted(spec))):
        raise forbidden("pods", meta["name"], f'violates PodSecurity "restricted:latest": {", ".join(broken)}')
    for quota in store.all("resourcequotas", meta["namespace"])[0]:
        _within(store, quota, pod)


def _priority(store: Store, pod: Object) -> None:
    name = pod["spec"].get("priorityClassName")
    if name and not name.startswith("system-"):
        try:
            pod["spec"]["priority"] = store.get("priorityclasses", "", name)["value"]
        except Refusal:
            raise forbidden("pods", pod["metadata"]["name"], f"no PriorityClass with name {name} was found") from None


def _unrestricted(spec: Object) -> Iterator[str]:
    """What the profile "restricted" of the Pod Security Standards finds."""
    whole = spec["securityContext"]
    for kind in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(kind):
            yield f"host namespaces ({kind}=true)"
    for volume in spec.get("volumes", ()):
        kind = next(key for key in volume if key != "name")
        if kind not in ("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"):
            yield f'restricted volume types (volume "{volume["name"]}" uses restricted volume type "{kind}")'
    for container in [*(spec.get("initContainers") or ()), *spec["containers"]]:
        own = container.get("securityContext") or {}
        who = f'container "{container["name"]}"'
        if own.get("privileged"):
            yield f"privileged ({who} must not set securityContext.privileged=true)"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
        if "ALL" not in own.get("capabilities", {}).get("drop", ()):
            yield f'unrestricted capabilities ({who} must set securityContext.capabilities.drop=["ALL"])'
        if not own.get("runAsNonRoot", whole.get("runAsNonRoot")):
            yield f"runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"
        if own.get("runAsUser", whole.get("runAsUser")) == 0:
            yield f"runAsUser=0 (pod or {who} must not set runAsUser=0)"
        if own.get("seccompProfile", whole.get("seccompProfile", {})).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f'seccompProfile (pod or {who} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'


def _within(store: Store, quota: Object, pod: Object) -> None:
    hard = {name: quantity(amount) for name, amount in quota["spec"].get("hard", {}).items()}
    asked = _counted(pod["spec"])
    name, pods = pod["metadata"]["name"], store.all("pods", pod["metadata"]["namespace"])[0]
    if missing := [
        key for key in hard if key not in asked and key.removeprefix("requests.") in ("cpu", "memory", "limits.cpu", "limits.memory")
    ]:
        lists = f"{', '.join(missing)} for: {','.join(container['name'] for container in pod['spec']['containers'])}"
        raise forbidden("pods", name, f"failed quota: {quota['metadata']['name']}: must specify {lists}")
    used: Amounts = {}
    for other in pods:
        if other["status"]["phase"] in ("Pending", "Running"):
            for key, amount in _counted(other["spec"]).items():
                used[key] = used.get(key, Decimal(0)) + amount
    over = [key for key in hard if key in asked and used.get(key, Decimal(0)) + asked[key] > hard[key]]
    if over:
        parts = (("requested", asked), ("used", used), ("limited", hard))
        told = ", ".join(f"{word}: {','.join(f'{key}={_plain(amounts.get(key))}' for key in over)}" for word, amounts in parts)
        raise forbidden("pods", name, f"exceeded quota: {quota['metadata']['name']}, {told}")


def _counted(spec: Object) -> Amounts:
    requests, limits = pod_amounts(spec), pod_amounts(spec, "limits")
    plain = {name: amount for name, amount in requests.items() if name in ("cpu", "memory", "ephemeral-storage")}
    counted = plain | {f"requests.{name}": amount for name, amount in requests.items()}
    return counted | {f"limits.{name}": amount for name, amount in limits.items()} | {"pods": Decimal(1), "count/pods": Decimal(1)}


def _plain(amount: Decimal | None) -> str:
    return f"{amount or 0:f}".rstrip("0").rstrip(".") if amount and amount % 1 else f"{int(amount or 0)}"
