"""The embedded servers: their configuration, the supervisor that ends them whatever happens, and the table at a run's end."""

import configparser
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from tasks.doctor import settings as doctor_configuration
from tasks.doctor.scope import Scope
from tasks.errors import RecipeError, ServiceError
from tasks.local_servers import configuration, start_stop, supervisor
from tasks.local_servers.configuration import MARK, Places
from tasks.settings import CHECKOUT, settings
from tests.support.loopback import free_port
from tests.support.processes import until

KEEPER = """
import sys
from tasks.local_servers import configuration, supervisor
from tasks.local_servers.configuration import Server
from tasks.settings import settings
configuration.database_is_current = lambda settings: True
configuration.servers = lambda settings: [Server(name, (sys.executable, "-c", code)) for name, code in {servers!r}.items()]
sys.exit(supervisor.Supervisor(settings()).run())
"""
"""A supervisor of small servers."""

SLEEP = "import time; time.sleep(300)"
RUNAWAY = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True)
open(os.environ["LORAFLOW_HOME"] + "/runaway", "w").write(str(child.pid))
time.sleep(300)
"""
"""A server whose child leaves its process group, as Airflow's tasks do."""


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture(autouse=True)
def ports(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports that nobody else has: the user's own servers may be up."""
    for variable in ("LORAFLOW_AIRFLOW_PORT", "LORAFLOW_MLFLOW_PORT"):
        monkeypatch.setenv(variable, str(free_port()))


@pytest.fixture
def places(home: Path) -> Iterator[Places]:
    yield Places(home)
    if state := supervisor.read_state(Places(home)):
        supervisor.kill_leftovers(state.mark)


@pytest.fixture
def keep(places: Places) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a supervisor of small servers, and wait until they run."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**code: str) -> subprocess.Popen[bytes]:
        places.logs.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen((sys.executable, "-c", KEEPER.format(servers=code)), cwd=CHECKOUT)
        started.append(process)
        until(lambda: all((places.logs / f"{name}.log").exists() for name in code) and supervisor.is_running(places))
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_keys_are_drawn_once_and_are_for_nobody_else_to_read(home: Path) -> None:
    path = configuration.write_airflow_configuration(settings())
    first = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert configuration.write_airflow_configuration(settings()).read_text() == first
    read = configparser.ConfigParser()
    read.read(path)
    keys = [read["core"]["fernet_key"], read["api"]["secret_key"], read["api_auth"]["jwt_secret"]]
    assert len(set(keys)) == 3 and min(map(len, keys)) >= 44


def test_everything_listens_on_loopback_at_the_ports_of_the_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_AIRFLOW_PORT", "18999")
    monkeypatch.setenv("LORAFLOW_MLFLOW_PORT", "15999")
    read = configparser.ConfigParser()
    read.read(configuration.write_airflow_configuration(settings()))
    assert (read["api"]["host"], read["api"]["port"]) == ("127.0.0.1", "18999")
    assert read["core"]["execution_api_server_url"] == "http://127.0.0.1:18999/execution/"
    commands = {server.name: server.command for server in configuration.servers(settings())}
    assert commands["mlflow"][commands["mlflow"].index("--host") + 1] == "127.0.0.1" and "15999" in commands["mlflow"]
    assert "--skip-serve-logs" in commands["scheduler"]  # its log server listens everywhere


def test_a_percent_sign_in_the_home_folder_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_HOME", str(tmp_path / "100%s"))
    read = configparser.ConfigParser()
    read.read(configuration.write_airflow_configuration(settings()))
    assert read["database"]["sql_alchemy_conn"] == f"sqlite:///{tmp_path}/100%25s/airflow/airflow.db", "as SQLAlchemy reads it"


def test_the_servers_know_nothing_of_another_airflow_and_use_no_proxy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW_HOME", "/elsewhere")
    monkeypatch.setenv("NO_PROXY", "intranet")
    given = configuration.environment(settings(), "mark")
    assert not [name for name in given if name.startswith("AIRFLOW__")]
    assert given["AIRFLOW_HOME"] == str(home / "airflow") and given["LORAFLOW_HOME"] == str(home) and given[MARK] == "mark"
    assert given["NO_PROXY"] == given["no_proxy"] == "intranet,127.0.0.1,localhost"
    assert given["MLFLOW_DISABLE_TELEMETRY"] == "true" and given["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_preflight_finds_no_stranger_among_what_the_servers_hand_down(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in configuration.environment(settings(), "mark").items():
        monkeypatch.setenv(name, value)
    look = partial(doctor_configuration.configuration, Scope(settings(), None, str(home)))
    assert [(finding.level, finding.found) for finding in look()] == [("ok", "profile local, runner local")]
    monkeypatch.setenv("LORAFLOW_HOMME", "/elsewhere")
    assert [(finding.level, finding.found) for finding in look()] == [("warning", "LORAFLOW_HOMME is no setting")]


def test_with_another_tracking_server_no_mlflow_is_started(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", "http://tracking.example")
    assert [server.name for server in configuration.servers(settings())] == ["api-server", "scheduler", "dag-processor"]


def test_where_steps_are_pods_a_triggerer_waits_for_them(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_RUNNER", "kubernetes")
    assert "triggerer" in [server.name for server in configuration.servers(settings())]


def test_a_taken_port_is_named_with_its_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("LORAFLOW_AIRFLOW_PORT", str(port))
        with pytest.raises(RecipeError) as error:
            start_stop.up(Console())
    assert str(error.value).startswith(
        f"port {port}: not to be had for Airflow (Address already in use) (expected: a free port). Fix: end what"
    )
    assert str(error.value).endswith("set LORAFLOW_AIRFLOW_PORT")


def test_servers_that_run_under_other_settings_are_not_used(keep: Any, monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    with supervisor.locked(places.servers / "users.lock", shared=True):
        keep(one=SLEEP)
        monkeypatch.setenv("LORAFLOW_PROFILE", "full")
        with pytest.raises(RecipeError) as error, start_stop.running(Console()):
            pass
    assert str(error.value) == (
        "servers: they run with LORAFLOW_PROFILE=local (expected: full). Fix: make down first, or set what they were started with"
    )


def test_a_server_that_ends_while_starting_is_reported_with_the_end_of_its_log(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_RECIPES", "/nowhere")
    (home / "airflow" / "airflow.db").mkdir(parents=True)  # no database can be made here
    with pytest.raises(ServiceError) as error:
        start_stop.up(Console())
    assert str(error.value).startswith("migrate: ended while starting (expected: a running server). Fix: see the end of")
    assert "unable to open database file" in str(error.value)
    until(lambda: not supervisor.is_running(Places(home)))
    assert not (home / "servers" / "up").exists()


def test_the_servers_end_with_the_last_command_that_needs_them(keep: Any, places: Places) -> None:
    with supervisor.locked(places.servers / "users.lock", shared=True):
        with supervisor.locked(places.servers / "users.lock", shared=True):
            process = keep(one=SLEEP)
        time.sleep(3 * supervisor.LOOK_SECONDS)
        assert process.poll() is None
    assert process.wait(60) == 0
    assert not supervisor.is_running(places)


def test_the_servers_end_when_the_command_is_killed(keep: Any, places: Places) -> None:
    hold = "import sys, time; from pathlib import Path; from tasks.local_servers.supervisor import locked\n"
    hold += "with locked(Path(sys.argv[1]), shared=True): print(flush=True); time.sleep(300)"
    command = subprocess.Popen((sys.executable, "-c", hold, places.servers / "users.lock"), stdout=subprocess.PIPE, cwd=CHECKOUT)
    assert command.stdout
    command.stdout.readline()
    process = keep(one=RUNAWAY)
    child = int(until(lambda: (places.home / "runaway").exists() and (places.home / "runaway").read_text()))
    assert not gone(child)
    command.kill()
    assert process.wait(60) == 0
    until(lambda: gone(child))
    command.wait()
    command.stdout.close()


def test_one_server_that_ends_takes_the_others_along(keep: Any, places: Places) -> None:
    with supervisor.locked(places.servers / "users.lock", shared=True):
        go = places.home / "go"
        process = keep(one=SLEEP, two=f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.1)\nraise SystemExit(3)")
        go.touch()
        assert process.wait(60) == 1
    state = supervisor.read_state(places)
    assert state and state.failed == "two" and state.ending


def test_down_ends_what_stays_and_finds_nothing_the_second_time(keep: Any, places: Places) -> None:
    places.servers.mkdir(parents=True)
    (places.servers / "up").touch()
    process = keep(one=RUNAWAY)
    child = int(until(lambda: (places.home / "runaway").exists() and (places.home / "runaway").read_text()))
    time.sleep(2 * supervisor.LOOK_SECONDS)
    assert process.poll() is None
    assert start_stop.down(Console())
    assert process.wait(60) == 0
    until(lambda: gone(child))
    assert not start_stop.down(Console())


def test_down_ends_what_a_killed_supervisor_left_and_nobody_else(keep: Any, places: Places) -> None:
    places.servers.mkdir(parents=True)
    (places.servers / "up").touch()
    process = keep(one=RUNAWAY)
    child = int(until(lambda: (places.home / "runaway").exists() and (places.home / "runaway").read_text()))
    stranger = subprocess.Popen((sys.executable, "-c", SLEEP), env={**os.environ, MARK: "of another home"})
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not gone(child) and not supervisor.is_running(places)
    assert start_stop.down(Console())
    until(lambda: gone(child))
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_stale_state_never_ends_a_process_that_got_its_id(places: Places) -> None:
    stranger = subprocess.Popen((sys.executable, "-c", SLEEP))
    places.servers.mkdir(parents=True)
    current = settings()
    old = supervisor.Supervisor(current)
    old._state = supervisor.replace(old._state, pid=stranger.pid)
    old._tell()
    assert not start_stop.down(Console())
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
