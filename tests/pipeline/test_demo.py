"""What a laptop's user types: `loraflow up`, `retrain`, `demo`, `down`, as processes of their own against a real Airflow."""

import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tasks.local_servers import supervisor
from tasks.schema import load as recipes
from tasks.settings import Settings
from tasks.workspace.files import link_or_copy
from tests.pipeline.shell import WAIT_SECONDS, Shell

pytestmark = [pytest.mark.trains, pytest.mark.timeout(1800)]

LONG = ("--param", "steps=100000", "--param", "learning_rate=1e-4")
"""A training that nobody waits for."""


def wait_until(what: Callable[[], Any], expected: str, process: subprocess.Popen[str] | None = None) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (value := what()):
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended before {expected}: {process.communicate()[0]}")
        assert time.monotonic() < deadline, f"not in {WAIT_SECONDS} s: {expected}"
        time.sleep(0.2)
    return value


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_csv: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("embedded"), tiny_base, tiny_csv)
    yield shell
    shell.type("down")


@pytest.fixture(scope="module")
def up(shell: Shell) -> Shell:
    code, said = shell.type("up")
    assert code == 0, said
    assert f"Airflow http://127.0.0.1:{shell.env['LORAFLOW_AIRFLOW_PORT']} · MLflow http://127.0.0.1:" in said
    assert "Airflow's UI ready after" in said and "MLflow's UI ready after" in said
    return shell


def test_up_again_changes_nothing(up: Shell) -> None:
    before = supervisor.read_state(up.places)
    code, said = up.type("up")
    assert code == 0 and "ready after" not in said
    assert supervisor.read_state(up.places) == before


