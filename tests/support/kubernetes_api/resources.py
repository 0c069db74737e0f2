"""Which kinds there are, and under which path. Only pods are acted on; the others are kept for those who ask."""

from dataclasses import dataclass

from tests.support.kubernetes_api.answers import Object


@dataclass(frozen=True)
class Resource:
    """A kind of object and where it is served."""

    plural: str
    kind: str
    group: str = ""
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As objects of this kind name it."""
        return f"{self.group}/v1" if self.group else "v1"

    def listed(self) -> Object:
        """How discovery shows it."""
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        return {"name": self.plural, "singularName": self.kind.lower(), "namespaced": self.namespaced, "kind": self.kind, "verbs": verbs}


RBAC = "rbac.authorization.k8s.io"
RESOURCES = (
    Resource("pods", "Pod"),
    Resource("events", "Event"),
    Resource("secrets", "Secret"),
    Resource("configmaps", "ConfigMap"),
    Resource("persistentvolumeclaims", "PersistentVolumeClaim"),
    Resource("persistentvolumes", "PersistentVolume", namespaced=False),
    Resource("serviceaccounts", "ServiceAccount"),
    Resource("services", "Service"),
    Resource("resourcequotas", "ResourceQuota"),
    Resource("limitranges", "LimitRange"),
    Resource("namespaces", "Namespace", namespaced=False),
    Resource("nodes", "Node", namespaced=False),
    Resource("deployments", "Deployment", "apps"),
    Resource("statefulsets", "StatefulSet", "apps"),
    Resource("jobs", "Job", "batch"),
    Resource("cronjobs", "CronJob", "batch"),
    Resource("roles", "Role", RBAC),
    Resource("rolebindings", "RoleBinding", RBAC),
    Resource("clusterroles", "ClusterRole", RBAC, namespaced=False),
    Resource("clusterrolebindings", "ClusterRoleBinding", RBAC, namespaced=False),
    Resource("networkpolicies", "NetworkPolicy", "networking.k8s.io"),
    Resource("ingresses", "Ingress", "networking.k8s.io"),
    Resource("poddisruptionbudgets", "PodDisruptionBudget", "policy"),
    Resource("priorityclasses", "PriorityClass", "scheduling.k8s.io", namespaced=False),
)
BY_PATH = {(resource.group, resource.plural): resource for resource in RESOURCES}
GROUPS = sorted({resource.group for resource in RESOURCES if resource.group} | {"authorization.k8s.io"})
