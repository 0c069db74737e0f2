"""SIGTERM: somebody, or the cluster, ends the step. A training saves a last checkpoint first; anything else ends at once.

A handler is installed in any case: for process 1 of a container the kernel's default is to do nothing. A second SIGTERM always ends
the process then and there.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tasks.errors import InterruptedRunError


class Ended(BaseException):  # no Exception: what it interrupts must not take it for a fault of its own
    """SIGTERM came where nothing waits to be saved; the block that the process ends with is its text."""


class _Hearing:
    """What the SIGTERMs of this process lead to."""

    def __init__(self) -> None:
        self.what = "step"
        self.count = 0
        self.act: Callable[[], None] = self.end
        self.patient = False

    def end(self) -> None:
        """End this process, what it holds given back on the way."""
        raise Ended(f"{InterruptedRunError.__name__}\n{ended(self.what)}")

    def hear(self, _: int, __: FrameType | None) -> None:
        """One came."""
        self.count += 1
        if self.count > 1 and not self.patient:
            say(f"\n{InterruptedRunError.__name__}\n{ended(self.what, ' at once, by a second SIGTERM')}\n")
            os._exit(InterruptedRunError.exit_code)
        self.act()


_hearing = _Hearing()


def ended(what: str, how: str = " by SIGTERM") -> InterruptedRunError:
    """The fault of a step that was ended in the midst of its work."""
    return InterruptedRunError(what, f"ended{how}", "", "a retry goes on from what is whole")


def say(line: str) -> None:
    """Print from within a signal's handler, where a buffered stream may be in the midst of a line."""
    os.write(sys.stderr.fileno(), line.encode())


def listen(what: str, act: Callable[[], None] | None = None, *, patient: bool = False) -> None:
    """Hear SIGTERM from here on.

    Args:
        what: name of the step, for the message.
        act: what the first one leads to; by default the process ends.
        patient: let later ones lead to nothing more than the first, since another process decides on the end of this one.
    """
    _hearing.what, _hearing.act, _hearing.patient = what, act or _hearing.end, patient
    signal.signal(signal.SIGTERM, _hearing.hear)


def exit_if_asked() -> None:
    """End here if a SIGTERM came that did not end the work that it came in.

    Raises:
        Ended: one did.
    """
    if _hearing.count:
        _hearing.end()


@contextmanager
def on_sigterm(act: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Inside, the first SIGTERM leads to `act` instead, and the work goes on; yields whether one came.

    Where nobody listens yet (`tasks` used as a library) it is listened to inside alone; outside the main thread, where Python takes
    no signals, not at all.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before, count, acted = signal.getsignal(signal.SIGTERM), _hearing.count, _hearing.act
    _hearing.act = act
    signal.signal(signal.SIGTERM, _hearing.hear)
    try:
        yield lambda: _hearing.count > count
    finally:
        _hearing.act = acted
        signal.signal(signal.SIGTERM, before)
        if before != _hearing.hear:
            _hearing.count = count
