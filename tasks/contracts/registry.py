"""From `register`, `approve`, `promote` and `push`: the model version, and what became of it."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass(frozen=True)
class RegisteredVersion:
    """From `register`: the model version in MLflow's registry."""

    step: ClassVar[str] = "register"
    name: str
    version: int
    uri: str
    url: str
    tags: dict[str, str] = field(default_factory=dict)
    """Lineage: data, code, recipe, base model, libraries."""


@dataclass(frozen=True)
class Approval:
    """From the approval in Airflow: what the reviewer said. No step of the pipeline; `approve.json`."""

    step: ClassVar[str] = "approve"
    approved: bool
    by: str
    reason: str


@dataclass(frozen=True)
class Promotion:
    """From `promote`: whether the version became the champion."""

    step: ClassVar[str] = "promote"
    promoted: bool
    policy: Literal["auto", "manual", "never"]
    version: int
    predecessor: int | None
    reason: str


@dataclass(frozen=True)
class Publication:
    """From `push`: where the promoted model was published."""

    step: ClassVar[str] = "push"
    adapter: str
    model: str
    model_card: str
