"""The five kinds of task; `base.py` says what a kind is."""

from typing import Any


def __getattr__(name: str) -> Any:
    """What moved to `base.py`, for model versions registered before the move (see `tasks.MOVED`)."""
    if name in ("classes_of", "kind_of"):
        from tasks.kinds import base

        return getattr(base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
