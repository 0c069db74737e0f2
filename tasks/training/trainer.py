"""transformers' Trainer, with batches and losses that do not depend on how many processes and forward passes share a step."""

import math
from typing import Any

import numpy as np
import torch  # noqa: TID253 — this module is imported to train, and for nothing else
from accelerate.utils import gather_object
from torch.utils.data import DataLoader  # noqa: TID253
from transformers import EvalPrediction, Trainer  # noqa: TID253
from transformers.trainer_pt_utils import get_length_grouped_indices  # noqa: TID253
from transformers.trainer_utils import EvalLoopOutput  # noqa: TID253

from tasks.model.batches import IGNORED, PADDING_ROW, inputs_of
from tasks.training.batch_sampler import StepBatchSampler


class TrainingLoop(Trainer):  # type: ignore[misc, unused-ignore]
    """The library's loop, checkpoints and optimiser; its own are the rows of each forward pass, and what is a mean over what.

    The order of an epoch's rows comes from the data's seed and the epoch alone, so a training that goes on with smaller batches passes
    over exactly what it has seen. (The library draws a length-grouped order from the global random numbers, and fills the last batches
    of several processes with rows of the first.)
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._loss_shifts_labels = False  # our batches' labels are what the logits beside them predict: each of them counts

    def get_train_dataloader(self) -> Any:
        """Batches of this process; the dataset's last row is the silent one."""
        args, rows = self.args, self.train_dataset
        size, passes = args.per_device_train_batch_size, args.gradient_accumulation_steps
        own = StepBatchSampler(self._order, len(rows), size=size, passes=passes, rank=args.process_index, ranks=args.world_size)
        silent = {**min(rows, key=lambda row: len(row["input_ids"])), PADDING_ROW: True}
        return DataLoader([*rows, silent], batch_sampler=own, collate_fn=self.data_collator)  # type: ignore[arg-type]

    def _prepare_inputs(self, inputs: Any) -> Any:
        return super()._prepare_inputs(inputs_of(self.model, inputs))

    def _order(self, epoch: int) -> list[int]:
        """The order of an epoch's rows."""
        args, rows = self.args, self.train_dataset
        draw = torch.Generator().manual_seed(args.data_seed + epoch)
        if args.train_sampling_strategy == "group_by_length":
            lengths = [len(row["input_ids"]) for row in rows]
            return list(get_length_grouped_indices(lengths, self._rows_a_step(), generator=draw))
        return torch.randperm(len(rows), generator=draw).tolist()

    def _rows_a_step(self) -> int:
        args = self.args
        return int(args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size)

    def passes_of_rows(self, steps: int) -> list[int]:
        """How often each of the rows was passed over in the first optimiser steps of the training, (n_rows,).

        Args:
            steps: how many.
        """
        rows, size = len(self.train_dataset), self._rows_a_step()
        epochs, rest = divmod(steps, math.ceil(rows / size))
        passes = [epochs] * rows
        for row in self._order(epochs)[: rest * size]:
            passes[row] += 1
        return passes

    def _run_epoch(self, **given: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # its last checkpoint was the end of the training
            self.control.should_training_stop = True
            return
        given["train_dataloader"].batch_sampler.set_epoch(given["epoch"])
        super()._run_epoch(**given)

    def evaluation_loop(self, dataloader: Any, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> Any:
        """The mean loss over all that carries loss in the rows, and the metrics of all rows; each process takes a share of them."""
        rows, size = dataloader.dataset, self.args.per_device_eval_batch_size
        mine = range(self.args.process_index, len(rows), self.args.world_size)
        sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)  # loss, and how many carry it
        said: list[Any] = []
        self.model.eval()
        with torch.no_grad():
            for first in range(0, len(mine), size):
                places = mine[first : first + size]
                inputs = self._prepare_inputs(self.data_collator([rows[place] for place in places]))
                labels = inputs.pop("labels")
                outputs = self.model(**inputs)
                sums[0] += self.compute_loss_func(outputs, labels, num_items_in_batch=1)
                sums[1] += (labels != IGNORED).sum()
                if self.compute_metrics:
                    said += zip(places, outputs.logits.float().cpu().numpy(), labels.cpu().numpy(), strict=True)
        loss, count = self.accelerator.reduce(sums).tolist()
        found = {"loss": loss / count}
        if self.compute_metrics:
            said = sorted(gather_object(said), key=lambda row: row[0])
            logits, truth = (np.stack([row[part] for row in said]) for part in (1, 2))
            found |= self.compute_metrics(EvalPrediction(predictions=logits, label_ids=truth))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=len(rows))
