"""What a recipe may hold: the schema, each key with its bounds and help text; the trigger form and the reference are made of it.

Keys under `lora` and `train` are the argument names of PEFT and transformers; those of the data stand in `data_schema`
and `label_schema`.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import chain
from string import Formatter
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, model_validator

from tasks.data_schema import PACKAGE, REPOSITORY, Data, Name, Split, Validate
from tasks.label_schema import Labels, MarkedColumns
from tasks.pod_schema import Pods
from tasks.section import Section
from tasks.sweep_schema import Sweep

METRICS = {
    "label_scoring": ("macro_f1", "accuracy", "roc_auc", "f1"),
    "label_generation": ("micro_f1", "macro_f1", "lrap", "exact_match", "parsed"),
    "chat": ("log_likelihood", "preference_accuracy", "refusal_or_safe"),
    "structured_generation": ("macro_f1", "accuracy", "parsed", "chrf", "log_likelihood"),
    "sequence_classification": ("weighted_f1", "weighted_precision", "weighted_recall", "macro_f1", "accuracy", "roc_auc", "f1"),
}
"""Kind to the metrics that it reports, higher is better; f1 only with two labels."""


MULTI_LABEL: frozenset[str] = frozenset({"label_generation"})
"""Kinds whose rows may have several labels."""

LABEL_SEPARATOR = "|"
"""Between the labels of a row in the data set's label column."""


class Licence(Section):
    """What may be done with the data and the base model."""

    data: str = Field(description="Licence of the data: redistribution and commercial use.")
    base_model: str = Field(description="Licence of the base model.")


class Quantization(Section):
    """transformers' BitsAndBytesConfig: how `train` packs the base model; every other step has it unquantised."""

    load_in_4bit: bool = Field(False, description="Pack the base's linear layers into 4 bits while the adapter is trained.")
    load_in_8bit: bool = Field(False, description="Pack them into 8 bits.")
    bnb_4bit_quant_type: Literal["fp4", "nf4"] = Field("fp4", description="4-bit numbers: floating point, or quantiles of a normal curve.")
    bnb_4bit_use_double_quant: bool = Field(False, description="Quantise the 4-bit blocks' scales as well.")
    bnb_4bit_compute_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Numbers that 4-bit weights are unpacked to for computing."
    )
    bnb_4bit_quant_storage: Literal["uint8", "float32", "bfloat16", "float16"] = Field(
        "uint8", description="Type of the tensors that hold 4-bit weights."
    )

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        if self.load_in_4bit == self.load_in_8bit:
            found = "both" if self.load_in_4bit else "neither"
            raise ValueError(f"{found} of load_in_4bit and load_in_8bit is true, exactly one expected; set one")
        fields = {key: field for key, field in type(self).model_fields.items() if key.startswith("bnb_4bit")}
        given = [key for key, field in fields.items() if getattr(self, key) != field.default]
        if self.load_in_8bit and given:
            raise ValueError(f"{given[0]} is given with load_in_8bit, load_in_4bit expected with it; remove it")
        return self


class BaseModelChoice(Section):
    """The model that the adapter is trained on."""

    name: str = Field(
        min_length=1,
        max_length=300,
        pattern=f"^(pypi:{PACKAGE}|folder:/.*|{REPOSITORY})$",
        description="Hub id (owner/name), pypi:PACKAGE==VERSION (a GGUF in a package), or folder:/ABSOLUTE/PATH.",
    )
    revision: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$",
        description="Commit or tag on the Hub; without one the present head, recorded.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Numbers to compute in; auto: bfloat16 where the device is fast in it, otherwise float32."
    )
    quantization: Quantization | None = Field(None, description="Bits of the base model while it is trained on; without it unquantised.")


