"""Which node takes a pod, and in the cluster's own words why none does."""

from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING

from tests.support.kubernetes_api.answers import Object
from tests.support.kubernetes_api.quantities import Amounts, pod_amounts, quantity

if TYPE_CHECKING:
    from tests.support.kubernetes_api.cluster import Cluster


def place(cluster: "Cluster", pod: Object) -> tuple[str, str]:
    """The name of a node that takes the pod; or "" and why there is none."""
    nodes, _ = cluster.store.all("nodes")
    pods, _ = cluster.store.all("pods")
    for volume in pod["spec"].get("volumes", ()):
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim and not cluster.store.has("persistentvolumeclaims", pod["metadata"]["namespace"], claim):
            return "", f'0/{len(nodes)} nodes are available: persistentvolumeclaim "{claim}" not found.'
    reasons: Counter[str] = Counter()
    for node in nodes:
        why = _against(node, pod["spec"], [other for other in pods if _lives_on(other, node)])
        if not why:
            return str(node["metadata"]["name"]), ""
        reasons.update(why)
    told = ", ".join(sorted(f"{number} {reason}" for reason, number in reasons.items()))
    return (
        "",
        f"0/{len(nodes)} nodes are available: {told}. preemption: 0/{len(nodes)} nodes are available: {len(nodes)} No preemption victims.",
    )


def _against(node: Object, spec: Object, others: list[Object]) -> list[str]:
    labels = node["metadata"].get("labels", {})
    if node["spec"].get("unschedulable"):
        return ["node(s) were unschedulable"]
    for taint in node["spec"].get("taints", ()):
        if taint["effect"] != "PreferNoSchedule" and not any(_tolerates(one, taint) for one in spec.get("tolerations", ())):
            return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"]
    if any(labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
        return ["node(s) didn't match Pod's node affinity/selector"]
    free = {name: quantity(amount) for name, amount in node["status"]["allocatable"].items()}
    for other in others:
        _take(free, pod_amounts(other["spec"]))
    return [f"Insufficient {name}" for name, amount in pod_amounts(spec).items() if amount > free.get(name, Decimal(0))]


def _lives_on(pod: Object, node: Object) -> bool:
    return pod["spec"].get("nodeName") == node["metadata"]["name"] and pod["status"]["phase"] in ("Pending", "Running")


def _take(free: Amounts, used: Amounts) -> None:
    for name, amount in used.items():
        free[name] = free.get(name, Decimal(0)) - amount


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("key") not in (None, "", taint["key"]):
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")
