"""What the API fills in where a pod says nothing."""

from tests.support.kubernetes_api.answers import Object

TOLERATED_SECONDS = 300
"""How long a pod stays on a node that is not ready or not reachable."""


def complete(pod: Object) -> None:
    """Fill in what a pod leaves open, and drop what only the system may say."""
    spec = pod["spec"]
    _set(spec, restartPolicy="Always", dnsPolicy="ClusterFirst", schedulerName="default-scheduler", terminationGracePeriodSeconds=30)
    _set(spec, securityContext={}, enableServiceLinks=True, priority=0, preemptionPolicy="PreemptLowerPriority")
    spec["serviceAccountName"] = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    spec["serviceAccount"] = spec["serviceAccountName"]
    for part in ("initContainers", "containers"):
        for container in spec.get(part) or ():
            _complete_container(container)
    for volume in spec.get("volumes", ()):
        for kind in ("configMap", "secret", "projected"):
            if kind in volume:
                _set(volume[kind], defaultMode=0o644)
    tolerations = spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(toleration.get("key") in (key, None, "") for toleration in tolerations):
            rule = {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATED_SECONDS}
            tolerations.append(rule)
    pod["status"] = {"phase": "Pending", "qosClass": _quality(spec)}
    if spec.get("schedulingGates"):
        condition = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "Scheduling is blocked"}
        pod["status"]["conditions"] = [condition]


def _complete_container(container: Object) -> None:
    image = container["image"].rpartition("/")[2]
    latest = "@" not in image and image.partition(":")[2] in ("", "latest")
    _set(container, imagePullPolicy="Always" if latest else "IfNotPresent", resources={})
    _set(container, terminationMessagePath="/dev/termination-log", terminationMessagePolicy="File")
    resources = container["resources"]
    for side in ("limits", "requests"):
        if side in resources:
            resources[side] = {name: str(amount) for name, amount in resources[side].items()}
    if "limits" in resources:
        resources["requests"] = resources["limits"] | resources.get("requests", {})
    for port in container.get("ports") or ():
        _set(port, protocol="TCP")


def _quality(spec: Object) -> str:
    containers = [*spec["containers"], *(spec.get("initContainers") or ())]
    sides = [container["resources"] for container in containers]
    if not any(side.get("requests") or side.get("limits") for side in sides):
        return "BestEffort"
    whole = all({"cpu", "memory"} <= set(side.get("limits", {})) for side in sides)
    return "Guaranteed" if whole and all(side["limits"] == side["requests"] for side in sides) else "Burstable"


def _set(thing: Object, **values: object) -> None:
    for key, value in values.items():
        if thing.get(key) in (None, ""):
            thing[key] = value
