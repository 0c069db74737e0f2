"""Training checkpoints that are known to be whole: a marker with every file's size, written last."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import InterruptedRunError
from tasks.files import write_atomically
from tasks.ranks import anywhere, wait_for_all

if TYPE_CHECKING:
    from transformers import TrainerCallback

MARKER = "whole.json"

STATE = "trainer_state.json"
"""Where transformers' Trainer keeps how far it is."""


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint of a training whose files are all there in full; None where there is none."""
    found = sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
    return next((path for path in found if _is_whole(path)), None)


def step_of(checkpoint: Path | None) -> int:
    """The optimiser step after which a checkpoint was saved; 0 for none."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def whole_marker(keep: Callable[[Path], object]) -> "TrainerCallback":
    """A trainer callback that marks each checkpoint once every process has saved its share of it, and hands it on.

    Args:
        keep: is given the checkpoint.
    """
    from transformers import TrainerCallback

    class WholeMarker(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            wait_for_all()
            if state.is_world_process_zero:
                checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                mark_whole(checkpoint)
                keep(checkpoint)

    return WholeMarker()


def last_checkpoint(asked: Callable[[], bool], step: str) -> "TrainerCallback":
    """A trainer callback that, once asked, saves a checkpoint after the running optimiser step and ends the training there.

    An epoch's last step is followed by what is due at the end of an epoch; that is done first, since a training that goes on from the
    checkpoint does not come by there again.

    Args:
        asked: whether the training is to end; with several processes it does where any of them was asked.
        step: name of the step that trains, for the message.

    Raises:
        InterruptedRunError: (while training) the checkpoint is saved.
    """
    from transformers import TrainerCallback

    class LastCheckpoint(TrainerCallback):  # type: ignore[misc, unused-ignore]
        _asked = _due = False

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._asked = anywhere(asked())
            self._due = self._asked and not float(state.epoch).is_integer()
            control.should_save |= self._due

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._due = self._asked
            control.should_save |= self._due

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self._due:
                wait_for_all()  # for the first one, which hands the checkpoint on
                found = f"SIGTERM stopped it at step {state.global_step} of {state.max_steps}, with a checkpoint"
                raise InterruptedRunError(step, found, "", "a retry goes on from there")

    return LastCheckpoint()


def mark_whole(checkpoint: Path) -> None:
    """Say that a checkpoint is saved in full."""
    write_atomically(checkpoint / MARKER, json.dumps(_sizes(checkpoint), indent=2))


def best_of(checkpoint: Path) -> str | None:
    """Name of the checkpoint that the training had found best by then, where it looks for the best."""
    found = _state(checkpoint).get("best_model_checkpoint")
    return str(found).rstrip("/").rpartition("/")[2] if found else None


def move_in(checkpoint: Path) -> None:
    """Let a whole checkpoint that was made on another machine name the best one where it lies here, beside it."""
    state, best = _state(checkpoint), best_of(checkpoint)
    if best is None or not _is_whole(checkpoint):
        return
    write_atomically(checkpoint / STATE, json.dumps(state | {"best_model_checkpoint": str(checkpoint.parent / best)}, indent=2))
    mark_whole(checkpoint)


def _state(checkpoint: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((checkpoint / STATE).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _is_whole(checkpoint: Path) -> bool:
    try:
        promised = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return bool(promised) and promised == _sizes(checkpoint)


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != MARKER)
    return {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
