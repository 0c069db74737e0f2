"""What one step hands to the next: a frozen dataclass for each arrow, written as `<step>.json` in the run's folder.

Paths are relative to the run's folder, so that a run can be moved as a whole. Knows nobody.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

SCHEMA = 1


@dataclass(frozen=True)
class Finding:
    """What was found of one thing that a run will need."""

    what: str
    level: Literal["ok", "warning", "fault"]
    """With a fault the run would fail; with a warning it may, or something is odd."""
    found: str
    remedy: str = ""
    passing: bool = False
    """Of a fault: whether it may pass by itself, as where a service does not answer."""


@dataclass(frozen=True)
class Preflight:
    """From `preflight`: what was found of all that the run will need; no faults, or the run would have stopped there."""

    step: ClassVar[str] = "preflight"
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class BaseModelFiles:
    """A base model on disk."""

    name: str
    revision: str
    """Commit on the Hub, or sha256 of the weights where there is none."""
    path: str
    """Folder with config, tokenizer and safetensors."""


@dataclass(frozen=True)
class SourceFile:
    """The data file, its bytes as they came."""

    origin: str
    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Download:
    """From `download`: the base model, and the data files where the run makes new data."""

    step: ClassVar[str] = "download"
    base_model: BaseModelFiles
    source: SourceFile | None
    test_source: SourceFile | None = None
    """The published test file, where the recipe names one."""


@dataclass(frozen=True)
class ValidRows:
    """From `validate`: the rows that the recipe's rules let through.

    The parquet file has the columns `line` (int, 1-based line in the source file) and, as the file gives them, `text` and what else
    the recipe names: `label`, `answer`, `rejected`, each field under its name, and `rule:COLUMN` for what the label rule reads (string).
    """

    step: ClassVar[str] = "validate"
    rows: str
    rejects: str
    """Folder with `rejects.csv` (file, line, reason) and `rejects.bin` (the raw bytes of those lines)."""
    report: str
    read: int
    valid: int
    rejected: dict[str, int]
    """Reason to number of rows."""
    test_rows: str | None = None
    """The rows of the published test file, likewise; `read`, `valid` and `rejected` count both files."""


FileName = Literal["data", "test"]
"""Which of a recipe's files: the data file, or the published test file."""


@dataclass(frozen=True)
class Part:
    """One part of a data set.

    The parquet file has the columns `row` (int, line in the source file); where the recipe names a published test file, `file` (which
    of the two, a FileName); `text`; where the recipe has labels, `label` (string, one of its names; several, where its kind allows
    them, in its order and joined by `|`); where it names answers, `answer` and `rejected` (string, empty where there is none); and
    one for each of its fields.
    """

    path: str
    rows: int
    labels: dict[str, int]
    """Label to the number of rows that have it."""


PartName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class DatasetParts:
    """From `split`: the parts, and what became of the other rows. A part without rows is left out."""

    step: ClassVar[str] = "split"
    folder: str
    parts: dict[PartName, Part]
    dropped: dict[str, int]
    """Reason (duplicate, contradiction, balance, leak, no label, …) to number of rows."""
    copies: int = 0
    """Rows of the training part that stand there once more, to balance it."""


@dataclass(frozen=True)
class DatasetVersion:
    """From `version`: the data set as DVC keeps it, and its parts in this run's folder."""

    step: ClassVar[str] = "version"
    tag: str
    """Git tag, data/<recipe>/v<N>."""
    number: int
    created: bool
    """Whether this run made the version; False where the data were unchanged or an older version was asked for."""
    data_hash: str
    """DVC's hash of the recipe's own data folder (md5 of its listing, ending in .dir)."""
    git_commit: str
    repository: str
    parts: dict[PartName, Part]
    matches_pin: bool | None = None
    """Whether the data are bit by bit what `data.dvc` of this checkout pins; None where it pins no data of this recipe."""


@dataclass(frozen=True)
class TrackedRun:
    """The MLflow run that a loraflow run writes to."""

    run_id: str
    experiment_id: str
    url: str


@dataclass(frozen=True)
class Emissions:
    """What a training spent, all its attempts together."""

    energy_kwh: float
    """Of the whole machine."""
    co2eq_kg: float
    intensity_kg_per_kwh: float
    """CO2 equivalent of the electricity."""
    electricity_of: str
    """Three-letter code of the country, or `world average`."""
    processor_measured: bool
    """Whether the processor's energy was read from its counters; otherwise estimated by nominal power and load."""
    attempts: int
    """More than one: an attempt that was killed counts up to its last checkpoint only."""


