"""A recipe's training: its rows as tokens, its adapter on the base model, transformers' Trainer over both, resumed where it was killed."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contracts import Emissions
from tasks.errors import RecipeError
from tasks.kinds.answers import single_label
from tasks.kinds.base import Example, classes_of, kind_of
from tasks.model.batches import collate, collate_classes
from tasks.model.halving import halved
from tasks.model.load import device, dtype_of, load_model, own_head
from tasks.model.new_tokens import NewRows, freeze_rows, keep_bias, kept_rows, new_rows
from tasks.model.padding import check_padding
from tasks.model.tokenizer import Tokens
from tasks.process import sigterm
from tasks.process.parallel import WAIT, rank
from tasks.registry import tracking
from tasks.schema.recipe import Recipe
from tasks.training.checkpoints import completion_callback, last_checkpoint
from tasks.training.energy import Meter, meter_reader, metered
from tasks.training.examples import TrainingRows, dataset, held_out, training_rows, with_class_weights
from tasks.training.job import Job
from tasks.training.report import training_report
from tasks.workspace.checkpoint_files import step_of
from tasks.workspace.progress import Progress

if TYPE_CHECKING:
    from transformers import TrainerCallback


@dataclass(frozen=True)
class Prepared:
    """A training that one process is ready to begin."""

    recipe: Recipe
    """With batches that fit into memory."""
    model: Any
    """A PeftModel, its adapter untrained."""
    tokens: Tokens
    rows: TrainingRows
    held_out: list[Example]
    """The validation part; empty where the training is not scored on it."""


@dataclass(frozen=True)
class Fitted:
    """A base model with its trained adapter, and how the training went."""

    model: Any
    """A PeftModel."""
    tokens: Tokens
    rows: TrainingRows
    passes: list[int]
    """(n_examples,) how often the training passed over each of its rows, up to the step whose weights are the model's."""
    steps: int
    epochs: float
    final_loss: float
    """Mean loss over the last logged steps, nats a token."""
    resumed_from_step: int
    emissions: Emissions


def fit(job: Job, watched_by: "Callable[[Tokens], TrainerCallback] | None" = None) -> Fitted | None:
    """Train a recipe's adapter; in every process that trains, but only the first one tells of it, saves, and returns what came out.

    Args:
        job: the training.
        watched_by: of the base model's tokenizer, a further callback of the first process's trainer.

    Raises:
        InterruptedRunError: SIGTERM came; a last checkpoint is saved.
        RecipeError: the base model cannot read rows in batches.
    """
    prepared, step_of_checkpoint = _prepared(job), step_of(job.resume_from)
    if rank():
        _train(job, prepared, [])
        return None
    with _shown(job, total_steps_of(prepared.recipe, len(prepared.rows.examples))) as (meter, callbacks):
        callbacks += [watched_by(prepared.tokens)] if watched_by else []
        tracking.metrics(job.tracked, _batches(prepared.recipe, job.halvings), step=step_of_checkpoint)
        trainer = _train(job, prepared, callbacks)
        state = trainer.state
        emissions = meter.emissions()
    spent = {"train.energy_kwh": emissions.energy_kwh, "train.co2eq_kg": emissions.co2eq_kg}
    tracking.metrics(job.tracked, spent | {"train.left_out_rows": float(prepared.rows.left_out)})
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    return Fitted(
        model=prepared.model,
        tokens=prepared.tokens,
        rows=prepared.rows,
        passes=trainer.passes_of_rows(kept_step(state)),
        steps=int(state.global_step),
        epochs=float(state.epoch or 0),
        final_loss=sum(losses[-5:]) / max(len(losses[-5:]), 1),
        resumed_from_step=step_of_checkpoint,
        emissions=emissions,
    )


def _prepared(job: Job) -> Prepared:
    """Read the rows, load the base model and put the adapter in."""
    from transformers import set_seed

    recipe = halved(job.recipe, job.halvings)
    tokens, new = Tokens(job.base, recipe.prompt.new_tokens), new_rows(recipe, job.base)
    drawn = training_rows(recipe, tokens, job.train_part)
    scored = held_out(recipe, tokens, job.validation_part)
    set_seed(recipe.train.seed)  # the adapter's start is drawn with it
    loaded = load_model(job.base, recipe.base_model.dtype, classes_of(recipe), recipe.base_model.quantization, new)
    check_padding(recipe, loaded, tokens)
    return Prepared(recipe, with_adapter(recipe, loaded, new), tokens, drawn, scored)


@contextmanager
def _shown(job: Job, total_steps: int) -> "Iterator[tuple[Meter, list[TrainerCallback]]]":
    """The meter, and the callbacks that show a training while it runs."""
    progress = Progress(job.run, job.step, "training", total_steps, "steps")
    progress.start_at(step_of(job.resume_from))
    with progress, metered(job.run.kept, job.run.attempt.name) as meter:
        yield meter, [meter_reader(meter), training_report(job.recipe, job.tracked, progress, job.data_tag)]


def _batches(recipe: Recipe, halvings: int) -> dict[str, float]:
    train = recipe.train
    return {
        "train.micro_batch": float(train.per_device_train_batch_size),
        "train.accumulation": float(train.gradient_accumulation_steps),
        "train.processes": float(train.gpus),
        "train.halvings": float(halvings),
    }


