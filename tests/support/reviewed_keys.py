"""Keys of what no schema here can check, compiled by hand from its documentation.

Kueue: the Go types of API v1beta2 (`apis/kueue/v1beta2/{resourceflavor,clusterqueue,localqueue}_types.go`), as of Kueue 0.18.
Airflow's Helm chart: its `values.yaml` as of Airflow 3.1.3, and what release notes and parameter reference up to chart 1.22.0 say of
keys that moved since (those of Celery's workers, below `workers.celery`). Each list has more than is used here, and is read the same way:
a dict names the keys below, KUBERNETES is a part that Kubernetes' own schemas know, ANY is free or a plain value.
"""

from typing import Any, Final

ANY: Final = None
KUBERNETES: Final = "kubernetes"

LABEL_SELECTOR = {"matchLabels": ANY, "matchExpressions": [{"key": ANY, "operator": ANY, "values": ANY}]}
TAINT = {"key": ANY, "value": ANY, "effect": ANY}
TOLERATION = {"key": ANY, "operator": ANY, "value": ANY, "effect": ANY, "tolerationSeconds": ANY}
QUOTA = {"name": ANY, "nominalQuota": ANY, "borrowingLimit": ANY, "lendingLimit": ANY}
OBJECT = {"apiVersion": ANY, "kind": ANY, "metadata": {"name": ANY, "namespace": ANY, "labels": ANY, "annotations": ANY}}

KUEUE: dict[str, Any] = {
    "ResourceFlavor": OBJECT
    | {"spec": {"nodeLabels": ANY, "nodeTaints": [TAINT], "tolerations": [TOLERATION], "topologyName": ANY, "resourceWeights": ANY}},
    "ClusterQueue": OBJECT
    | {
        "spec": {
            "resourceGroups": [{"coveredResources": ANY, "flavors": [{"name": ANY, "resources": [QUOTA]}]}],
            "cohortName": ANY,
            "queueingStrategy": ANY,
            "namespaceSelector": LABEL_SELECTOR,
            "flavorFungibility": {"whenCanBorrow": ANY, "whenCanPreempt": ANY, "preference": ANY},
            "preemption": {
                "reclaimWithinCohort": ANY,
                "withinClusterQueue": ANY,
                "borrowWithinCohort": {"policy": ANY, "maxPriorityThreshold": ANY},
            },
            "admissionChecksStrategy": {"admissionChecks": [{"name": ANY, "onFlavors": ANY}]},
            "stopPolicy": ANY,
            "fairSharing": {"weight": ANY},
            "admissionScope": {"admissionMode": ANY},
        }
    },
    "LocalQueue": OBJECT | {"spec": {"clusterQueue": ANY, "stopPolicy": ANY, "fairSharing": {"weight": ANY}}},
}

IMAGE = {"repository": ANY, "tag": ANY, "digest": ANY, "pullPolicy": ANY}
ACCOUNT = {"create": ANY, "name": ANY, "annotations": ANY, "automountServiceAccountToken": ANY}
SECURITY = {"pod": KUBERNETES, "container": KUBERNETES}
SIDECAR = {"enabled": ANY, "resources": KUBERNETES, "retentionDays": ANY, "frequencyMinutes": ANY, "env": KUBERNETES}
PERSISTENCE = {"enabled": ANY, "size": ANY, "storageClassName": ANY, "annotations": ANY, "fixPermissions": ANY}
TLS_HOST = {"name": ANY, "tls": {"enabled": ANY, "secretName": ANY}}
INGRESS = {"enabled": ANY, "annotations": ANY, "path": ANY, "pathType": ANY, "hosts": [TLS_HOST], "ingressClassName": ANY}
COMPONENT: dict[str, Any] = {
    "enabled": ANY,
    "replicas": ANY,
    "revisionHistoryLimit": ANY,
    "command": ANY,
    "args": ANY,
    "env": KUBERNETES,
    "resources": KUBERNETES,
    "securityContexts": SECURITY,
    "serviceAccount": ACCOUNT,
    "podDisruptionBudget": {"enabled": ANY, "config": ANY},
    "terminationGracePeriodSeconds": ANY,
    "extraVolumes": KUBERNETES,
    "extraVolumeMounts": KUBERNETES,
    "nodeSelector": ANY,
    "affinity": ANY,
    "tolerations": ANY,
    "priorityClassName": ANY,
    "annotations": ANY,
    "podAnnotations": ANY,
    "labels": ANY,
    "livenessProbe": ANY,
    "startupProbe": ANY,
}
JOB = {
    key: COMPONENT[key]
    for key in ("enabled", "command", "args", "env", "resources", "securityContexts", "serviceAccount", "annotations", "labels")
} | {"useHelmHooks": ANY, "applyCustomEnv": ANY, "jobAnnotations": ANY, "ttlSecondsAfterFinished": ANY, "restartPolicy": ANY}
WITH_LOGS = COMPONENT | {"logGroomerSidecar": SIDECAR, "safeToEvict": ANY}

