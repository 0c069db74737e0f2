"""From `preflight`, `download`, `validate`, `split` and `version`: the base model, and the rows on their way to a data set version."""

from dataclasses import dataclass
from typing import ClassVar, Literal


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