class Prompt(Section):
    """How a row becomes a prompt and its answer."""

    template: str = Field(
        "",
        description="The prompt, with {text} where the row's text goes and {labels} for the list of labels. A chat has a chat template.",
    )
    answer: str = Field(
        "",
        description="The answer, with {label}, or for label generation {labels}, one a line; the end token follows by itself. A "
        "classification head and a chat need none.",
    )
    stop: str | None = Field(None, min_length=1, description="Token that ends a structured answer, in place of the end token.")
    new_tokens: tuple[str, ...] = Field((), description="Special tokens that the base model does not know: each gets a row of its own.")
    max_tokens: int = Field(ge=8, le=8192, description="Longest prompt with answer, tokens; the text is cut to fit, the answer never.")

    chat_template: str | None = Field(None, description="Jinja template of a conversation's turns, in place of the tokenizer's own.")
    system: str | None = Field(None, min_length=1, description="What the system's turn says, before the others; empty: there is none.")
    cut: Literal["start", "end"] = Field(
        "end", description="Which side of a chat's text is cut where it is too long; a dialogue loses its oldest turns first."
    )

    @model_validator(mode="after")
    def _fields(self) -> Self:
        if self.template and self.template.count("{text}") != 1:
            raise ValueError(f"template holds {{text}} {self.template.count('{text}')} times, once expected; mark the text's place")
        places = self.answer.count("{label}") + self.answer.count("{labels}")
        if self.answer and places != 1:
            raise ValueError(f"answer holds {{label}} {places} times, once expected; mark the label's place")
        return self


class Lora(Section):
    """PEFT's LoraConfig."""

    r: int = Field(ge=1, le=1024, description="Rank of the adapter.")
    lora_alpha: int = Field(ge=1, le=4096, description="Scaling: the update is multiplied by lora_alpha / r.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in the adapter.")
    target_modules: tuple[str, ...] | Literal["all-linear"] = Field(description="Layers that get an adapter.")
    bias: Literal["none", "all", "lora_only"] = Field("none", description="Which biases are trained.")
    train_new_tokens: bool = Field(
        True, description="Whether the embedding rows of prompt.new_tokens are trained; otherwise they stay as they were drawn."
    )

    @model_validator(mode="after")
    def _targets(self) -> Self:
        if not self.target_modules:
            raise ValueError("target_modules is empty, names of layers or all-linear expected; name some")
        return self


class Train(Section):
    """transformers' TrainingArguments, and the two keys that say what is learned from."""

    rows: int | None = Field(None, ge=1, description="Training rows to use, drawn with the seed, balance kept; empty: all.")
    loss_on: Literal["labels", "answer", "sequence"] = Field(
        "answer",
        description="Which tokens carry loss: the answer and its end token; with `labels` the label's token competes with the "
        "other labels' alone, as in scoring; with `sequence` the prompt too.",
    )
    loss_on_end: bool = Field(True, description="Whether the end token carries loss; without it a model does not learn to stop.")
    num_train_epochs: float = Field(1.0, gt=0, le=1000, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, le=10_000_000, description="Optimiser steps; where given it replaces the epochs.")
    learning_rate: float = Field(gt=0, le=1, description="Peak learning rate.")
    lr_scheduler_type: Literal["linear", "constant", "cosine"] = Field("linear", description="Schedule of the learning rate.")
    warmup_steps: int = Field(0, ge=0, description="Steps of rising learning rate.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradient clipping; 0 switches it off.")
    per_device_train_batch_size: int = Field(ge=1, le=4096, description="Rows a forward pass.")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Forward passes a step.")
    optim: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "adamw_torch", description="Optimiser; those in 8 bits, the second with states that may leave the GPU, are bitsandbytes'."
    )
    fp16: bool = Field(False, description="Mixed precision in float16 with loss scaling; needs a GPU.")
    train_sampling_strategy: Literal["random", "group_by_length"] = Field(
        "random", description="Order of rows; group_by_length spends less on padding."
    )
    class_weights: Literal["auto"] | tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None,
        description="With a classification head: weight of each label's rows in the loss, in the labels' order; auto: inverse frequency in "
        "the training part, their mean 1.",
    )
    eval_strategy: Literal["no", "epoch", "steps"] = Field("no", description="When the validation part is scored during the training.")
    eval_steps: int | None = Field(None, ge=1, description="With eval_strategy steps: steps between evaluations.")
    metric_for_best_model: str | None = Field(
        None, description="Keep the checkpoint whose evaluation is best by it: loss, or with a classification head a metric of the kind."
    )
    activation_checkpointing: bool = Field(False, description="Recompute activations to save memory.")
    save_steps: int = Field(50, ge=1, description="Steps between checkpoints.")
    logging_steps: int = Field(5, ge=1, description="Steps between logged metrics.")
    seed: int = Field(ge=0, le=2**31 - 1, description="Seed of the adapter's start, the drawn rows and their order.")
    gpus: int = Field(
        1,
        ge=1,
        le=16,
        description="GPUs of one machine that train together, each a batch of its own: a step takes per_device_train_batch_size x "
        "gradient_accumulation_steps x gpus rows. On a processor so many processes.",
    )