AIRFLOW_CHART: dict[str, Any] = {
    "airflowVersion": ANY,
    "defaultAirflowRepository": ANY,
    "defaultAirflowTag": ANY,
    "airflowHome": ANY,
    "images": {"airflow": IMAGE, "gitSync": IMAGE, "migrationsWaitTimeout": ANY, "useDefaultImageForMigration": ANY},
    "imagePullSecrets": ANY,
    "executor": ANY,
    "rbac": {"create": ANY, "createSCCRoleBinding": ANY},
    "allowPodLaunching": ANY,
    "multiNamespaceMode": ANY,
    "uid": ANY,
    "gid": ANY,
    "securityContexts": {"pod": KUBERNETES, "containers": KUBERNETES},
    "volumes": KUBERNETES,
    "volumeMounts": KUBERNETES,
    "env": KUBERNETES,
    "extraEnv": ANY,
    "extraEnvFrom": KUBERNETES,
    "dags": {
        "mountPath": ANY,
        "persistence": PERSISTENCE | {"accessMode": ANY, "existingClaim": ANY, "subPath": ANY},
        "gitSync": {
            "enabled": ANY,
            "repo": ANY,
            "ref": ANY,
            "depth": ANY,
            "maxFailures": ANY,
            "subPath": ANY,
            "credentialsSecret": ANY,
            "sshKeySecret": ANY,
            "knownHosts": ANY,
            "period": ANY,
            "uid": ANY,
            "env": KUBERNETES,
            "resources": KUBERNETES,
            "securityContexts": {"container": KUBERNETES},
        },
    },
    "fernetKeySecretName": ANY,
    "apiSecretKeySecretName": ANY,
    "jwtSecretName": ANY,
    "data": {"metadataSecretName": ANY, "resultBackendSecretName": ANY, "brokerUrlSecretName": ANY},
    "config": ANY,  # its sections and options are asked of the installed Airflow
    "scheduler": WITH_LOGS,
    "triggerer": WITH_LOGS | {"persistence": PERSISTENCE},
    "dagProcessor": WITH_LOGS,
    "apiServer": COMPONENT
    | {"allowPodLogReading": ANY, "service": ANY, "networkPolicy": ANY, "apiServerConfig": ANY, "apiServerConfigConfigMapName": ANY},
    "migrateDatabaseJob": JOB,
    "createUserJob": JOB,
    "workers": {"celery": {"persistence": PERSISTENCE, "replicas": ANY, "serviceAccount": ACCOUNT}},
    "postgresql": {"enabled": ANY},
    "pgbouncer": {"enabled": ANY},
    "redis": {"enabled": ANY},
    "flower": {"enabled": ANY},
    "statsd": {"enabled": ANY},
    "ingress": {"apiServer": INGRESS},
    "networkPolicies": {"enabled": ANY},
    "logs": {"persistence": PERSISTENCE | {"existingClaim": ANY, "subPath": ANY}, "emptyDirConfig": ANY},
    "databaseCleanup": {"enabled": ANY, "schedule": ANY, "retentionDays": ANY, "resources": KUBERNETES},
}


def unknown(found: Any, known: Any, where: str = "") -> list[str]:
    """Paths of keys that are on no list."""
    if known is ANY or known == KUBERNETES:
        return []
    if isinstance(known, list):
        assert isinstance(found, list), f"{where}: a list expected"
        return [path for number, item in enumerate(found) for path in unknown(item, known[0], f"{where}[{number}]")]
    assert isinstance(found, dict), f"{where}: keys expected"
    strange = [f"{where}.{key}".lstrip(".") for key in found if key not in known]
    return strange + [path for key in found if key in known for path in unknown(found[key], known[key], f"{where}.{key}")]
