"""Training checkpoints as files: a checkpoint counts once its marker, written last, names every file with its size."""

import json
from pathlib import Path
from typing import Any

from tasks.workspace.files import write_atomically

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


def mark_whole(checkpoint: Path) -> None:
    """Say that a checkpoint is saved in full."""
    write_atomically(checkpoint / MARKER, json.dumps(_sizes(checkpoint), indent=2))


def best_of(checkpoint: Path) -> str | None:
    """Name of the checkpoint that the training had found best by then, where it looks for the best."""
    found = _state(checkpoint).get("best_model_checkpoint")
    return str(found).rstrip("/").rpartition("/")[2] if found else None


def relocate_best(checkpoint: Path) -> None:
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