def _train(job: Job, prepared: Prepared, callbacks: "list[TrainerCallback]") -> Any:
    """Train this process's share to the end; returns the trainer."""

    def noticed() -> None:
        if not rank():
            sigterm.say(f"{job.step}: SIGTERM: this step is brought to its end and saved\n")

    with sigterm.on_sigterm(noticed) as asked:
        own = [completion_callback(job.run.save_checkpoint), last_checkpoint(asked, job.step)]
        trainer = _trainer(prepared, job.run.kept, [*callbacks, *own])
        trainer.train(resume_from_checkpoint=str(job.resume_from) if job.resume_from else None)
    return trainer


def kept_step(state: Any) -> int:
    """The optimiser step whose weights a training ends with: its last, or the best where that is looked for."""
    best = state.best_global_step if state.best_model_checkpoint else None
    return int(best or state.global_step)


def with_adapter(recipe: Recipe, model: Any, rows: NewRows | None = None) -> Any:
    """The model with the recipe's adapter beside its weights (a PeftModel), drawn with torch's random numbers.

    Raises:
        RecipeError: the model has no layer by the name of a target, which PEFT would leave out without a word; or one that PEFT
            cannot adapt.
    """
    from peft import LoraConfig, get_peft_model

    lora = recipe.lora.model_dump(exclude={"train_new_tokens"})
    if not isinstance(lora["target_modules"], str):
        lora["target_modules"] = list(lora["target_modules"])
        layers = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        if missing := [target for target in recipe.lora.target_modules if target.rpartition(".")[2] not in layers]:
            where, found = f"{recipe.name}.yaml: lora.target_modules", f"{missing[0]!r} is no layer of this base model"
            raise RecipeError(where, found, "names of its layers", "correct it, or set it to all-linear")
    if rows:
        lora["trainable_token_indices"] = kept_rows(model, rows)
    head = own_head(model, lora["target_modules"])
    try:
        tuned = get_peft_model(model, LoraConfig(task_type="SEQ_CLS" if classes_of(recipe) else "CAUSAL_LM", **lora))
    except ValueError as error:  # among them layers of Mamba that all-linear takes in and PEFT cannot adapt
        where, found = f"{recipe.name}.yaml: lora.target_modules", f"this base model takes no such adapter ({error})"
        raise RecipeError(where, found, "layers that can be adapted", "name the layers to adapt") from None
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
    rows_a_step = recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps * recipe.train.gpus
    return math.ceil(recipe.train.num_train_epochs * math.ceil(rows / rows_a_step))


def training_arguments(recipe: Recipe, folder: Path) -> Any:
    """The TrainingArguments of a recipe; checkpoints go to the folder."""
    from transformers import TrainingArguments

    dtype = str(dtype_of(recipe.base_model.dtype))
    keys = recipe.train.model_dump(exclude={"rows", "loss_on", "loss_on_end", "max_steps", "class_weights", "gpus"})
    classes, best = classes_of(recipe), recipe.train.metric_for_best_model is not None
    if best and recipe.train.eval_steps:
        keys["save_steps"] = recipe.train.eval_steps
    keys["seed"] += rank()  # each process drops out on its own; the rows' order has a seed apart
    arguments = TrainingArguments(
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
        ddp_find_unused_parameters=False,  # every weight of an adapter has a part in every forward pass
        ddp_broadcast_buffers=False,
        ddp_timeout=int(WAIT.total_seconds()),
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are several processes: no threads of torch's DataParallel
    return arguments


def _trainer(prepared: Prepared, folder: Path, callbacks: "list[TrainerCallback]") -> Any:
    from transformers import PrinterCallback

    from tasks.training.trainer import TrainingLoop

    recipe, tokens, examples = prepared.recipe, prepared.tokens, prepared.rows.examples
    classes = classes_of(recipe)
    trainer = TrainingLoop(
        model=prepared.model,
        args=training_arguments(recipe, folder),
        train_dataset=dataset(examples),
        eval_dataset=dataset(prepared.held_out) if prepared.held_out else None,
        data_collator=partial(collate_classes, pad_id=tokens.pad_id)
        if classes
        else partial(
            collate, pad_id=tokens.pad_id, loss_on=recipe.train.loss_on, silent_id=None if recipe.train.loss_on_end else tokens.eos_id
        ),
        compute_loss_func=kind_of(recipe).loss(with_class_weights(recipe, examples), tokens),
        compute_metrics=partial(_class_metrics, recipe) if classes else None,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # the report prints for it
    return trainer


def _class_metrics(recipe: Recipe, prediction: Any) -> dict[str, float]:
    """The kind's metrics over the validation part, from logits (n_rows, n_labels) and class numbers (n_rows, 1)."""
    import numpy as np
    import torch

    rows = [{"label": recipe.labels.names[place]} for place in prediction.label_ids[:, 0]]
    scores = torch.from_numpy(prediction.predictions).double().softmax(dim=-1).numpy()
    columns = single_label.columns_of(recipe, scores)
    return kind_of(recipe).metrics(recipe, rows, columns)(np.arange(len(rows)))
