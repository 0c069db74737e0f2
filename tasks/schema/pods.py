"""What a recipe may say of its pods: what a step asks of a Kubernetes cluster. Heeded by the runner `kubernetes` alone."""

import difflib
import re
import warnings
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from tasks.contracts import CONTRACTS, FORMER_STEPS
from tasks.errors import explain
from tasks.schema.section import Section

StepName = Annotated[str, Field(pattern=r"^[a-z_]+$")]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|[MGT]i?)?$", max_length=20)]
Cores = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?m?$", max_length=20)]
GPU = "nvidia.com/gpu"
"""What Kubernetes calls a GPU, as a resource."""

TRAININGS = ("train", "sweep_trial")
"""Steps that train, and so take all the GPUs of the recipe."""

LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


class Resources(Section):
    """What a pod asks for; requests and limits are the same, so that a pod is evicted last."""

    cpu: Cores = Field("1", description="Processor cores of a step's pod.")
    memory: Quantity = Field("4Gi", description="Memory of a step's pod.")
    ephemeral_storage: Quantity = Field("10Gi", description="Scratch disk of a step's pod: base model, outputs, checkpoints.")


class Toleration(Section):
    """A taint that a pod may run beside, as Kubernetes has it."""

    key: str | None = Field(None, description="Key of a taint that a GPU pod tolerates; without one every taint.")
    operator: Literal["Exists", "Equal"] = Field("Exists", description="Whether the taint's value counts.")
    value: str | None = Field(None, description="The taint's value, with Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(None, description="Which effect; without one each.")


class Pods(Section):
    """Where the steps run under `LORAFLOW_RUNNER=kubernetes`, and what they ask for."""

    steps: Literal["all"] | tuple[StepName, ...] = Field(
        "all", description="Steps that run as pods; the others stay processes beside Airflow, whose image then needs what they import."
    )
    resources: Resources = Resources()
    step_resources: dict[StepName, Resources] = Field({}, description="Step to what its pod asks for in place of `pods.resources`.")
    gpu_steps: tuple[StepName, ...] = Field(
        (), description="Steps whose pod asks for GPUs: train for `train.gpus` of them, others for one."
    )
    node_selector: dict[str, str] = Field({}, description="Labels of the nodes that GPU pods run on.")
    tolerations: tuple[Toleration, ...] = Field((), max_length=20)
    deadline_hours: float = Field(24.0, gt=0, le=720, description="Longest run time of one pod; then the cluster ends it.")
    schedule_minutes: float = Field(60.0, gt=0, le=10080, description="Longest wait of a pod for a node, a queue included.")
    start_minutes: float = Field(20.0, gt=0, le=1440, description="Longest time from a node to the first process: images are pulled in it.")
    grace_seconds: int = Field(
        60, ge=5, le=3600, description="Time between a pod's SIGTERM and its end, in which a training saves its last checkpoint."
    )
    queue: str | None = Field(
        None,
        pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$",
        description="Kueue's local queue that pods wait in. Default: LORAFLOW_KUEUE_QUEUE.",
    )

    def _problems(self) -> Iterator[str]:
        for key in ("steps", "step_resources", "gpu_steps"):
            named = getattr(self, key)
            for step in () if named == "all" else named:
                if step in FORMER_STEPS.values():
                    (now,) = (name for name, former in FORMER_STEPS.items() if former == step)
                    warnings.warn(
                        f"pods.{key}: {step} is now {now}, and the former name will go. Fix: write {now}", UserWarning, stacklevel=2
                    )
                elif step not in CONTRACTS:
                    near = difflib.get_close_matches(step, CONTRACTS, n=1)
                    remedy = f"did you mean {near[0]}?" if near else f"one of: {', '.join(CONTRACTS)}"
                    yield explain(f"{key} holds {step}", "the name of a step", f"{remedy}")
        if "preflight" in self.gpu_steps:
            yield explain("gpu_steps holds preflight, which looks whether a GPU is worth asking for", fix="remove it")
        for key, value in self.node_selector.items():
            if not LABEL.fullmatch(value) or not LABEL.fullmatch(key.rpartition("/")[2]) or not key:
                yield explain(f"node_selector holds {key}: {value!r:.80}", "a label of Kubernetes", "correct it")

    def take(self, step: str) -> bool:
        """Whether a step runs as a pod, where the runner has pods."""
        return self.steps == "all" or not _names(step).isdisjoint(self.steps)

    def gpus_of(self, step: str, training: int) -> int:
        """How many GPUs the pod of a step asks for; `training` is `train.gpus`."""
        if _names(step).isdisjoint(self.gpu_steps):
            return 0
        return training if step in TRAININGS else 1

    def resources_of(self, step: str) -> Resources:
        """What the pod of a step asks for."""
        return next((found for name, found in self.step_resources.items() if name in _names(step)), self.resources)


def _names(step: str) -> set[str]:
    """A step's name, and the one that it had before."""
    return {step, FORMER_STEPS.get(step, step)}


def amount(quantity: str) -> float:
    """A quantity of Kubernetes (4Gi, 500M, 250m) as a number: bytes, or cores."""
    number, unit = quantity.rstrip("mkKMGTi"), quantity.lstrip("0123456789.")
    if unit in ("", "m"):
        return float(number) / (1000 if unit else 1)
    power = "KMGT".index(unit[0].upper()) + 1
    return float(number) * float((1024 if unit.endswith("i") else 1000) ** power)
