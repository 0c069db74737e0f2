"""The pod of a step, as plain Kubernetes JSON: made from the frozen recipe and the settings, and from nothing else.

Its name follows from run, step and part. So the API server itself refuses a second pod beside the first, whoever asks for it, and
whoever comes later (another try, another worker) finds the one that runs.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.schema.pods import GPU, amount
from tasks.schema.recipe import Recipe
from tasks.settings import TELEMETRY_OFF, Settings

CONTAINER = "step"
SCRATCH = "/scratch"

PASSED_ON = (
    "runner", "runs", "data_repo", "dvc_remote", "hub", "mlflow_uri", "mlflow_ui", "country_iso_code", "allowed_hosts",
)  # fmt: skip
"""Settings of Airflow's side that a step in a pod heeds as well. Secrets are none of them: they come by `LORAFLOW_POD_SECRETS`."""

USER = 1000
QUEUE = "kueue.x-k8s.io/queue-name"

Json = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What a pod is to do.

    Attributes:
        recipe: the frozen one.
        uri: where the run lives, as the step's `--run` takes it.
        run: name of the run's folder.
    """

    recipe: Recipe
    uri: str
    run: str
    step: str
    generation: int
    part: str = ""

    @property
    def pod_name(self) -> str:
        """The one name of a pod for this part of this run's step, in any generation."""
        key = hashlib.sha256("\n".join((self.uri, self.step, self.part)).encode()).hexdigest()[:10]
        readable = "-".join(filter(None, (self.recipe.name, self.step, self.part))).replace("_", "-")
        return f"{readable[:52].strip('-')}-{key}"

    @property
    def command(self) -> list[str]:
        """The step's command, the same as by hand."""
        argv = ["python", "-m", "tasks", self.step, "--run", _literal(self.uri), "--generation", str(self.generation)]
        return [*argv, "--part", self.part] if self.part else argv

    @property
    def gpus(self) -> int:
        """How many GPUs the pod asks for."""
        return self.recipe.pods.gpus_of(self.step, self.recipe.train.gpus)


def labels(work: Work) -> dict[str, str]:
    """Labels that find the pods of a recipe, a run, a step."""
    from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value  # slow to import

    found = {
        "app.kubernetes.io/name": "loraflow-step",
        "app.kubernetes.io/part-of": "loraflow",
        "loraflow/recipe": work.recipe.name,
        "loraflow/run": make_safe_label_value(work.run),
        "loraflow/step": work.step,
        "loraflow/generation": str(work.generation),
    }
    return found | ({"loraflow/part": make_safe_label_value(work.part)} if work.part else {})


def pod(work: Work, settings: Settings) -> Json:
    """The pod as the API is asked for it."""
    pods = work.recipe.pods
    queue = pods.queue or settings.kueue_queue
    spec = {
        "restartPolicy": "Never",
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a service named loraflow-mlflow would set LORAFLOW_MLFLOW_PORT, which is a setting
        "activeDeadlineSeconds": round(pods.deadline_hours * 3600),
        "terminationGracePeriodSeconds": pods.grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(work, settings)],
        "volumes": _volumes(work, settings),
    }
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if work.gpus:
        spec["nodeSelector"] = dict(pods.node_selector)
        spec["tolerations"] = [toleration.model_dump(exclude_none=True) for toleration in pods.tolerations]
    found = labels(work) | ({QUEUE: queue} if queue else {})
    metadata = {"name": work.pod_name, "namespace": settings.namespace, "labels": found}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def image(work: Work, settings: Settings) -> str:
    """The image of the pod; `missing_for_pods` has told where there is none."""
    return (work.gpus and settings.gpu_image) or settings.image or ""


def _container(work: Work, settings: Settings) -> Json:
    asked = resources(work)
    return {
        "name": CONTAINER,
        "image": image(work, settings),
        "command": work.command,
        "env": [{"name": name, "value": value} for name, value in environment(work, settings).items()],
        "envFrom": [
            *({"configMapRef": {"name": name}} for name in settings.pod_config_maps),
            *({"secretRef": {"name": name}} for name in settings.pod_secrets),
        ],
        "resources": {"requests": asked, "limits": asked},
        "terminationMessagePolicy": "FallbackToLogsOnError",  # so a fault's words outlive the log
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _mounts(work, settings),
    }


def resources(work: Work) -> dict[str, str]:
    """What the pod asks for and may use at most."""
    asked = work.recipe.pods.resources_of(work.step)
    found = {"cpu": asked.cpu, "memory": asked.memory, "ephemeral-storage": asked.ephemeral_storage}
    return found | ({GPU: str(work.gpus)} if work.gpus else {})


def environment(work: Work, settings: Settings) -> dict[str, str]:
    """Plain environment of the step; it goes before what ConfigMaps and secrets bring."""
    passed = {f"LORAFLOW_{name.upper()}": _literal(getattr(settings, name)) for name in PASSED_ON if getattr(settings, name)}
    processes = max(1, work.gpus)
    return {
        "LORAFLOW_HOME": SCRATCH,
        "HOME": f"{SCRATCH}/home",
        "TMPDIR": f"{SCRATCH}/tmp",  # noqa: S108
        "LORAFLOW_IMAGE": image(work, settings),
        "OMP_NUM_THREADS": str(max(1, _cores(work) // processes)),  # else one for each core of the node, however few the pod has
        "PYTHONUNBUFFERED": "1",
        **TELEMETRY_OFF,
        **passed,
    }


def _literal(value: Any) -> str:
    """A value as a pod's spec holds it, where $(NAME) means a variable unless its $ is doubled."""
    return (",".join(value) if isinstance(value, tuple) else str(value)).replace("$(", "$$(")


def _cores(work: Work) -> int:
    """Whole processor cores of the pod."""
    return int(amount(work.recipe.pods.resources_of(work.step).cpu))


def _volumes(work: Work, settings: Settings) -> list[Json]:
    storage = work.recipe.pods.resources_of(work.step).ephemeral_storage
    found: list[Json] = [{"name": "scratch", "emptyDir": {"sizeLimit": storage}}]
    if work.gpus > 1:  # GPUs of one pod talk through shared memory, of which a container has 64 MiB otherwise
        found.append({"name": "shared-memory", "emptyDir": {"medium": "Memory"}})
    if _on_volume(settings):
        found.append({"name": "runs", "persistentVolumeClaim": {"claimName": settings.volume_claim}})
    return found


def _mounts(work: Work, settings: Settings) -> list[Json]:
    found = [{"name": "scratch", "mountPath": SCRATCH}]
    if work.gpus > 1:
        found.append({"name": "shared-memory", "mountPath": "/dev/shm"})  # noqa: S108
    if _on_volume(settings):
        found.append({"name": "runs", "mountPath": str(settings.runs)})
    return found


def _on_volume(settings: Settings) -> bool:
    return bool(settings.volume_claim) and isinstance(settings.runs, Path)
