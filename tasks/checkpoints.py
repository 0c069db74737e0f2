"""Training checkpoints that are known to be whole: a marker with every file's size, written last."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.workspace import write_atomically

if TYPE_CHECKING:
    from transformers import TrainerCallback

MARKER = "whole.json"


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint of a training whose files are all there in full; None where there is none."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((path for path in found if _is_whole(path)), None)


def whole_marker() -> "TrainerCallback":
    """A trainer callback that marks each checkpoint once it is saved."""
    from transformers import TrainerCallback

    class WholeMarker(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return WholeMarker()


def mark_whole(checkpoint: Path) -> None:
    """Say that a checkpoint is saved in full."""
    write_atomically(checkpoint / MARKER, json.dumps(_sizes(checkpoint), indent=2))


def _is_whole(checkpoint: Path) -> bool:
    try:
        promised = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return bool(promised) and promised == _sizes(checkpoint)


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != MARKER)
    return {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