class Evaluate(Section):
    """How the models are scored."""

    batch_size: int = Field(16, ge=1, description="Rows a forward pass.")
    parity_rows: int = Field(64, ge=1, description="Rows on which merged model and adapter must agree.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the bootstrap intervals.")
    resamples: int = Field(1000, ge=100, description="Bootstrap resamples.")
    samples: int = Field(32, ge=1, description="Test rows, the same for all models, that a chat model answers in the report.")
    max_new_tokens: int = Field(128, ge=1, le=4096, description="Longest written answer, tokens.")
    label_score: Literal["token", "log_probability"] = Field(
        "token",
        description="With label scoring, what a label's score is the softmax of: the next-token logit of its one token; or the summed "
        "log-probability of its whole answer, any number of tokens, its end among them where one label's answer begins another's.",
    )
    decoding: Literal["free", "constrained"] = Field(
        "free", description="With label generation: any token may be written, or only what spells labels in the answer's form."
    )


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
        pattern=r"^(new|latest|v[1-9][0-9]{0,8})$",
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
    kind: Literal["label_scoring", "label_generation", "chat", "sequence_classification", "structured_generation"] = Field(
        description="Kind of task, a file in tasks/kinds."
    )
    title: str = Field(description="One line for lists.")
    description: str = Field(description="What it is for, as the DAG's page and the model card show it.")
    language: str = Field(pattern=r"^[a-z]{2,3}$", description="Language of the texts, ISO 639.")
    licence: Licence
    as_published: bool = Field(False, description="Lay the recipe's `published` keys over it: the choices of the published card.")
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
    sweep: Sweep | None = None
    pods: Pods = Pods()
    run: RunOptions = RunOptions()

    @model_validator(mode="after")
    def _known_metrics(self) -> Self:
        known = [name for name in METRICS[self.kind] if name != "f1" or self.labels.positive is not None]
        named = {"gate": (self.gate.metric, *self.gate.floors), "sweep": self.sweep.metrics if self.sweep else ()}
        for section, names in named.items():
            if bad := [name for name in names if name not in known]:
                raise ValueError(f"{section} names the metric {bad[0]!r}, one of {', '.join(known)} expected; correct the name")
        return self

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several labels; they are joined by `LABEL_SEPARATOR` in the parts."""
        return self.kind in MULTI_LABEL

    @model_validator(mode="after")
    def _data_and_labels_fit(self) -> Self:
        if found := next(chain(_misfits(self), _training_misfits(self)), None):
            raise ValueError(found)
        return self

    @model_validator(mode="after")
    def _rows_of_every_label(self) -> Self:
        if self.train.rows is not None and self.train.rows < len(self.labels.names):
            raise ValueError(f"train.rows is {self.train.rows} with {len(self.labels.names)} labels, a row of each expected; use more rows")
        if self.sweep and min(self.sweep.rows) < len(self.labels.names):
            raise ValueError(
                f"sweep.rows holds {min(self.sweep.rows)} with {len(self.labels.names)} labels, a row of each expected; use more rows"
            )
        if self.sweep and self.train.seed in self.sweep.repeat_seeds:
            raise ValueError(f"sweep.repeat_seeds holds train.seed {self.train.seed}, further seeds expected; remove it")
        return self

    def dump(self) -> str:
        """YAML of the whole recipe, with every default written out."""
        document = self.model_dump(mode="json", by_alias=True)
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)

    def sha256(self) -> str:
        """Hash of everything that the model depends on: all but `run`, `sweep`, `pods` and the texts."""
        kept = self.model_dump(mode="json", by_alias=True, exclude={"run", "sweep", "pods", "title", "description", "licence"})
        return hashlib.sha256(json.dumps(kept, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _training_misfits(recipe: Recipe) -> Iterator[str]:
    """What does not fit between kind, prompt and training."""
    train, head = recipe.train, recipe.kind == "sequence_classification"
    if head and recipe.prompt.answer:
        yield "prompt.answer is given with a classification head, which needs none; remove it"
    if recipe.kind == "structured_generation":
        yield from _structure_misfits(recipe)
    elif recipe.prompt.stop or recipe.prompt.new_tokens:
        yield f"prompt.stop or new_tokens is given with {recipe.kind}, structured_generation expected with it; remove it"
    yield from _answer_misfits(recipe)
    if recipe.kind == "chat":
        yield from _chat_misfits(recipe)
    elif recipe.prompt.chat_template or recipe.prompt.system or recipe.prompt.cut != "end":
        yield f"prompt.chat_template, system or cut is given with {recipe.kind}, which has no turns; remove it"
    elif not recipe.prompt.template:
        yield f"prompt.template is missing, the prompt of {recipe.kind} expected; add it"
    elif not head and not recipe.prompt.answer:
        yield f"prompt.answer is missing, the answer of {recipe.kind} expected; add it"
    if head and train.loss_on != "answer":
        yield f"train.loss_on is {train.loss_on} with a classification head, answer expected; remove it"
    if train.class_weights and not head:
        yield f"train.class_weights is given with {recipe.kind}, a classification head expected; use split.balance, or remove it"
    if isinstance(train.class_weights, tuple) and len(train.class_weights) != len(recipe.labels.names):
        yield f"train.class_weights has {len(train.class_weights)} weights, {len(recipe.labels.names)} expected, one a label; correct it"
    if train.eval_strategy != "no" and not recipe.split.validation:
        yield "train.eval_strategy asks for a validation part, split.validation above 0 expected; enlarge it"
    if (train.eval_strategy == "steps") != (train.eval_steps is not None):
        yield "train.eval_strategy steps and train.eval_steps go together; give both or neither"
    known = ("loss", *METRICS[recipe.kind]) if head else ("loss",)
    if train.metric_for_best_model and (train.eval_strategy == "no" or train.metric_for_best_model not in known):
        yield f"train.metric_for_best_model is {train.metric_for_best_model!r}, one of {', '.join(known)} with an eval_strategy expected"


def _answer_misfits(recipe: Recipe) -> Iterator[str]:
    """What does not fit between kind and answer where answers are labels."""
    several, answer = recipe.multi_label, recipe.prompt.answer
    if answer and several != ("{labels}" in answer):
        place = "{labels}" if several else "{label}"
        yield f"prompt.answer is {answer!r}, {place} in the answer of {recipe.kind} expected; mark the place"
    if several and recipe.train.loss_on == "labels":
        yield f"train.loss_on is labels with {recipe.kind}, answer or sequence expected; remove it"
    if recipe.kind in ("label_scoring", "label_generation", "sequence_classification") and not recipe.labels.names:
        yield f"labels.names is missing, the classes of {recipe.kind} expected; add them"
    if several and (bad := [name for name in recipe.labels.names if name != " ".join(name.split())]):
        yield f"labels.names holds {bad[0]!r}, names of one line without outer blanks expected; rename it"
    if recipe.evaluate.decoding != "free" and not several:
        yield f"evaluate.decoding is given with {recipe.kind}, which writes no labels; remove it"
    if recipe.evaluate.label_score != "token" and recipe.kind != "label_scoring":
        yield f"evaluate.label_score is given with {recipe.kind}, label_scoring expected with it; remove it"
    elif recipe.evaluate.label_score != "token" and recipe.train.loss_on == "labels":
        yield "train.loss_on is labels with evaluate.label_score log_probability, answer or sequence expected; remove it"


def _chat_misfits(recipe: Recipe) -> Iterator[str]:
    """What does not fit a chat."""
    prompt = recipe.prompt
    if prompt.template or prompt.answer:
        yield "prompt.template or prompt.answer is given with chat, whose prompt is the chat template's; remove it"
    if recipe.labels.names:
        yield "labels.names is given with chat, answers without labels expected; remove it"
    if any(table.answer is None for table in recipe.data.tables()):
        yield "data.answer is missing, the column of the answers expected; name it"
    if recipe.train.loss_on == "labels":
        yield "train.loss_on is labels with chat, answer or sequence expected; remove it"
    if recipe.evaluate.max_new_tokens >= prompt.max_tokens:
        yield f"evaluate.max_new_tokens is {recipe.evaluate.max_new_tokens}, less than prompt.max_tokens expected; lower it"


def _structure_misfits(recipe: Recipe) -> Iterator[str]:
    """What does not fit an answer of named fields between markers."""
    prompt, targets = recipe.prompt, recipe.lora.target_modules
    pieces = list(Formatter().parse(prompt.answer))
    names = [name for _, name, _, _ in pieces if name is not None]
    expected = sorted([*recipe.data.fields, "label"])
    if not recipe.labels.names:
        yield "labels.names is missing, the classes of {label} expected; add them"
    if sorted(names) != expected:
        yield f"prompt.answer names the fields {sorted(names)}, data.fields and label, {expected}, expected once each; correct it"
    if any(not marker.strip() for marker, name, _, _ in pieces[1:] if name is not None):
        yield "prompt.answer has fields without a marker between them, words to part them by expected; add a marker"
    if prompt.stop and not prompt.answer.endswith(prompt.stop):
        yield f"prompt.answer does not end with prompt.stop {prompt.stop!r}, the token that ends an answer expected last; add it"
    if recipe.train.loss_on == "labels":
        yield "train.loss_on is labels with structured_generation, answer or sequence expected; remove it"
    if recipe.evaluate.max_new_tokens >= prompt.max_tokens:
        yield f"evaluate.max_new_tokens is {recipe.evaluate.max_new_tokens}, less than prompt.max_tokens expected; lower it"
    if prompt.new_tokens and not isinstance(targets, str) and "lm_head" in targets:
        yield "lora.target_modules holds lm_head, whose rows of new tokens are kept with the adapter; remove it"


def _misfits(recipe: Recipe) -> Iterator[str]:
    """What does not fit between data, labels and split."""
    data, labels, split = recipe.data, recipe.labels, recipe.split
    if labels.names and not isinstance(labels.rule, MarkedColumns) and any(table.label is None for table in data.tables()):
        yield "data.label is missing, the column of the labels expected; name it, or remove labels"
    if not labels.names and any(table.label is not None for table in data.tables()):
        yield "data.label is given without labels.names, the classes expected; add them, or remove it"
    if recipe.kind != "structured_generation" and any(table.fields for table in data.tables()):
        yield f"data.fields is given with {recipe.kind}, which writes no fields; remove it"
    if recipe.kind != "chat" and any(table.answer or table.rejected or table.turns for table in data.tables()):
        yield f"data.answer, rejected or turns is given with {recipe.kind}, which has no replies; remove it"
    if recipe.multi_label and (bad := [name for name in labels.names if LABEL_SEPARATOR in name]):
        yield f"labels.names holds {bad[0]!r}, names without {LABEL_SEPARATOR!r} expected, which parts a row's labels; rename it"
    if split.balance != "none" and (recipe.multi_label or not labels.names):
        yield f"split.balance is {split.balance}, none expected where a row has not exactly one label; remove it"
    if data.test is None and split.test == 0:
        yield "split.test is 0 without data.test, test rows expected; enlarge it, or name a published test file"
    if split.published == "pooled" and data.test is None:
        yield "split.published is pooled without data.test, a published test file expected; remove it"
    if split.published == "pooled" and split.test == 0:
        yield "split.test is 0 with both files pooled, test rows expected; enlarge it"
    if data.test is None and split.published_rows is not None:
        yield "split.published_rows is given without data.test, a published test file expected; remove it"
