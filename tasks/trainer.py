"""A recipe's training: its rows as tokens, its adapter on the base model, transformers' Trainer over both, resumed where it was killed."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import single_label, tracking
from tasks.batches import collate, collate_classes
from tasks.checkpoints import newest_whole, whole_marker
from tasks.contracts import DatasetVersion, Download, Emissions, TrackedRun
from tasks.emissions import meter_reader, metered
from tasks.errors import DataError, RecipeError
from tasks.kinds import Example, classes_of, examples_of, kind_of
from tasks.models import device, dtype_of, load_model, own_head
from tasks.new_tokens import NewRows, freeze_rows, keep_bias, kept_rows, new_rows
from tasks.progress import Progress
from tasks.schema import Recipe
from tasks.tokens import Tokens
from tasks.training_report import training_report
from tasks.workspace import Run

if TYPE_CHECKING:
    from transformers import TrainerCallback


@dataclass(frozen=True)
class Fitted:
    """A base model with its trained adapter, and how the training went."""

    model: Any
    """A PeftModel."""
    tokens: Tokens
    rows: int
    cut_rows: int
    """Rows whose text was cut to fit max_tokens."""
    left_out_rows: int
    """Rows not trained on, since their answer leaves their text too little room in max_tokens."""
    steps: int
    epochs: float
    final_loss: float
    """Mean loss over the last logged steps, nats a token."""
    resumed_from_step: int
    emissions: Emissions


def fit(
    run: Run, recipe: Recipe, tracked: TrackedRun, *, step: str, watched_by: "Callable[[Tokens], TrainerCallback] | None" = None
) -> Fitted:
    """Train a recipe's adapter on the run's training part; checkpoints in `run.kept` let a killed training go on.

    Args:
        run: whose base model and data set version are trained on.
        recipe: the run's own, or one that differs in `train`.
        tracked: the MLflow run that shows the training.
        step: name of the step that trains, for progress.
        watched_by: of the base model's tokenizer, a further callback of the trainer.
    """
    from transformers import set_seed

    _check_device(recipe)
    base, version = run.read(Download).base_model, run.read(DatasetVersion)
    tokens, rows = Tokens(run.path(base.path), recipe.prompt.new_tokens), new_rows(recipe, run.path(base.path))
    examples, left_out = _examples(recipe, tokens, run.path(version.parts["train"].path))
    held_out = _held_out(recipe, tokens, run, version)
    total_steps, resumed = total_steps_of(recipe, len(examples)), newest_whole(run.kept)
    set_seed(recipe.train.seed)  # the adapter's start is drawn with it
    loaded = load_model(run.path(base.path), recipe.base_model.dtype, classes_of(recipe), recipe.base_model.quantization, rows)
    model = with_adapter(recipe, loaded, rows)
    with Progress(run, step, "training", total_steps, "steps") as progress, metered(run.kept, run.attempt.name) as meter:
        report = training_report(recipe, tracked, progress, version.tag)
        trainer = _trainer(recipe, run.kept, model, tokens, examples, held_out, report)
        trainer.add_callback(meter_reader(meter))
        if watched_by is not None:
            trainer.add_callback(watched_by(tokens))
        result = trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        emissions = meter.emissions()
    spent = {"train.energy_kwh": emissions.energy_kwh, "train.co2eq_kg": emissions.co2eq_kg}
    tracking.metrics(tracked, spent | {"train.left_out_rows": float(left_out)})
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Fitted(
        model=model,
        tokens=tokens,
        rows=len(examples),
        cut_rows=sum(example.cut for example in examples),
        left_out_rows=left_out,
        steps=int(result.global_step),
        epochs=float(trainer.state.epoch or 0),
        final_loss=sum(losses[-5:]) / max(len(losses[-5:]), 1),
        resumed_from_step=int(resumed.name.rpartition("-")[2]) if resumed else 0,
        emissions=emissions,
    )


def _check_device(recipe: Recipe) -> None:
    if recipe.train.fp16 and device() == "cpu":
        raise RecipeError(f"{recipe.name}.yaml: train.fp16", "is true on a processor", "a GPU expected", "set it to false for this machine")


def _examples(recipe: Recipe, tokens: Tokens, part: Path) -> tuple[list[Example], int]:
    """The training part as tokens: `train.rows` of it, drawn with the seed, each class by its share; and how many do not fit."""
    import pyarrow.parquet as pq

    rows = pq.read_table(part).to_pylist()
    chosen = draw_rows([row.get("label", "") for row in rows], recipe.train.rows, recipe.train.seed)
    if not chosen:
        raise DataError(str(part), "no rows", "at least one training row expected", "look at split's report")
    examples = [example for example in examples_of(recipe, tokens, [rows[index] for index in chosen]) if example is not None]
    if not examples:
        found = f"none of {len(chosen)} rows fits into {recipe.prompt.max_tokens} tokens"
        raise DataError(str(part), found, "room for answer and text expected", "raise prompt.max_tokens")
    return examples, len(chosen) - len(examples)


def _held_out(recipe: Recipe, tokens: Tokens, run: Run, version: DatasetVersion) -> list[Example]:
    """The validation part as tokens, where the training is to be scored on it."""
    import pyarrow.parquet as pq

    if recipe.train.eval_strategy == "no":
        return []
    part = version.parts.get("validation")
    if part is None:
        raise DataError(version.tag, "no validation part", "one expected with train.eval_strategy", "set it to no, or split anew")
    rows = pq.read_table(run.path(part.path)).to_pylist()
    return [example for example in examples_of(recipe, tokens, rows) if example is not None]


def _dataset(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Examples as transformers' Trainer takes them; it groups by the lengths of `input_ids`."""
    return [{"input_ids": example.prompt + example.answer, "example": example} for example in examples]


