"""Start the embedded servers and end them: `up`, `down`, and `running` for as long as a command needs them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import httpx
import psutil
from rich.console import Console

from tasks.errors import RecipeError, ServiceError
from tasks.local_servers import configuration
from tasks.local_servers.configuration import HOST, Places
from tasks.local_servers.supervisor import State, is_running, kill_leftovers, locked, read_state, shown
from tasks.settings import CHECKOUT, Settings, settings

START_SECONDS = 300.0
LET_GO_SECONDS = 30.0
"""How long the servers may take to end."""
LOG_LINES = 20


def up(console: Console) -> State:
    """Start the servers, or find them running, and let them stay."""
    with _used() as places:
        state = _start(places, console)
        (places.servers / "up").touch()
        return state


def down(console: Console) -> bool:
    """End the servers and everything they started; whether there was anything to end."""
    places = Places(settings().home)
    if not places.servers.exists():
        return False
    with locked(places.servers / "change.lock", wait_seconds=START_SECONDS):
        (places.servers / "up").unlink(missing_ok=True)
        state, alive = read_state(places), is_running(places)
        if state is None:
            return False
        if alive:
            os.kill(state.pid, signal.SIGTERM)
            with console.status("ending the servers"):
                _wait_for_end(places)
        left = kill_leftovers(state.mark)
        return alive or left > 0


@contextmanager
def running(console: Console) -> Iterator[State]:
    """The servers, for as long as the block runs; those that were up before stay up after it."""
    places = Places(settings().home)
    try:
        with _used():
            yield _start(places, console)
    finally:
        signals = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        _leave(places, console)
        for number, handler in signals.items():
            signal.signal(number, handler)


@contextmanager
def _used() -> Iterator[Places]:
    """Hold a user's share; the supervisor lets the servers run while there is one."""
    places = Places(settings().home)
    with locked(places.servers / "users.lock", shared=True, wait_seconds=LET_GO_SECONDS) as held:
        if not held:
            raise ServiceError("servers", "still ending", f"gone after {LET_GO_SECONDS:.0f} s", "wait, or loraflow down")
        yield places


def _start(places: Places, console: Console) -> State:
    current = settings()
    configuration.check_paths(current)
    with locked(places.servers / "change.lock", wait_seconds=START_SECONDS) as mine:
        if not mine:
            raise ServiceError("servers", "another command starts or ends them", f"done after {START_SECONDS:.0f} s", "wait for it")
        if is_running(places):
            return _same(places, current)
        if old := read_state(places):
            kill_leftovers(old.mark)
        (places.servers / "up").unlink(missing_ok=True)
        (places.servers / "state.json").unlink(missing_ok=True)
        _check_port(current.airflow_port, "LORAFLOW_AIRFLOW_PORT", "Airflow")
        if current.mlflow_uri is None:
            _check_port(current.mlflow_port, "LORAFLOW_MLFLOW_PORT", "MLflow")
        places.logs.mkdir(parents=True, exist_ok=True)
        with (places.logs / "keeper.log").open("ab") as log:
            supervisor = subprocess.Popen(
                (sys.executable, "-m", "tasks.local_servers.supervisor"),
                env={**os.environ, "LORAFLOW_HOME": str(current.home), "PYTHONPATH": str(CHECKOUT)},
                cwd=places.home,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return _wait_until_ready(places, current, supervisor, console)


def _same(places: Places, current: Settings) -> State:
    """The state of the servers that run, which must run under this command's settings."""
    state = read_state(places)
    assert state is not None
    names = [name for name, value in shown(current).items() if state.settings.get(name) != value]
    if names:
        theirs = ", ".join(f"LORAFLOW_{name.upper()}={state.settings.get(name) or ''}" for name in names)
        ours = ", ".join(shown(current)[name] or "nothing" for name in names)
        raise RecipeError("servers", f"they run with {theirs}", f"{ours}", "make down first, or set what they were started with")
    return state


def _check_port(port: int, variable: str, whose: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise RecipeError(
                f"port {port}",
                f"not to be had for {whose} ({error.strerror})",
                "a free port",
                f"end what uses it, or set {variable}",
            ) from None


def _wait_until_ready(places: Places, current: Settings, supervisor: subprocess.Popen[bytes], console: Console) -> State:
    began, began_at = time.monotonic(), time.time()
    waiting = {"database": "Airflow's database", **_parts(current)}
    with console.status("starting") as status:
        while waiting:
            status.update(f"starting {', '.join(waiting.values())} ({time.monotonic() - began:.0f} s)")
            state = read_state(places)
            ended = supervisor.poll() is not None
            if ended or (state and state.ending):
                raise _failure(places, state.failed if state else None)
            if time.monotonic() - began > START_SECONDS:
                raise _failure(places, next(iter(waiting)), f"not ready after {START_SECONDS:.0f} s")
            for part in _ready(current, began_at) & waiting.keys():
                console.print(f"{waiting.pop(part)} ready after {time.monotonic() - began:.0f} s", highlight=False)
            time.sleep(0.5)
    state = read_state(places)
    assert state is not None
    return state


def _parts(current: Settings) -> dict[str, str]:
    parts = {"api-server": "Airflow's UI", "scheduler": "scheduler", "dag-processor": "DAG processor"}
    return {**parts, "mlflow": "MLflow's UI"} if current.mlflow_uri is None else parts


def _ready(current: Settings, since: float) -> set[str]:
    """The parts that answer, or whose heartbeat is younger than `since` (Unix time)."""
    ready = {"database"} if configuration.database_is_current(current) else set()
    if health := _get(f"{configuration.airflow_url(current)}/api/v2/monitor/health"):
        ready.add("api-server")
        for part in ("scheduler", "dag_processor"):
            beat = health.json()[part].get(f"latest_{part}_heartbeat")
            if beat and datetime.fromisoformat(beat).timestamp() >= since:
                ready.add(part.replace("_", "-"))
    if current.mlflow_uri is None and _get(f"http://{HOST}:{current.mlflow_port}/health"):
        ready.add("mlflow")
    return ready


def _get(url: str) -> httpx.Response | None:
    try:
        answer = httpx.get(url, timeout=5, trust_env=False)
    except httpx.HTTPError:
        return None
    return answer if answer.status_code == 200 else None


def _failure(places: Places, name: str | None, found: str = "ended while starting") -> ServiceError:
    log = places.logs / f"{name or 'keeper'}.log"
    return ServiceError(name or "servers", found, "a running server", f"see the end of {log}:\n{tail(log)}")


def tail(log: Path) -> str:
    """The last lines of a log."""
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])


def _leave(places: Places, console: Console) -> None:
    """End the servers and wait until they are gone, unless they stay, or another command needs them."""
    if (places.servers / "up").exists():
        return
    with console.status("ending the servers"):
        with locked(places.servers / "users.lock") as nobody_else:
            state = read_state(places)
            if nobody_else and state and is_running(places):
                os.kill(state.pid, signal.SIGTERM)  # it would notice by itself, a moment later
                _wait_for_end(places)
                return
        with locked(places.servers / "users.lock", shared=True) as others_use_them:
            if others_use_them:
                return
        _wait_for_end(places)


def _wait_for_end(places: Places) -> None:
    deadline = time.monotonic() + LET_GO_SECONDS
    while is_running(places) and time.monotonic() < deadline:
        time.sleep(0.2)
    if (state := read_state(places)) and is_running(places):
        psutil.Process(state.pid).kill()
        kill_leftovers(state.mark)
