"""What processes do together in tests; nothing heavy, since each of them imports this."""

import os
import signal
import time
from pathlib import Path

from tasks.errors import DataError
from tasks.process.parallel import anywhere, rank


def fails(how: str) -> None:
    """Meet; then the second one fails while the first one waits for it."""
    anywhere(False)
    if rank() == 1:
        if how == "data":
            raise DataError("train.parquet: row 7", "the text is empty", "words", "add an expectation")
        if how == "bug":
            raise KeyError("nobody knows")
        if events := os.environ.get("EVENTS"):
            Path(events).write_text("oom_kill 2\n")
        os.kill(os.getpid(), signal.SIGKILL)
    anywhere(False)


def waits(folder: str) -> None:
    """Meet, say so, and wait for ever: the first one deaf to SIGTERM's flag, the second one in a collective."""
    anywhere(False)
    (Path(folder) / f"here-{rank()}").write_text(str(os.getpid()))
    if rank():
        anywhere(False)
    time.sleep(600)