def _with_class_weights(recipe: Recipe, examples: Sequence[Example]) -> Recipe:
    """The recipe with weights in place of `auto`: inverse frequency of each class in the training rows, their mean 1."""
    if recipe.train.class_weights != "auto":
        return recipe
    counts = Counter(example.answer[0] for example in examples)
    inverse = [1 / counts[place] for place in range(len(recipe.labels.names))]
    weights = tuple(value * len(inverse) / sum(inverse) for value in inverse)
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"class_weights": weights})})


def _class_metrics(recipe: Recipe, prediction: Any) -> dict[str, float]:
    """The kind's metrics over the validation part, from logits (n_rows, n_labels) and class numbers (n_rows, 1)."""
    import numpy as np
    import torch

    rows = [{"label": recipe.labels.names[place]} for place in prediction.label_ids[:, 0]]
    scores = torch.from_numpy(prediction.predictions).double().softmax(dim=-1).numpy()
    columns = single_label.columns_of(recipe, scores)
    return kind_of(recipe).metrics(recipe, rows, columns)(np.arange(len(rows)))


def draw_rows(labels: Sequence[str], count: int | None, seed: int) -> list[int]:
    """Indexes of `count` rows in shuffled order, every class by its share; all of them where count is None.

    Args:
        labels: (n_rows,) class of each row.
        count: how many rows to draw.
        seed: the same seed draws the same rows on any machine.

    Raises:
        DataError: there are fewer rows than asked for.
    """
    import random

    draw = random.Random(seed)  # noqa: S311 — a sample, not a secret
    if count is None:
        return draw.sample(range(len(labels)), len(labels))
    if count > len(labels):
        raise DataError("train.rows", f"{count:,} rows asked for", f"at most the {len(labels):,} of the training part", "ask for fewer")
    classes = {label: [row for row, found in enumerate(labels) if found == label] for label in sorted(set(labels))}
    exact = {label: count * len(rows) / len(labels) for label, rows in classes.items()}
    share = {label: math.floor(value) for label, value in exact.items()}
    by_remainder = sorted(classes, key=lambda label: (share[label] - exact[label], label))
    for label in by_remainder[: count - sum(share.values())]:
        share[label] += 1
    rows = [row for label, own in classes.items() for row in draw.sample(own, share[label])]
    return draw.sample(rows, len(rows))


