"""What a container has printed: lines with the time of each, kept after its end."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Line:
    """A line and when it came, in nanoseconds."""

    time_ns: int
    text: bytes

    def shown(self, timestamps: bool) -> bytes:
        """As the API sends it."""
        return (_stamp(self.time_ns).encode() + b" " if timestamps else b"") + self.text + b"\n"


class Log:
    """Lines of one container; a reader may follow."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self.lines: list[Line] = []
        self.closed = False
        self._told = told
        self._grown = threading.Condition()

    def add(self, text: str) -> None:
        """Keep a line, and tell whoever waits for it."""
        with self._grown:
            self.lines.append(Line(time.time_ns(), text.encode()))
            self._grown.notify_all()
        self._told(text)

    def close(self) -> None:
        """No more will come."""
        with self._grown:
            self.closed = True
            self._grown.notify_all()

    def text(self) -> str:
        """All of it."""
        return "".join(f"{line.text.decode(errors='replace')}\n" for line in self.lines)

    def follow(self, start: int, tick: float = 0.2) -> Iterator[Line | None]:
        """Lines from a place on, as they come, until the log is closed; None now and then where nothing comes."""
        while True:
            with self._grown:
                if start >= len(self.lines) and not self.closed:
                    self._grown.wait(tick)
                found, closed = self.lines[start:], self.closed
            yield from found
            start += len(found)
            if closed and not found:
                return
            if not found:
                yield None


def _stamp(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
