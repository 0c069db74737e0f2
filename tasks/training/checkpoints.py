"""Trainer callbacks around checkpoints: mark each one as whole, and save a last one when the training is asked to end."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import InterruptedRunError
from tasks.process.parallel import anywhere, wait_for_all
from tasks.workspace.checkpoint_files import mark_whole

if TYPE_CHECKING:
    from transformers import TrainerCallback


def completion_callback(keep: Callable[[Path], object]) -> "TrainerCallback":
    """A trainer callback that marks each checkpoint once every process has saved its share of it, and hands it on.

    Args:
        keep: is given the checkpoint.
    """
    from transformers import TrainerCallback

    class CompletionCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            wait_for_all()
            if state.is_world_process_zero:
                checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                mark_whole(checkpoint)
                keep(checkpoint)

    return CompletionCallback()


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