def test_nothing_listens_beyond_loopback(up: Shell) -> None:
    listening = {
        connection.laddr
        for process in up.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert {str(address.port) for address in listening} >= {up.env["LORAFLOW_AIRFLOW_PORT"], up.env["LORAFLOW_MLFLOW_PORT"]}


def test_a_bad_value_is_told_before_a_run_exists(up: Shell) -> None:
    code, said = up.type("retrain", "tiny", "--param", "rank=0")
    assert code == 64
    assert said.endswith(
        "\nRecipeErrors\ntrigger form of tiny: rank is '0' (expected: a whole number from 1 to 1024). Fix: correct the value\n"
    )
    code, said = up.type("retrain", "tiny", "--param", "ranks=4")
    assert code == 64 and said.endswith("trigger form of tiny: ranks is not a field. Fix: did you mean rank?\n")
    assert up.run_states() == {}


def test_a_recipe_is_retrained_and_the_run_followed(up: Shell) -> None:
    code, said = up.type("retrain", "tiny", "--param", "rank=4")
    assert code == 0, said
    steps = ("start", "preflight", "download", "validate", "split", "version", "train", "merge", "evaluate", "register", "promote", "push")
    assert [step for step in steps if not re.search(rf"^{step}: done after \d+:\d\d$", said, re.M)] == []
    assert re.search(r"^  train: training \d+/117 steps \(\d+%\)", said, re.M), said
    for expected in (
        r"Rows read +400\n",
        r"Data set +data/tiny/v1 \(new\), hash [0-9a-f]{32}\.dir",
        r"Gate +passed",
        r"Model in MLflow +tiny version 1 \(champion\)",
        r"Promotion +auto: version 1 is the champion, there was none before it",
        r"Model card +/.*README\.md",
        r"The same 60 test rows, 95% intervals",
        r"macro_f1 +\d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\)",
        r"Time +preflight \d+:\d\d, download \d+:\d\d, [\s\S]*push +\d+:\d\d",  # in two lines
    ):
        assert re.search(expected, said), f"{expected}: {said}"
    assert supervisor.lives(up.places)  # they were up before, so they stay


def test_a_refused_run_ends_with_its_figures_and_a_fault(up: Shell) -> None:
    code, said = up.type("retrain", "tiny", "--param", "steps=1", "--param", "learning_rate=1e-7", "--param", "data=latest")
    assert code == 1, said
    assert "promote failed: the end of its log" in said and "GateError\ntiny version 2: the gate refused it" in said
    assert re.search(r"To look further: loraflow up, then http://127.0.0.1:\d+/dags/retrain_tiny/runs/\w+/tasks/promote", said)
    assert re.search(r"Gate +refused", said) and re.search(r"Model in MLflow +tiny version 2\n", said)
    assert "champion (version 1)" in said


def test_ctrl_c_ends_the_run_and_leaves_servers_that_were_up(up: Shell) -> None:
    process = up.start("retrain", "tiny", *LONG)
    folder = wait_until(up.trains, "training", process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert up.run_states()[folder.name] == "failed"
    wait_until(lambda: not any("train" in process.cmdline()[:4] for process in up.processes()), "the end of the step")
    assert supervisor.lives(up.places)


def test_down_ends_all_and_the_next_up_resumes_what_it_cut_short(up: Shell) -> None:
    process = up.start("retrain", "tiny", *LONG)
    folder = wait_until(up.trains, "training", process)
    code, said = up.type("down")
    assert (code, said) == (0, "ended\n")
    assert not up.processes() and not supervisor.lives(up.places)
    process.communicate(timeout=120)
    assert process.returncode == 75  # the servers went away under it
    assert up.type("down") == (0, "nothing to end\n")
    assert up.type("up")[0] == 0
    wait_until(lambda: up.trains() == folder, "the training to go on")
    assert up.type("down") == (0, "ended\n")
    with sqlite3.connect(up.places.airflow / "airflow.db") as connection:  # or every further start would resume it
        connection.execute("UPDATE dag_run SET state = 'failed' WHERE state = 'running'")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["Ctrl-C", "SIGTERM", "kill -9"])
def test_servers_that_a_command_started_end_with_it(shell: Shell, number: signal.Signals) -> None:
    shell.type("down")
    process = shell.start("retrain", "tiny", *LONG, "--param", "data=latest")
    folder = wait_until(shell.trains, "training", process)
    started = shell.processes()
    assert len(started) >= 5
    process.send_signal(number)
    process.communicate(timeout=120)
    if number == signal.SIGKILL:
        wait_until(lambda: not supervisor.lives(shell.places), "the keeper to notice")
    else:
        assert shell.run_states()[folder.name] == "failed"
    assert process.returncode != 0
    assert not supervisor.lives(shell.places) and not shell.processes()
    with sqlite3.connect(shell.places.airflow / "airflow.db") as connection:
        connection.execute("UPDATE dag_run SET state = 'failed' WHERE state = 'running'")


def test_the_demo_on_few_rows(tmp_path: Path, tiny_base: Path, tiny_csv: Path) -> None:
    """The real base model and the real tweets; both come out of packages, from the caches of this checkout where they are.

    Its parts for validation and test are smaller than the demo's, of whose 400 rows the base model alone takes minutes on two cores;
    that the demo's own parts are those of data.dvc, and that a run says so, is in tests/data/test_demo_data.py.
    """
    shell = Shell(tmp_path, tiny_base, tiny_csv)
    recipe = recipes.load(recipes.RECIPES / "tweets.yaml")
    recipe["split"] |= {"test": 60, "validation": 30}
    (Path(shell.env["LORAFLOW_RECIPES"]) / "tweets.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    here = Settings().home
    for cache in ("models", "sources"):
        if (here / cache).is_dir():
            link_or_copy(here / cache, shell.places.home / cache)
    code, said = shell.type("prefetch", "tweets")
    if code == 75:
        pytest.skip(f"the demo's packages are not to be had here: {said.splitlines()[-1]}")
    assert code == 0, said
    code, said = shell.type("demo", "--param", "rows=24", "--param", "promotion=never")
    assert code == 0, said
    assert "data/tweets/v1 (new, not what data.dvc pins)" in said
    assert re.search(r"Rows read +38,\d{3}\n", said) and re.search(r"Rows rejected +\d,\d{3}: ", said)
    assert "The same 60 test rows, 95% intervals" in said and re.search(r"Model in MLflow +tweets version 1", said)
    assert not shell.processes() and not supervisor.lives(shell.places)
