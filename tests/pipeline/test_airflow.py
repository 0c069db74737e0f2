"""Runs of the tiny recipe through a real Airflow: what its users do, and what happens to its processes.

The steps are the quick ones of tests/support/quick_steps: real processes that write real manifests and train nothing. A whole run of
real steps through Airflow is in test_shell.py. The tests share one Airflow and build on one another's runs, in this order.
"""

import json
import os
import signal
from itertools import pairwise
from typing import Any

import psutil
import pytest
import yaml

from tasks.contracts import STEPS, Adapter, Approval, Comparison, Evaluation, Plan, Promotion, Publication, RegisteredVersion
from tasks.workspace.checkpoint_files import newest_whole
from tasks.workspace.progress import read_position
from tests.pipeline.airflow_servers import Airflow, AirflowRun, gone
from tests.support.quick_steps import hold, release

pytestmark = [pytest.mark.trains, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def first(airflow: Airflow) -> AirflowRun:
    """A run that a reviewer has to approve."""
    return airflow.trigger("tiny", promotion="manual", rank=4)


@pytest.fixture(scope="module")
def second(airflow: Airflow, first: AirflowRun) -> AirflowRun:
    """A run of the same recipe on the first one's data; its long steps wait until a test has found their processes."""
    run = airflow.trigger("tiny", data="latest", steps=60)
    for step in ("train", "merge", "evaluate"):
        hold(run.run, step)
    return run


@pytest.fixture(scope="module")
def sweep(airflow: Airflow, first: AirflowRun) -> AirflowRun:
    """A sweep of the same recipe, which runs while other tests wait for retries."""
    return airflow.trigger("tiny", use="sweep", data="latest", sizes=[12, 30], epochs=[1, 3])


@pytest.fixture(scope="module")
def hasty(airflow: Airflow, first: AirflowRun) -> AirflowRun:
    """A run of another recipe, which nobody answers."""
    return airflow.trigger("hasty")


def test_a_bad_value_is_refused_before_a_run_exists(airflow: Airflow) -> None:
    answer = airflow.try_to("POST", "/dags/retrain_tiny/dagRuns", json={"logical_date": None, "conf": {"rank": 0}})
    assert answer.status_code == 400 and "Invalid input for param rank: 0 is less than the minimum of 1" in answer.text
    assert airflow.ask("GET", "/dags/retrain_tiny/dagRuns")["total_entries"] == 0


def test_the_dag_shows_its_form_and_page(airflow: Airflow) -> None:
    details = airflow.ask("GET", "/dags/retrain_tiny/details")
    assert "Made-up" in details["description"] and "Licence of the data" in details["doc_md"]
    rows = details["params"]["rows"]
    assert rows["value"] is None and rows["schema"]["type"] == ["string", "integer", "null"] and rows["schema"]["minimum"] == 1
    docs = {task["task_id"]: task["doc_md"] for task in airflow.ask("GET", "/dags/retrain_tiny/tasks")["tasks"]}
    assert docs.keys() == {"start", "approve", *STEPS} and all(docs.values())


def test_a_reviewer_sees_the_figures_and_approves(first: AirflowRun, second: AirflowRun, hasty: AirflowRun) -> None:
    first.wait("approve", "awaiting_input")
    assert second.state == "queued"  # a second run of a recipe waits for the first
    assert hasty.state in ("running", "success")  # another recipe's does not
    evaluation, version = first.run.read(Evaluation), first.run.read(RegisteredVersion)
    asked = first.airflow.ask("GET", f"{first.path}/taskInstances/approve/-1/hitlDetails")
    assert asked["subject"] == "Make version 1 of tiny the champion?"
    assert f"| macro_f1 | {evaluation.tuned['macro_f1'].value:.3f} (" in asked["body"]
    for text in ("challenger (version 1)", "There is no champion yet.", f"({version.url})", *evaluation.verdict.reasons):
        assert text in asked["body"]
    first.answer("Approve", reason="reads well")
    assert first.end() == "success", first.told()
    assert set(first.states().values()) == {"success"}
    assert first.run.read(Approval) == Approval(approved=True, by="Anonymous", reason="reads well")
    assert first.run.read(Promotion).promoted and "reads well" in first.run.read(Promotion).reason
    assert first.run.read(Publication).model


def test_start_freezes_the_recipe_and_names_the_profile_first(first: AirflowRun) -> None:
    said = [record["event"] for record in first.log("start") if "dags.operators.start" in record["logger"]]
    assert said[0] == "profile local of recipe tiny"
    assert (first.run.recipe.lora.r, first.run.recipe.run.promotion) == (4, "manual")


def test_the_tasks_link_to_mlflow_and_hand_on_nothing_else(first: AirflowRun) -> None:
    run_url, version_url = first.run.read(Adapter).tracked.url, first.run.read(RegisteredVersion).url
    links = {name: first.link(name) for name in first.states()}
    assert {name: url for name, url in links.items() if url} == {
        **dict.fromkeys(("train", "merge", "evaluate"), run_url),
        **dict.fromkeys(("register", "approve", "promote", "push"), version_url),
    }
    xcoms = first.airflow.ask("GET", f"{first.path}/taskInstances/~/xcomEntries")["xcom_entries"]
    assert {entry["key"] for entry in xcoms} == {"_link_MlflowLink"}


def test_a_run_on_an_existing_version_skips_what_made_it(second: AirflowRun, sweep: AirflowRun) -> None:
    second.wait("version", "success")
    states = second.states()
    assert (states["download"], states["validate"], states["split"]) == ("success", "skipped", "skipped")


def test_kill_9_of_the_step_and_of_its_task_is_followed_by_a_resuming_retry(second: AirflowRun) -> None:
    for attempt, whom in ((1, "step"), (2, "task")):
        step = process_in_the_middle(second)
        task = step.parent()
        assert second.task("train")["try_number"] == attempt and task is not None
        os.kill({"step": step, "task": task}[whom].pid, signal.SIGKILL)
        second.airflow.until(lambda step=step, task=task: gone(step) and gone(task), f"no orphan after kill -9 of the {whom}")
    release(second.run, "train")
    second.wait("train", "success")
    adapter = second.run.read(Adapter)
    assert (adapter.steps, envelope(second, "train")["generation"], second.task("train")["try_number"]) == (60, 0, 3)
    assert adapter.resumed_from_step > 0
    blocks = [record["event"] for record in second.log("train", 1) if record["level"] == "error"]
    assert blocks[0] == "train: ended by SIGKILL (often: out of memory). Fix: a retry goes on from what is whole"


def test_kill_9_of_the_worker_is_followed_by_a_retry_that_ends_well(second: AirflowRun) -> None:
    step = process_at_work(second, "merge")
    task = step.parent()
    assert task is not None
    worker = task.parent()
    assert worker is not None and "airflow" in " ".join(worker.cmdline())
    os.kill(worker.pid, signal.SIGKILL)
    second.airflow.until(lambda: gone(step) and gone(task), "no orphan after kill -9 of the worker")
    assert not (second.run.folder / "merge.json").exists()
    release(second.run, "merge")
    second.wait("merge", "success")
    assert second.task("merge")["try_number"] == 2


def test_marking_a_task_failed_ends_its_process(second: AirflowRun) -> None:
    step = process_at_work(second, "evaluate")
    second.mark("evaluate", "failed")
    second.airflow.until(lambda: gone(step), "no process after marking its task")
    assert second.end() == "failed"
    assert not (second.run.folder / "evaluate.json").exists()


def test_no_answer_means_no(hasty: AirflowRun) -> None:
    assert hasty.end() == "success", hasty.told()
    assert hasty.run.read(Approval) == Approval(approved=False, by="nobody", reason="no answer in time")
    assert not hasty.run.read(Promotion).promoted
    states = hasty.states()
    assert (states.pop("push"), set(states.values())) == ("skipped", {"success"})


def test_a_cleared_approval_asks_anew_and_a_refusal_is_recorded(hasty: AirflowRun) -> None:
    hasty.clear("approve", downstream=True)
    hasty.wait("approve", "awaiting_input")
    hasty.answer("Reject", reason="too rude")
    assert hasty.end() == "success", hasty.told()
    assert hasty.run.read(Approval) == Approval(approved=False, by="Anonymous", reason="too rude")
    assert "too rude" in hasty.run.read(Promotion).reason
    assert envelope(hasty, "promote")["generation"] == 1
    assert hasty.states()["push"] == "skipped"


def test_a_sweep_maps_its_grid_over_data_made_once_and_compares(airflow: Airflow, sweep: AirflowRun) -> None:
    assert sweep.end() == "success", sweep.told()
    trials = sweep.instances("sweep_trial")
    assert {one["rendered_map_index"] for one in trials} == {"rows-30-seed-3", "rows-12-seed-3", "rows-12-seed-4"}
    spans = sorted((one["start_date"], one["end_date"]) for one in trials)
    assert all(before[1] <= after[0] for before, after in pairwise(spans)), "one training at a time"
    states = sweep.states()
    assert {states.pop(name) for name in ("validate", "split")} == {"skipped"}
    assert states == dict.fromkeys(("start", "preflight", "download", "version", "sweep_plan", "sweep_trial", "sweep_compare"), "success")
    table = sweep.run.path(sweep.run.read(Comparison).table).read_text(encoding="utf-8")
    assert "| macro_f1 after epochs | 1 | 3 |" in table and "| 30 rows |" in table
    assert {line for line in table.splitlines() if line.startswith("|")} <= {record["event"] for record in sweep.log("sweep_compare")}
    assert sweep.link("sweep_compare") == sweep.run.read(Plan).tracked.url

    written = (sweep.run.folder / "sweep_trial.rows-12-seed-4.json").read_bytes()
    (place,) = [one["map_index"] for one in trials if one["rendered_map_index"] == "rows-30-seed-3"]
    sweep.clear(("sweep_trial", place), downstream=True)
    airflow.until(lambda: sweep.state not in ("success", "failed"), "the sweep goes on")
    assert sweep.end() == "success", sweep.told()
    assert envelope(sweep, "sweep_trial.rows-30-seed-3")["generation"] == envelope(sweep, "sweep_compare")["generation"] == 1
    assert (sweep.run.folder / "sweep_trial.rows-12-seed-4.json").read_bytes() == written


def test_a_combination_that_the_form_cannot_express_is_refused_by_start(airflow: Airflow, hasty: AirflowRun) -> None:
    run = airflow.trigger("hasty", rows=2)
    assert run.end() == "failed"
    assert run.task("start")["try_number"] == 1
    errors = [record["event"] for record in run.log("start") if record["level"] == "error"]
    assert errors[0] == "RecipeErrors\nhasty.yaml: train.rows is 2 with 3 labels (expected: a row of each). Fix: use more rows"
    assert not any("error_detail" in record for record in run.log("start"))
    assert not run.run.folder.exists()


def test_a_broken_recipe_takes_only_its_own_dag_away(airflow: Airflow, hasty: AirflowRun) -> None:
    path = airflow.settings.recipes / "hasty.yaml"
    good = path.read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(good)
    document["lora"]["lora_alhpa"] = document["lora"].pop("lora_alpha")
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    (airflow.settings.recipes / "scrawl.yaml").write_text("name: [", encoding="utf-8")
    (error,) = airflow.until(lambda: airflow.ask("GET", "/importErrors")["import_errors"], "an import error")
    assert error["filename"] == "broken_recipes.py"
    assert "hasty.yaml: lora.lora_alhpa is not a key of lora. Fix: did you mean lora_alpha?" in error["stack_trace"]
    assert "scrawl.yaml: not readable as YAML" in error["stack_trace"]
    airflow.until(lambda: (airflow.dag("hasty") or {"is_stale": True})["is_stale"], "the broken recipe's DAG goes")
    tiny = airflow.dag("tiny")
    assert tiny and not tiny["is_stale"] and not tiny["has_import_errors"]
    path.write_text(good, encoding="utf-8")
    (airflow.settings.recipes / "scrawl.yaml").unlink()
    airflow.until(lambda: not airflow.ask("GET", "/importErrors")["import_errors"], "the import error goes")
    airflow.until(lambda: not (airflow.dag("hasty") or {"is_stale": True})["is_stale"], "the mended recipe's DAG comes back")


def envelope(run: AirflowRun, step: str) -> dict[str, Any]:
    return dict(json.loads((run.run.folder / f"{step}.json").read_text(encoding="utf-8")))


def process_at_work(run: AirflowRun, step: str) -> psutil.Process:
    """The process of a step that is held, once its attempt has begun."""
    process = run.process(step)
    run.airflow.until(lambda: any((run.run.folder / step).glob("g0-a*")), f"an attempt of {step}")
    return process


def process_in_the_middle(run: AirflowRun) -> psutil.Process:
    """The process of a training that has written a checkpoint, and has more to do."""
    process = run.process("train")
    began = process.create_time()

    def in_the_middle() -> bool:
        position = read_position(run.run)
        working = position is not None and position.step == "train" and position.at > began and position.done < position.total
        return working and newest_whole(run.run.folder / "train" / "g0-kept") is not None

    run.airflow.until(in_the_middle, "a checkpoint of the training")
    return process
