"""What a laptop's user does: `loraflow up`, `retrain`, `down` at the shell, Airflow's and MLflow's pages in a real browser.

Commands and servers are processes of their own. The steps of one run are the real ones; those of the others are the quick ones of
tests/support/quick_steps.
"""

import re
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import psutil
import pytest

from tasks.contracts import STEPS
from tasks.local_servers import supervisor
from tasks.schema.recipe import Recipe
from tasks.workspace.location import run_folder
from tasks.workspace.run import RECIPE, Run
from tests.pipeline import browser
from tests.pipeline.shell import Shell, trains, wait_until
from tests.support import tiny
from tests.support.processes import until

pytestmark = [pytest.mark.trains, pytest.mark.timeout(1800)]

with_chromium = pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")

LONG = ("--param", "steps=100000", "--param", "learning_rate=1e-4")
"""A training that nobody waits for."""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_csv: Path) -> Iterator[Shell]:
    document = tiny.recipe_document(tiny_base, tiny_csv)
    typed = document | {"name": "typed", "local": {"train": {"rows": 90, "learning_rate": 3e-4}}}
    shell = Shell(tmp_path_factory.mktemp("embedded"), {"tiny": document, "typed": typed})
    shell.use_quick_steps()
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


@pytest.fixture(scope="module")
def real_run(up: Shell) -> tuple[str, str]:
    """A run with the real steps, followed at the shell to its end: its id, and what the shell showed."""
    with up.real_steps():
        code, said = up.type("retrain", "tiny", "--param", "rank=4")
    assert code == 0, said
    (run_id,) = up.run_states()
    return run_id, said


def test_a_recipe_is_retrained_and_the_run_followed(up: Shell, real_run: tuple[str, str]) -> None:
    _, said = real_run
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
    assert supervisor.is_running(up.places)  # they were up before, so they stay


@with_chromium
def test_a_user_reads_the_log_of_a_run_and_follows_its_links(up: Shell, real_run: tuple[str, str]) -> None:
    with browser.browser_page() as page:
        journey = browser.Journey(page, airflow_address(up), "tiny", run=real_run[0])
        assert "train: training 117/117 steps (100%)" in journey.read_log("train")
        assert "/#/experiments/" in journey.follow_link("train", "Model metrics")
        assert journey.follow_link("push", "champion").endswith("/#/models/tiny/versions/1")


def test_a_refused_run_ends_with_its_figures_and_a_fault(up: Shell, real_run: tuple[str, str]) -> None:
    code, said = up.type("retrain", "tiny", "--param", "steps=1", "--param", "learning_rate=1e-7", "--param", "data=latest")
    assert code == 1, said
    assert "promote failed: the end of its log" in said and "GateError\ntiny version 2: the gate refused it" in said
    assert re.search(r"To look further: loraflow up, then http://127.0.0.1:\d+/dags/retrain_tiny/runs/\w+/tasks/promote", said)
    assert re.search(r"Gate +refused", said) and re.search(r"Model in MLflow +tiny version 2\n", said)
    assert "champion (version 1)" in said


WRONG = {"rows": ["1,000", "1 000", "-5", "9e2"], "epochs": ["0,5", "nan"], "learning_rate": ["2e-4x"], "rank": ["8.5"]}


