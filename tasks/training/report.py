"""What is seen of a training while it runs: metrics in MLflow, the position for the log, and an end at a loss that is no number."""

import math
import sys
import time
from typing import TYPE_CHECKING, Any

from tasks.contracts import TrackedRun
from tasks.errors import RecipeError, ServiceError
from tasks.registry import tracking
from tasks.schema.recipe import Recipe
from tasks.secrets.redaction import in_one_line
from tasks.workspace.progress import Progress

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from transformers import TrainerCallback


def training_report(recipe: Recipe, tracked: TrackedRun, progress: Progress, data_tag: str) -> "TrainerCallback":
    """A trainer callback that reports to MLflow and to the progress.

    Metrics that MLflow does not take are kept and sent with the next ones; a training does not end for want of a report, but it
    does not finish without one either.

    Raises:
        RecipeError: (while training) the loss is not a finite number.
        ServiceError: (at the end) MLflow did not take the metrics.
    """
    from transformers import TrainerCallback

    sender = _Sender(tracked)
    known = _flat(recipe.model_dump(mode="json", include={"base_model", "lora", "train", "prompt"}))
    tracking.parameters(tracked, {**known, "data.version": data_tag})

    class TrainingReport(TrainerCallback):  # type: ignore[misc, unused-ignore]
        _tokens, _at, _logged = 0, 0.0, 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress.start_at(state.global_step)
            self._tokens, self._at, self._logged = state.num_input_tokens_seen, time.monotonic(), state.global_step

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress.reach(state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if logs and "eval_loss" in logs:
                held_out = {key: float(value) for key, value in logs.items() if key.startswith("eval_")}
                sender.send({key.replace("eval_", "validation.", 1): value for key, value in held_out.items()}, state.global_step)
            if logs is None or "loss" not in logs:
                return
            loss, first, last = float(logs["loss"]), self._logged + 1, state.global_step  # the mean since it was last logged
            self._logged = last
            if not math.isfinite(loss):
                where = f"train: step {last}" if first == last else f"train: steps {first} to {last}"
                raise RecipeError(where, f"the loss is {loss}", "a finite number", "lower train.learning_rate")
            now = time.monotonic()
            speed = (state.num_input_tokens_seen - self._tokens) / max(now - self._at, 1e-9)
            self._tokens, self._at = state.num_input_tokens_seen, now
            progress.reach(state.global_step, f"loss {loss:.3f}")
            figures = {"loss": loss, "tokens_per_second": float(speed), "memory_gib": _memory_gib(), "epoch": float(state.epoch or 0)}
            figures |= {key: float(logs[key]) for key in ("learning_rate", "grad_norm") if key in logs}
            sender.send({f"train.{key}": value for key, value in figures.items()}, state.global_step)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            sender.finish()

    return TrainingReport()


class _Sender:
    """Sends metrics, and keeps what was not taken."""

    def __init__(self, tracked: TrackedRun) -> None:
        self._client, self._run_id = tracking.client(), tracked.run_id
        self._waiting: list[Metric] = []

    def send(self, figures: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now = int(time.time() * 1000)
        self._waiting += [Metric(key, value, now, step) for key, value in figures.items()]
        try:
            self._client.log_batch(self._run_id, metrics=self._waiting[:1000])
        except MlflowException as error:
            waiting, said = len(self._waiting), in_one_line(error)
            print(f"train: MLflow did not take {waiting} metrics, kept for later: {said}", file=sys.stderr, flush=True)
        else:
            self._waiting = self._waiting[1000:]

    def finish(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            while self._waiting:
                self._client.log_batch(self._run_id, metrics=self._waiting[:1000])
                self._waiting = self._waiting[1000:]
        except MlflowException as error:
            raise ServiceError(
                "train: MLflow", f"does not take the last metrics ({in_one_line(error)})", "a tracking server", "mend it and retry"
            ) from None


def _memory_gib() -> float:
    """Memory in use: the GPU's highest mark where there is one, otherwise this process's resident size."""
    import psutil
    import torch

    in_use = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss
    return float(in_use) / 2**30


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, str]:
    result: dict[str, str] = {}
    for key, value in document.items():
        result |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return result
