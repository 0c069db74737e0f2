"""How far a step is: a bar in a terminal, sane lines in a log, and a small file for whoever follows the run from outside."""

import json
import sys
import time
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from tasks.errors import ServiceError
from tasks.workspace.run import Run

LOG_SECONDS = 10.0
FILE_SECONDS = 1.0
FILE = "progress.json"


@dataclass(frozen=True)
class Position:
    """Where a step stands; `progress.json` beside the run's manifests."""

    step: str
    what: str
    """What is being done, in a few words."""
    done: int
    total: int
    unit: str
    seconds_left: float | None
    note: str
    """Figures of the moment, `loss 0.53` for example."""
    at: float
    """Unix time of writing."""

    def line(self) -> str:
        """The position in one line."""
        share = f" ({self.done / self.total:.0%})" if self.total else ""
        left = f" · {clock(self.seconds_left)} left" if self.seconds_left is not None and self.done < self.total else ""
        note = f" · {self.note}" if self.note else ""
        return f"{self.step}: {self.what} {self.done:,}/{self.total:,} {self.unit}{share}{note}{left}"


class Progress:
    """A step's progress over a known number of things, as a context manager.

    In a terminal it is a bar; otherwise a line at the start, the end and every ten seconds between. Without a run
    (`loraflow prefetch`) there is no file to follow it by.
    """

    def __init__(self, run: Run | None, step: str, what: str, total: int, unit: str) -> None:
        self._run = run
        self._step, self._what, self._total, self._unit = step, what, total, unit
        self._done, self._note = 0, ""
        self._began = time.monotonic()
        self._began_at = 0
        self._filed = self._logged = float("-inf")
        self._bar: Bar | None = None

    def __enter__(self) -> "Progress":
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=console)
            self._bar.start()
            self._task = self._bar.add_task(f"{self._step}: {self._what}", total=self._total, note="")
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self._logged = self._filed = float("-inf")
        self._show()
        if self._bar:
            self._bar.stop()

    def start_at(self, done: int) -> None:
        """Begin at a position that an earlier attempt reached, so that the time left is told by this one's speed."""
        self._done = self._began_at = done
        self._began = time.monotonic()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """`count` more are done."""
        self.reach(self._done + count, note)

    def reach(self, done: int, note: str | None = None) -> None:
        """`done` are done in all."""
        self._done = done
        self._note = self._note if note is None else note
        self._show()

    def position(self) -> Position:
        """Where the step stands now."""
        spent, here = time.monotonic() - self._began, self._done - self._began_at
        left = spent / here * (self._total - self._done) if here else None
        return Position(self._step, self._what, self._done, self._total, self._unit, left, self._note, time.time())

    def _show(self) -> None:
        now, position = time.monotonic(), self.position()
        if self._run and now - self._filed >= FILE_SECONDS:
            self._filed = now
            self._run.note(FILE, json.dumps(asdict(position)))
        if self._bar:
            self._bar.update(self._task, completed=self._done, note=self._note)
        elif now - self._logged >= LOG_SECONDS:
            self._logged = now
            print(position.line(), file=sys.stderr, flush=True)


def read_position(run: Run) -> Position | None:
    """The last position that a step of this run wrote."""
    try:
        return Position(**json.loads(run.get(FILE) or ""))
    except (ServiceError, ValueError, TypeError):
        return None


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
