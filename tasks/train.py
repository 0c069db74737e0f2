"""Train a LoRA adapter on the training part.

Reads   Download, DatasetVersion     runs/<id>/download.json, version.json
Uses    prompt.*, lora.*, train.*    of the recipe
Writes  Adapter                      runs/<id>/train.json
"""

import time

from tasks import tracking
from tasks.contracts import Adapter
from tasks.models import save
from tasks.trainer import fit
from tasks.workspace import Run


def train(run: Run) -> Adapter:
    """Train the LoRA adapter; the loss runs in MLflow, checkpoints let a killed training go on."""
    began = time.monotonic()
    with tracking.tracked(run) as tracked:
        fitted = fit(run, run.recipe, tracked, step="train")
    folder = run.attempt / "adapter"
    save(fitted.model, folder)
    if run.recipe.prompt.new_tokens:
        fitted.tokens.save(folder)
    trainable, everything = fitted.model.get_nb_trainable_parameters()
    return Adapter(
        path=run.relative(folder),
        tracked=tracked,
        rows=fitted.rows,
        steps=fitted.steps,
        epochs=fitted.epochs,
        final_loss=fitted.final_loss,
        trainable_parameters=trainable,
        all_parameters=everything,
        cut_rows=fitted.cut_rows,
        left_out_rows=fitted.left_out_rows,
        seconds=time.monotonic() - began,
        resumed_from_step=fitted.resumed_from_step,
        emissions=fitted.emissions,
    )
