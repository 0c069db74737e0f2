"""What a step prints, on its way into a task's log: line by line as it comes, but for the block that it ends with.

That block is the fault, or why the step was skipped; it ends the log in one readable piece, whatever else is logged meanwhile.
"""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from tasks import errors
from tasks.secrets.redaction import without_secrets

_OURS = "|".join(name for name in vars(errors) if name.endswith(("Error", "Errors")))
LAST_WORDS = re.compile(rf"skipped: .*|{_OURS}|Traceback \(most recent call last\):")
"""How the block begins that a process prints before it fails or skips."""
LAST_SECONDS = 5.0
"""A block that is followed by more output after this time was not the last."""
MARGIN_SECONDS = 10.0
"""A pod's log is asked for by its age, by a clock that is not ours; `Place` leaves out what was read before."""


class StepLog:
    """Lines in, readable pieces out.

    Args:
        say: takes a piece and the time at which it began.
    """

    def __init__(self, say: Callable[[str, float], None]) -> None:
        self._say = say
        self._block: list[str] = []
        self._began = 0.0

    def take(self, line: str, at: float) -> None:
        """The next line, printed at a time in seconds; what native code prints past the step's own streams may hold secrets."""
        line = without_secrets(line)
        if self._block and at - self._began > LAST_SECONDS:
            self.flush()
        if self._block:
            self._block.append(line)
        elif LAST_WORDS.fullmatch(line):
            self._block, self._began = [line], at
        elif line:
            self._say(line, at)

    def flush(self) -> None:
        """Say what is held back: it was not the last."""
        if self._block:
            self._say("\n".join(self._block), self._began)
        self._block = []

    @property
    def last_words(self) -> str:
        """The block that is held back."""
        return "\n".join(self._block).strip()


@dataclass
class LogPosition:
    """How far a pod's log has been read.

    Kubernetes asks for logs by whole seconds; times of lines, in nanoseconds, say which of them are new. Several may bear the same.

    Attributes:
        at: time of the last line.
        lines: how many lines of that time were read.
    """

    at: int = 0
    lines: int = 0

    def age(self) -> int | None:
        """How many seconds of log hold what comes after; None where all of it does."""
        return max(1, math.ceil(time.time() - self.at / 10**9 + MARGIN_SECONDS)) if self.at else None

    def unread(self, lines: Iterable[str]) -> Iterator[tuple[float, str]]:
        """Time in seconds and text of those of a log's lines, times before them, that come after this place; it moves on with them."""
        passed = 0
        for line in lines:
            stamp, _, text = line.rstrip("\r\n").partition(" ")
            try:
                at = nanoseconds(stamp)
            except ValueError:  # a remark of the API's own
                continue
            if at < self.at:
                continue
            if at == self.at:
                passed += 1
                if passed <= self.lines:
                    continue
                self.lines += 1
            else:
                self.at, self.lines, passed = at, 1, 1
            yield at / 10**9, text


def nanoseconds(stamp: str) -> int:
    """Nanoseconds since 1970 of a time in RFC 3339, of which Python's own reader keeps microseconds alone.

    Raises:
        ValueError: it is no such time.
    """
    if not (match := re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", stamp)):
        raise ValueError(stamp)
    whole, fraction, zone = match.groups()
    return int(datetime.fromisoformat(whole + zone).timestamp()) * 10**9 + int((fraction or "").ljust(9, "0"))


def timestamp(at: float) -> str:
    """Seconds since 1970 as Airflow's logs bear times."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