@with_chromium
def test_what_is_typed_is_frozen_or_refused_and_never_another_number(up: Shell) -> None:
    """Airflow's own number field made 1 of 2e-4, 1,000 and -5, and 1024 of 100000."""
    with browser.browser_page() as page:
        journey = browser.Journey(page, airflow_address(up), "typed")
        journey.open_dag()
        documentation = journey.read_documentation()
        assert "For tests." in documentation and "Licence of the base model" in documentation and "The form." in documentation

        before = up.run_states()
        for name, texts in {**WRONG, "base_model": ["no model"]}.items():
            for text in texts:
                form = journey.open_form()
                if name == "rank":
                    assert form.locator("[name=element_rank]").input_value() == ""  # the recipe's own value
                    assert "Rank of the adapter. A whole number from 1 to 1024. If empty: 8." in form.inner_text()
                journey.fill(form, {name: text})
                assert form.locator(f"[name=element_{name}]").input_value() == text
                assert f"Invalid input for param {name}: '{text}' does not match" in journey.is_refused(form)
        assert up.run_states() == before

        form = journey.open_form()
        journey.fill(form, {"rows": "90", "learning_rate": "2e-4", "epochs": "0.5", "steps": "600"})
        journey.section(form, "This run")
        journey.choose(form, "profile", "full")
        journey.trigger(form)
        frozen = recipe_of(up, journey.run)
        assert (frozen.profile, frozen.train.rows, frozen.train.learning_rate, frozen.train.num_train_epochs) == ("full", 90, 0.0002, 0.5)
        assert (frozen.lora.r, frozen.train.seed) == (8, 3)
        journey.watch()
        assert journey.green_tasks() == len(("start", *STEPS, "approve"))
        until(lambda: "running" not in up.run_states().values())  # a moment after its last task
        assert up.run_states() == before | {run_id_of(journey.run): "success"}

        journey.open_dag()
        form = journey.open_form()
        journey.fill(form, {"rank": "100000", "learning_rate": "2"})
        journey.trigger(form)
        log = journey.read_log("start", "rank is '100000' (expected: a whole number from 1 to 1024). Fix: correct the value")
        assert "trigger form of typed: learning_rate is '2' (expected: a number above 0 and up to 1). Fix: correct the value" in log


def airflow_address(shell: Shell) -> str:
    return f"http://127.0.0.1:{shell.env['LORAFLOW_AIRFLOW_PORT']}"


def run_id_of(run_page: str) -> str:
    """The id of the run at this address."""
    return unquote(run_page.rsplit("/", 1)[-1])


def recipe_of(shell: Shell, run_page: str) -> Recipe:
    """The recipe that `start` froze for the run at this address."""
    run = Run(run_folder(shell.places.home / "runs", "typed", run_id_of(run_page)))
    until(lambda: (run.folder / RECIPE).exists())
    return run.recipe


def test_ctrl_c_ends_the_run_and_leaves_servers_that_were_up(up: Shell) -> None:
    process = up.start("retrain", "tiny", *LONG)
    folder = wait_until(up.training, "training", process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert up.run_states()[folder.name] == "failed"
    wait_until(lambda: not any("train" in process.cmdline()[:4] for process in up.processes()), "the end of the step")
    assert supervisor.is_running(up.places)


def test_down_ends_all_and_the_next_start_resumes_what_it_cut_short(up: Shell) -> None:
    process = up.start("retrain", "typed", *LONG)
    folder = wait_until(up.training, "training", process)
    code, said = up.type("down")
    assert (code, said) == (0, "ended\n")
    assert not up.processes() and not supervisor.is_running(up.places)
    process.communicate(timeout=120)
    assert process.returncode == 75  # the servers went away under it
    assert up.type("down") == (0, "nothing to end\n")
    process = up.start("retrain", "tiny", *LONG)
    wait_until(up.training, "training", process)  # so long after the cut, the other one's progress is a new one
    wait_until(lambda: trains(folder), "the training to go on", process)
    ends_with_its_servers(up, process, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "kill -9"])
def test_servers_that_a_command_started_end_with_it(shell: Shell, number: signal.Signals) -> None:
    shell.type("down")
    ends_with_its_servers(shell, shell.start("retrain", "tiny", *LONG, "--param", "data=latest"), number)


def ends_with_its_servers(shell: Shell, process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Send a signal to a command that has started the servers and waits for its run's training; its servers end, however it ends."""
    folder = wait_until(shell.training, "training", process)
    started = shell.processes()
    assert len(started) >= 5
    process.send_signal(number)
    process.communicate(timeout=120)
    if number == signal.SIGKILL:
        wait_until(lambda: not supervisor.is_running(shell.places), "the supervisor to notice")
    else:
        assert shell.run_states()[folder.name] == "failed"
    assert process.returncode != 0
    assert not supervisor.is_running(shell.places) and not shell.processes()
    with sqlite3.connect(shell.places.airflow / "airflow.db") as connection:  # or every further start would resume it
        connection.execute("UPDATE dag_run SET state = 'failed' WHERE state = 'running'")
