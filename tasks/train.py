"""Train a LoRA adapter on the training part.

Reads   Download, DatasetVersion     runs/<id>/download.json, version.json
Uses    prompt.*, lora.*, train.*    of the recipe
Writes  Adapter                      runs/<id>/train.json
"""

import time
from dataclasses import replace
from functools import partial

from tasks.contracts import Adapter
from tasks.model.halving import within_memory
from tasks.model.load import save
from tasks.process.parallel import in_ranks
from tasks.registry import tracking
from tasks.training.examples import ROWS
from tasks.training.fit import fit
from tasks.training.job import Job, job_of
from tasks.workspace.run import Run


def train(run: Run) -> Adapter:
    """Train the LoRA adapter; the loss runs in MLflow, checkpoints let a killed training go on."""
    began = time.monotonic()
    with tracking.tracked(run) as tracked:
        job = job_of(run, run.recipe, tracked, "train")
        adapter = within_memory(run, run.recipe, "train", partial(in_ranks, run.recipe.train.gpus, adapter_of, job, "train"))
        assert adapter and adapter.rows_file
        tracking.artifact(tracked, run.path(adapter.rows_file), "train")
    return replace(adapter, seconds=time.monotonic() - began)


def adapter_of(job: Job) -> Adapter | None:
    """Train and save the adapter, in each of the processes that train; the first one has it."""
    fitted = fit(job)
    if fitted is None:
        return None
    folder = job.run.attempt / "adapter"
    save(fitted.model, folder)
    if job.recipe.prompt.new_tokens:
        fitted.tokens.save(folder)
    fitted.rows.write(job.run.attempt / ROWS, fitted.passes)
    trainable, everything = fitted.model.get_nb_trainable_parameters()
    return Adapter(
        path=job.run.relative(folder),
        tracked=job.tracked,
        rows=len(fitted.rows.examples),
        steps=fitted.steps,
        epochs=fitted.epochs,
        final_loss=fitted.final_loss,
        trainable_parameters=trainable,
        all_parameters=everything,
        cut_rows=sum(example.cut for example in fitted.rows.examples),
        left_out_rows=fitted.rows.left_out,
        seconds=0.0,  # the step's whole time is known to the process that started this one
        resumed_from_step=fitted.resumed_from_step,
        emissions=fitted.emissions,
        halvings=job.halvings,
        rows_file=job.run.relative(job.run.attempt / ROWS),
    )
