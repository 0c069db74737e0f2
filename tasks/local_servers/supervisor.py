"""The process that keeps the embedded servers: starts them, and ends them when nobody needs them any more.

    servers/keeper.lock    held as long as the supervisor lives
            users.lock     held, shared, by each command that needs the servers; the supervisor's own once it ends
            up             there after `loraflow up`: the servers stay without a user
            state.json     the supervisor's process id, the mark of its processes, addresses, what went wrong

The locks are the kernel's (flock): they go with their process however it dies, and a process id that another process got
since is never taken for ours.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from types import FrameType
from typing import IO, Any

import psutil

from tasks.local_servers import configuration
from tasks.local_servers.configuration import MARK, Places, Server
from tasks.settings import Settings, settings
from tasks.workspace.files import write_atomically

LOOK_SECONDS = 0.5
END_SECONDS = 5.0


@dataclass(frozen=True)
class State:
    """What the supervisor lets others know."""

    pid: int
    mark: str
    """Value of the environment variable MARK in every process that the supervisor started."""
    started: float
    """Unix time."""
    airflow: str
    mlflow: str | None
    settings: dict[str, str | None]
    """The settings that the servers run under."""
    ending: bool = False
    failed: str | None = None
    """Name of the server that ended by itself."""


def read_state(places: Places) -> State | None:
    """What the last supervisor wrote."""
    try:
        return State(**json.loads((places.servers / "state.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


@contextmanager
def locked(path: Path, *, shared: bool = False, wait_seconds: float = 0.0) -> Iterator[bool]:
    """Hold a lock file while the block runs; the block is told whether it was to be had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    with path.open("a") as stream:
        while not (held := _lock(stream, shared)) and time.monotonic() < deadline:
            time.sleep(0.1)
        yield held


def is_running(places: Places) -> bool:
    """Whether a supervisor runs."""
    with locked(places.servers / "keeper.lock", shared=True) as free:
        return not free


def kill_leftovers(mark: str) -> int:
    """End every process that carries the mark; how many there were."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                process.kill()
                found.append(process)
    deadline = time.monotonic() + END_SECONDS
    while any(_runs(process) for process in found) and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(found)


def _runs(process: psutil.Process) -> bool:
    """Whether a process still does anything; one that its parent has not waited for does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def shown(current: Settings) -> dict[str, str | None]:
    """The settings as text, to tell whether two processes have the same."""
    return {name: None if value is None else str(value) for name, value in current.model_dump().items()}


class Supervisor:
    """Starts the servers, looks after them, ends them."""

    def __init__(self, current: Settings) -> None:
        self._settings, self._places = current, Places(current.home)
        self._state = State(
            pid=os.getpid(),
            mark=token_hex(16),
            started=time.time(),
            airflow=configuration.airflow_url(current),
            mlflow=current.mlflow_ui_url if current.mlflow_uri is None else None,
            settings=shown(current),
        )
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._asked_to_end = False

    def run(self) -> int:
        """Keep the servers until nobody needs them, one of them ends, or a signal comes."""
        with locked(self._places.servers / "keeper.lock", wait_seconds=5) as mine:
            if not mine:
                return 0
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, self._on_signal)
            self._tell()
            try:
                if self._prepare():
                    for server in configuration.servers(self._settings):
                        self._start(server)
                return self._watch()
            finally:
                self._end()

    def _prepare(self) -> bool:
        configuration.write_airflow_configuration(self._settings)
        for folder in (self._places.mlflow, self._places.logs):
            folder.mkdir(parents=True, exist_ok=True)
        if configuration.database_is_current(self._settings):
            return True
        migration = self._start(Server("migrate", (sys.executable, "-m", "airflow", "db", "migrate")))
        while migration.poll() is None and not self._over():
            time.sleep(LOOK_SECONDS)
        if migration.poll() != 0:
            return False
        del self._running["migrate"]
        configuration.stamp_database(self._settings)
        return True

    def _start(self, server: Server) -> subprocess.Popen[bytes]:
        log = self._places.logs / f"{server.name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        with log.open("wb") as stream:
            process = subprocess.Popen(
                server.command,
                env=configuration.environment(self._settings, self._state.mark),
                cwd=self._places.airflow,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        self._running[server.name] = process
        return process

    def _watch(self) -> int:
        while not self._over():
            for name, process in self._running.items():
                if process.poll() is not None:
                    _say(f"{name} ended with exit code {process.returncode}, see {name}.log")
                    self._tell(failed=name)
                    return 1
            time.sleep(LOOK_SECONDS)
        return 0

    def _over(self) -> bool:
        """Whether it is time to end."""
        if self._asked_to_end:
            _say("asked to end")
            return True
        if self._unused():
            _say("no command needs the servers")
            return True
        return False

    def _unused(self) -> bool:
        """Whether neither `up` nor a living command needs the servers; from then on no command comes to need them."""
        if (self._places.servers / "up").exists():
            return False
        self._users: IO[Any] = (self._places.servers / "users.lock").open("a")
        if _lock(self._users, shared=False):
            return True
        self._users.close()
        return False

    def _end(self) -> None:
        """End all: running steps at once (their retry resumes), then the servers in good order, then what is left."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._tell(ending=True)
        if scheduler := self._running.get("scheduler"):
            with suppress(psutil.Error):
                for process in psutil.Process(scheduler.pid).children(recursive=True):
                    with suppress(psutil.Error):
                        process.kill()
        for process in self._running.values():
            process.terminate()
        deadline = time.monotonic() + END_SECONDS
        for process in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        kill_leftovers(self._state.mark)
        _say("all servers have ended")

    def _tell(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)
        write_atomically(self._places.servers / "state.json", json.dumps(asdict(self._state), indent=2))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked_to_end = True


def _say(text: str) -> None:
    print(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} keeper {os.getpid()}: {text}", flush=True)


def _lock(stream: IO[Any], shared: bool) -> bool:
    try:
        fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(Supervisor(settings()).run())