@dataclass(frozen=True)
class Adapter:
    """From `train`: the LoRA adapter as PEFT saves it."""

    step: ClassVar[str] = "train"
    path: str
    tracked: TrackedRun
    rows: int
    steps: int
    epochs: float
    final_loss: float
    """Mean loss over the last logged steps, nats a token."""
    trainable_parameters: int
    all_parameters: int
    cut_rows: int
    """Rows whose text was cut to fit max_tokens."""
    seconds: float
    resumed_from_step: int
    """0 where the training began afresh."""
    emissions: Emissions | None = None
    """None for a training that was not metered."""
    left_out_rows: int = 0
    """Rows not trained on, since their answer leaves their text too little room in max_tokens."""
    halvings: int = 0
    """How often the batch of a forward pass was halved for want of memory; the rows of a step are the recipe's."""
    rows_file: str | None = None
    """Parquet, a line for each row of the data set that was trained on: `row` and `file`, as in the data set's parts (`file` is `data`
    where there is one file); `cut`, whether its text was cut; `times`, how often it is among the rows of an epoch; `passes`, how often
    the training passed over it. None for an adapter of before there was one."""


@dataclass(frozen=True)
class MergedModel:
    """From `merge`: the base with the adapter in it, as a user loads it."""

    step: ClassVar[str] = "merge"
    path: str
    dtype: str
    merged_weights: int
    """How many of the base's weight matrices the adapter changed."""


@dataclass(frozen=True)
class Score:
    """One metric with its bootstrap interval."""

    value: float
    low: float
    high: float


Scores = dict[str, Score]


@dataclass(frozen=True)
class Parity:
    """Merged model against its adapter on a base, on sampled rows."""

    rows: int
    same_labels: int
    """Rows of which both say the same; for a kind without labels, rows whose answers both find as probable."""
    largest_difference: float
    """Largest absolute difference of a score, or of a mean log-probability, nats a token."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a challenger."""

    passed: bool
    reasons: tuple[str, ...]
    """A line for each check, held or broken, with its figures."""


@dataclass(frozen=True)
class Evaluation:
    """From `evaluate`: the evidence on the test part, and the gate's verdict."""

    step: ClassVar[str] = "evaluate"
    rows: int
    tuned: Scores
    base: Scores
    majority: Scores | None
    """None for a kind without labels."""
    champion: Scores | None
    champion_version: int | None
    parity: Parity
    """On the unquantised base, which the merged model is made of: the gate asks for all rows."""
    verdict: Verdict
    predictions: str
    """Parquet: row, with two data files file, and of truth and each model a column for each thing said."""
    figures: dict[str, str]
    """Title to picture file."""
    report: str
    """HTML page that reads offline."""
    left_out_rows: int = 0
    """Test rows not scored, since an answer leaves their text too little room in max_tokens."""
    quantized: Parity | None = None
    """On the quantised base, which the adapter was trained on: reported, and no more. None where the base is not quantised."""


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


@dataclass(frozen=True)
class Trial:
    """One training of a sweep."""

    name: str
    rows: int
    """Of the training part."""
    seed: int
    epochs: tuple[int, ...]
    """After how many epochs it is scored, rising; it ends with the last."""


@dataclass(frozen=True)
class Plan:
    """From `plan`: the trainings that the grid of a sweep asks for."""

    step: ClassVar[str] = "plan"
    trials: tuple[Trial, ...]
    tracked: TrackedRun
    """The sweep's MLflow run; the trials' runs are its children."""

    @property
    def parts(self) -> list[str]:
        """Names of the trials, each a part of the step `trial`."""
        return [trial.name for trial in self.trials]


@dataclass(frozen=True)
class Point:
    """One point of a sweep's grid: a training after some epochs, on the test part."""

    epochs: int
    scores: Scores
    tracked: TrackedRun


@dataclass(frozen=True)
class TrialScores:
    """From `trial`: how one training of a sweep scores after each of its numbers of epochs."""

    step: ClassVar[str] = "trial"
    trial: Trial
    tracked: TrackedRun
    points: tuple[Point, ...]
    test_rows: int
    steps: int
    seconds: float
    """Of the attempt that ended it."""
    emissions: Emissions
    rows_file: str | None = None
    """The rows that it trained on, as an adapter's."""


@dataclass(frozen=True)
class Comparison:
    """From `compare`: the grid of a sweep as table and pictures."""

    step: ClassVar[str] = "compare"
    table: str
    """Markdown: a line for each size, a column for each number of epochs."""
    points: str
    """CSV: a line for each point."""
    figures: dict[str, str]
    """Title to picture file."""


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
"""The steps of a sweep, likewise; `trial` is taken once for each trial of the plan."""

CONTRACTS: dict[str, type[Manifest]] = {contract.step: contract for contract in get_args(Manifest) if contract is not Approval}
"""Every step to its contract."""
