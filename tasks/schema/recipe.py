"""What a recipe may hold: the schema, each key with its bounds and help text; the trigger form and the reference are made of it.

The keys of the data stand in `data_schema` and `label_schema`, those of model and training in `training_schema`, those of a sweep
and of pods in `sweep_schema` and `pod_schema`.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import chain
from string import Formatter
from typing import Literal

import yaml
from pydantic import Field

from tasks.errors import explain
from tasks.schema.data import Data, Name, Split, Validate
from tasks.schema.labels import Labels, MarkedColumns
from tasks.schema.pods import Pods
from tasks.schema.section import Section
from tasks.schema.sweep import Sweep
from tasks.schema.training import BaseModelChoice, Lora, Prompt, Train

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
        "auto", description="Who makes the new version champion: the gate, a reviewer, nobody; with never it is no challenger either."
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

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several labels; they are joined by `LABEL_SEPARATOR` in the parts."""
        return self.kind in MULTI_LABEL

    def _problems(self) -> Iterator[str]:
        return chain(_metric_problems(self), _data_problems(self), _training_problems(self), _size_problems(self))

    def dump(self) -> str:
        """YAML of the whole recipe, with every default written out."""
        document = self.model_dump(mode="json", by_alias=True)
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)

    def sha256(self) -> str:
        """Hash of everything that the model depends on: all but `run`, `sweep`, `pods` and the texts."""
        kept = self.model_dump(mode="json", by_alias=True, exclude={"run", "sweep", "pods", "title", "description", "licence"})
        return hashlib.sha256(json.dumps(kept, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _training_problems(recipe: Recipe) -> Iterator[str]:
    """What does not fit between kind, prompt and training."""
    train, head = recipe.train, recipe.kind == "sequence_classification"
    if head and recipe.prompt.answer:
        yield explain("prompt.answer is given with a classification head, which needs none", fix="remove it")
    if recipe.kind == "structured_generation":
        yield from _structure_problems(recipe)
    elif recipe.prompt.stop or recipe.prompt.new_tokens:
        yield explain(f"prompt.stop or new_tokens is given with {recipe.kind}", "structured_generation with it", "remove it")
    yield from _answer_problems(recipe)
    if recipe.kind == "chat":
        yield from _chat_problems(recipe)
    elif recipe.prompt.chat_template or recipe.prompt.system or recipe.prompt.cut != "end":
        yield explain(f"prompt.chat_template, system or cut is given with {recipe.kind}, which has no turns", fix="remove it")
    elif not recipe.prompt.template:
        yield explain("prompt.template is missing", f"the prompt of {recipe.kind}", "add it")
    elif not head and not recipe.prompt.answer:
        yield explain("prompt.answer is missing", f"the answer of {recipe.kind}", "add it")
    if head and train.loss_on != "answer":
        yield explain(f"train.loss_on is {train.loss_on} with a classification head", "answer", "remove it")
    if train.class_weights and not head:
        yield explain(f"train.class_weights is given with {recipe.kind}", "a classification head", "use split.balance, or remove it")
    if isinstance(train.class_weights, tuple) and len(train.class_weights) != len(recipe.labels.names):
        yield explain(
            f"train.class_weights has {len(train.class_weights)} weights", f"{len(recipe.labels.names)}, one a label", "correct it"
        )
    if train.eval_strategy != "no" and not recipe.split.validation:
        yield explain("train.eval_strategy asks for a validation part", "split.validation above 0", "enlarge it")
    if (train.eval_strategy == "steps") != (train.eval_steps is not None):
        yield explain("train.eval_strategy steps and train.eval_steps go together", fix="give both or neither")
    known = ("loss", *METRICS[recipe.kind]) if head else ("loss",)
    if train.metric_for_best_model and (train.eval_strategy == "no" or train.metric_for_best_model not in known):
        yield explain(f"train.metric_for_best_model is {train.metric_for_best_model!r}", f"one of {', '.join(known)} with an eval_strategy")


def _answer_problems(recipe: Recipe) -> Iterator[str]:
    """What does not fit between kind and answer where answers are labels."""
    several, answer = recipe.multi_label, recipe.prompt.answer
    if answer and several != ("{labels}" in answer):
        place = "{labels}" if several else "{label}"
        yield explain(f"prompt.answer is {answer!r}", f"{place} in the answer of {recipe.kind}", "mark the place")
    if several and recipe.train.loss_on == "labels":
        yield explain(f"train.loss_on is labels with {recipe.kind}", "answer or sequence", "remove it")
    if recipe.kind in ("label_scoring", "label_generation", "sequence_classification") and not recipe.labels.names:
        yield explain("labels.names is missing", f"the classes of {recipe.kind}", "add them")
    if several and (bad := [name for name in recipe.labels.names if name != " ".join(name.split())]):
        yield explain(f"labels.names holds {bad[0]!r}", "names of one line without outer blanks", "rename it")
    if recipe.evaluate.decoding != "free" and not several:
        yield explain(f"evaluate.decoding is given with {recipe.kind}, which writes no labels", fix="remove it")
    if recipe.evaluate.label_score != "token" and recipe.kind != "label_scoring":
        yield explain(f"evaluate.label_score is given with {recipe.kind}", "label_scoring with it", "remove it")
    elif recipe.evaluate.label_score != "token" and recipe.train.loss_on == "labels":
        yield explain("train.loss_on is labels with evaluate.label_score log_probability", "answer or sequence", "remove it")


def _chat_problems(recipe: Recipe) -> Iterator[str]:
    """What does not fit a chat."""
    prompt = recipe.prompt
    if prompt.template or prompt.answer:
        yield explain("prompt.template or prompt.answer is given with chat, whose prompt is the chat template's", fix="remove it")
    if recipe.labels.names:
        yield explain("labels.names is given with chat", "answers without labels", "remove it")
    if any(table.answer is None for table in recipe.data.tables()):
        yield explain("data.answer is missing", "the column of the answers", "name it")
    if recipe.train.loss_on == "labels":
        yield explain("train.loss_on is labels with chat", "answer or sequence", "remove it")
    if recipe.evaluate.max_new_tokens >= prompt.max_tokens:
        yield explain(f"evaluate.max_new_tokens is {recipe.evaluate.max_new_tokens}", "less than prompt.max_tokens", "lower it")


def _structure_problems(recipe: Recipe) -> Iterator[str]:
    """What does not fit an answer of named fields between markers."""
    prompt, targets = recipe.prompt, recipe.lora.target_modules
    pieces = list(Formatter().parse(prompt.answer))
    names = [name for _, name, _, _ in pieces if name is not None]
    expected = sorted([*recipe.data.fields, "label"])
    if not recipe.labels.names:
        yield explain("labels.names is missing", "the classes of {label}", "add them")
    if sorted(names) != expected:
        yield explain(f"prompt.answer names the fields {sorted(names)}", f"data.fields and label, {expected}, once each", "correct it")
    if any(not marker.strip() for marker, name, _, _ in pieces[1:] if name is not None):
        yield explain("prompt.answer has fields without a marker between them", "words to part them by", "add a marker")
    if prompt.stop and not prompt.answer.endswith(prompt.stop):
        yield explain(f"prompt.answer does not end with prompt.stop {prompt.stop!r}", "the token that ends an answer last", "add it")
    if recipe.train.loss_on == "labels":
        yield explain("train.loss_on is labels with structured_generation", "answer or sequence", "remove it")
    if recipe.evaluate.max_new_tokens >= prompt.max_tokens:
        yield explain(f"evaluate.max_new_tokens is {recipe.evaluate.max_new_tokens}", "less than prompt.max_tokens", "lower it")
    if prompt.new_tokens and not isinstance(targets, str) and "lm_head" in targets:
        yield explain("lora.target_modules holds lm_head, whose rows of new tokens are kept with the adapter", fix="remove it")


def _data_problems(recipe: Recipe) -> Iterator[str]:
    """What does not fit between data, labels and split."""
    data, labels, split = recipe.data, recipe.labels, recipe.split
    if labels.names and not isinstance(labels.rule, MarkedColumns) and any(table.label is None for table in data.tables()):
        yield explain("data.label is missing", "the column of the labels", "name it, or remove labels")
    if not labels.names and any(table.label is not None for table in data.tables()):
        yield explain("data.label is given without labels.names", "the classes", "add them, or remove it")
    if recipe.kind != "structured_generation" and any(table.fields for table in data.tables()):
        yield explain(f"data.fields is given with {recipe.kind}, which writes no fields", fix="remove it")
    if recipe.kind != "chat" and any(table.answer or table.rejected or table.turns for table in data.tables()):
        yield explain(f"data.answer, rejected or turns is given with {recipe.kind}, which has no replies", fix="remove it")
    if recipe.multi_label and (bad := [name for name in labels.names if LABEL_SEPARATOR in name]):
        yield explain(f"labels.names holds {bad[0]!r}", f"names without {LABEL_SEPARATOR!r}, which parts a row's labels", "rename it")
    if split.balance != "none" and (recipe.multi_label or not labels.names):
        yield explain(f"split.balance is {split.balance}", "none where a row has not exactly one label", "remove it")
    if data.test is None and split.test == 0:
        yield explain("split.test is 0 without data.test", "test rows", "enlarge it, or name a published test file")
    if split.published == "pooled" and data.test is None:
        yield explain("split.published is pooled without data.test", "a published test file", "remove it")
    if split.published == "pooled" and split.test == 0:
        yield explain("split.test is 0 with both files pooled", "test rows", "enlarge it")
    if data.test is None and split.published_rows is not None:
        yield explain("split.published_rows is given without data.test", "a published test file", "remove it")


def _metric_problems(recipe: Recipe) -> Iterator[str]:
    """Metrics that the kind does not report."""
    known = [name for name in METRICS[recipe.kind] if name != "f1" or recipe.labels.positive is not None]
    named = {"gate": (recipe.gate.metric, *recipe.gate.floors), "sweep": recipe.sweep.metrics if recipe.sweep else ()}
    for section, names in named.items():
        if bad := [name for name in names if name not in known]:
            yield explain(f"{section} names the metric {bad[0]!r}", f"one of {', '.join(known)}", "correct the name")


def _size_problems(recipe: Recipe) -> Iterator[str]:
    """Rows that are too few for a row of every label, and a seed that is no further one."""
    train, sweep, labels = recipe.train, recipe.sweep, len(recipe.labels.names)
    if train.rows is not None and train.rows < labels:
        yield explain(f"train.rows is {train.rows} with {labels} labels", "a row of each", "use more rows")
    if sweep and min(sweep.rows) < labels:
        yield explain(f"sweep.rows holds {min(sweep.rows)} with {labels} labels", "a row of each", "use more rows")
    if sweep and train.seed in sweep.repeat_seeds:
        yield explain(f"sweep.repeat_seeds holds train.seed {train.seed}", "further seeds", "remove it")