def with_adapter(recipe: Recipe, model: Any, rows: NewRows | None = None) -> Any:
    """The model with the recipe's adapter beside its weights (a PeftModel), drawn with torch's random numbers.

    Raises:
        RecipeError: the model has no layer by the name of a target, which PEFT would leave out without a word.
    """
    from peft import LoraConfig, get_peft_model

    lora = recipe.lora.model_dump(exclude={"train_new_tokens"})
    if not isinstance(lora["target_modules"], str):
        lora["target_modules"] = list(lora["target_modules"])
        layers = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        if missing := [target for target in recipe.lora.target_modules if target.rpartition(".")[2] not in layers]:
            where, found = f"{recipe.name}.yaml: lora.target_modules", f"{missing[0]!r} is no layer of this base model"
            raise RecipeError(where, found, "names of its layers expected", "correct it, or set it to all-linear")
    if rows:
        lora["trainable_token_indices"] = kept_rows(model, rows)
    head = own_head(model, lora["target_modules"])
    tuned = get_peft_model(model, LoraConfig(task_type="SEQ_CLS" if classes_of(recipe) else "CAUSAL_LM", **lora))
    keep_bias(tuned)
    if rows and not recipe.lora.train_new_tokens:
        freeze_rows(tuned)
    if head or rows:  # PEFT would put frozen weights of the output layer and the embedding beside the adapter, in every checkpoint
        tuned.save_pretrained = partial(tuned.save_pretrained, save_embedding_layers=False)
    return tuned


def total_steps_of(recipe: Recipe, rows: int) -> int:
    """Optimiser steps of the whole training, as transformers' Trainer counts them."""
    if recipe.train.max_steps:
        return recipe.train.max_steps
    batches = math.ceil(rows / recipe.train.per_device_train_batch_size)
    return math.ceil(recipe.train.num_train_epochs * math.ceil(batches / recipe.train.gradient_accumulation_steps))


def training_arguments(recipe: Recipe, folder: Path) -> Any:
    """The TrainingArguments of a recipe; checkpoints go to the folder."""
    from transformers import TrainingArguments

    dtype = str(dtype_of(recipe.base_model.dtype))
    keys = recipe.train.model_dump(exclude={"rows", "loss_on", "loss_on_end", "max_steps", "class_weights", "gpus"})
    classes, best = classes_of(recipe), recipe.train.metric_for_best_model is not None
    if best and recipe.train.eval_steps:
        keys["save_steps"] = recipe.train.eval_steps
    return TrainingArguments(
        output_dir=str(folder),
        **keys,
        max_steps=recipe.train.max_steps or -1,
        bf16=device() == "cuda" and dtype == "torch.bfloat16" and not recipe.train.fp16,
        use_cpu=device() == "cpu",
        save_strategy=recipe.train.eval_strategy if best else "steps",  # transformers keeps the best among those it has saved
        load_best_model_at_end=best,
        greater_is_better=recipe.train.metric_for_best_model != "loss" if best else None,
        per_device_eval_batch_size=recipe.evaluate.batch_size,
        save_total_limit=2,
        data_seed=recipe.train.seed,
        remove_unused_columns=False,
        label_names=["labels"],
        prediction_loss_only=not classes,  # the logits of a vocabulary are too many to be kept
        dataloader_pin_memory=False,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a NaN loss must be seen, not averaged away
        include_num_input_tokens_seen="non_padding",
        report_to=[],
        disable_tqdm=True,
    )


def _trainer(
    recipe: Recipe, folder: Path, model: Any, tokens: Tokens, examples: list[Example], held_out: list[Example], report: Any
) -> Any:
    from transformers import PrinterCallback, Trainer

    classes = classes_of(recipe)
    trainer = Trainer(
        model=model,
        args=training_arguments(recipe, folder),
        train_dataset=_dataset(examples),
        eval_dataset=_dataset(held_out) if held_out else None,
        data_collator=partial(collate_classes, pad_id=tokens.pad_id)
        if classes
        else partial(
            collate, pad_id=tokens.pad_id, loss_on=recipe.train.loss_on, silent_id=None if recipe.train.loss_on_end else tokens.eos_id
        ),
        compute_loss_func=kind_of(recipe).loss(_with_class_weights(recipe, examples), tokens),
        compute_metrics=partial(_class_metrics, recipe) if classes else None,
        callbacks=[whole_marker(), report],
    )
    trainer.remove_callback(PrinterCallback)  # the report prints for it
    return trainer
