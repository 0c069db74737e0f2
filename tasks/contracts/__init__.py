"""What one step hands to the next: a frozen dataclass for each arrow, written as `<step>.json` in the run's folder.

Paths are relative to the run's folder, so that a run can be moved as a whole. Imports nothing else of the project.
"""

from typing import get_args

from tasks.contracts.data import (
    BaseModelFiles,
    DatasetParts,
    DatasetVersion,
    Download,
    FileName,
    Finding,
    Part,
    PartName,
    Preflight,
    SourceFile,
    ValidRows,
)
from tasks.contracts.evaluation import Evaluation, Parity, Score, Scores, Verdict
from tasks.contracts.registry import Approval, Promotion, Publication, RegisteredVersion
from tasks.contracts.sweep import Comparison, Plan, Point, Trial, TrialScores
from tasks.contracts.training import Adapter, Emissions, MergedModel, TrackedRun

__all__ = [
    "CONTRACTS", "FORMER_STEPS", "SCHEMA", "STEPS", "SWEEP_STEPS", "Adapter", "Approval", "BaseModelFiles", "Comparison", "DatasetParts",
    "DatasetVersion", "Download", "Emissions", "Evaluation", "FileName", "Finding", "Manifest", "MergedModel", "Parity", "Part",
    "PartName", "Plan", "Point", "Preflight", "Promotion", "Publication", "RegisteredVersion", "Score", "Scores", "SourceFile",
    "TrackedRun", "Trial", "TrialScores", "ValidRows", "Verdict",
]  # fmt: skip

SCHEMA = 1

Manifest = (
    Preflight
    | Download
    | ValidRows
    | DatasetParts
    | DatasetVersion
    | Adapter
    | MergedModel
    | Evaluation
    | RegisteredVersion
    | Approval
    | Promotion
    | Publication
    | Plan
    | TrialScores
    | Comparison
)

STEPS = (
    Preflight.step, Download.step, ValidRows.step, DatasetParts.step, DatasetVersion.step, Adapter.step, MergedModel.step,
    Evaluation.step, RegisteredVersion.step, Promotion.step, Publication.step,
)  # fmt: skip
"""The steps of a retraining, in the order of the arrows."""

SWEEP_STEPS = (*STEPS[: STEPS.index(DatasetVersion.step) + 1], Plan.step, TrialScores.step, Comparison.step)
"""The steps of a sweep, likewise; `sweep_trial` is done once for each trial of the plan."""

FORMER_STEPS = {Plan.step: "plan", TrialScores.step: "trial", Comparison.step: "compare"}
"""Steps to the names that they had before; recipes and the command line still take them, with a warning."""

CONTRACTS: dict[str, type[Manifest]] = {contract.step: contract for contract in get_args(Manifest) if contract is not Approval}
"""Every step to its contract."""
