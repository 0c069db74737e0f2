"""The whole pipeline with every step in a pod, on a production set; what happens to pods, workers and triggerers on the way.

One run has real steps, and leaves everything where production keeps it. That a training which is killed on a bucket ends as an
undisturbed one is in tests/runs/test_run_on_s3.py. The pods of the other runs run the quick steps of tests/support/quick_steps.

`make test-cluster KUBECONFIG=…` runs those of these tests that need no switch of the fake on a real cluster.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
import yaml

from tasks.contracts import STEPS, Adapter, Evaluation, Promotion, Publication, RegisteredVersion
from tasks.schema import load as recipes
from tasks.workspace.progress import read_position
from tests.pipeline import production
from tests.pipeline.airflow_servers import AirflowRun
from tests.pipeline.production import KUBECONFIG, Production
from tests.support import tiny
from tests.support.kubernetes_api import faults, images
from tests.support.planted import leaks
from tests.support.quick_steps import hold

pytestmark = [pytest.mark.trains, pytest.mark.timeout(1800)]
needs_the_fake = pytest.mark.skipif(bool(KUBECONFIG), reason="a real cluster has no switch for this")

RECIPE = "tweets" if KUBECONFIG else "tiny"
"""On a real cluster the base model has to come from where pods can fetch it: the demo's, out of a package, with few rows."""
VALUES: dict[str, Any] = {"rows": 60, "steps": 12} if KUBECONFIG else {}


@pytest.fixture(scope="module")
def document(tiny_base: Path, tiny_csv: Path) -> dict[str, Any]:
    """The recipe; its training takes long enough to be disturbed in the middle."""
    if KUBECONFIG:
        return recipes.load(recipes.RECIPES / "tweets.yaml")
    found = tiny.recipe_document(tiny_base, tiny_csv)
    found["train"] |= {"max_steps": 120}
    return found | {"pods": {"resources": {"cpu": "500m", "memory": "2Gi", "ephemeral_storage": "5Gi"}, "grace_seconds": 30}}


@pytest.fixture(scope="module")
def production_set(tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]) -> Iterator[Production]:
    """Everything that a team would have, on loopback; or its own cluster."""
    folder = tmp_path_factory.mktemp("production")
    (folder / "recipes").mkdir()
    (folder / "recipes" / f"{RECIPE}.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    if KUBECONFIG:
        with production.on_a_cluster(folder, folder / "recipes", Path(KUBECONFIG)) as found:
            yield found
    else:
        with production.on_loopback(folder, folder / "recipes") as found:
            yield found


@pytest.fixture
def quick_steps(production_set: Production) -> Iterator[None]:
    """The fake's image of the steps holds the quick ones; on a real cluster the real ones run."""
    fake = production_set.fake
    if fake:
        fake.add_image(images.STEPS, images.known_images()[images.QUICK_STEPS])
    yield
    if fake:
        fake.add_image(images.STEPS, images.known_images()[images.STEPS])


@pytest.fixture(scope="module")
def stormy(production_set: Production) -> AirflowRun:
    """A run that is to come through whatever befalls it; the tests below let it happen, in this order."""
    if production_set.fake:
        fake = production_set.fake
        fake.arm(faults.lose, at="exit", **{"loraflow/step": "split"})  # gone before anybody saw how it ended
    return production_set.airflow.trigger(RECIPE, **VALUES)


def test_an_eviction_in_the_middle_of_the_training_is_made_good_from_the_last_checkpoint(
    production_set: Production, stormy: AirflowRun
) -> None:
    wait_for(lambda: in_the_middle(production_set, stormy), stormy, "a training in its middle")
    pod = production_set.pod(stormy, "train")
    assert pod is not None
    if production_set.fake:
        production_set.fake.strike(faults.preempt, pod.metadata.name)
    else:
        production_set.pods.delete_namespaced_pod(pod.metadata.name, production_set.namespace)
    wait_for(lambda: another(production_set, stormy, "train", pod.metadata.uid), stormy, "another pod of train")


def test_a_triggerer_that_dies_neither_ends_nor_doubles_the_pod(production_set: Production, stormy: AirflowRun) -> None:
    pod = wait_for(lambda: production_set.pod(stormy, "train"), stormy, "a pod of train")
    production_set.airflow.kill("triggerer")
    stormy.wait("train", "success")
    if production_set.fake:
        pods = production_set.fake.pods(**{"loraflow/step": "train"})
        assert [each["metadata"]["uid"] for each in pods][1:] == [pod.metadata.uid]  # after the one that was pre-empted
    assert stormy.run.read(Adapter).resumed_from_step > 0
    assert stormy.task("train")["try_number"] == 1  # what the cluster does to a pod uses up no try


@needs_the_fake
def test_a_worker_that_dies_neither_ends_nor_doubles_the_pod(production_set: Production, stormy: AirflowRun) -> None:
    fake = production_set.fake
    assert fake
    wait_for(lambda: stormy.task("evaluate")["state"] == "running", stormy, "a worker that has evaluate in hand")
    fake.linger(5.0)  # so that it waits for the answer when its pod is there
    (made,) = wait_for(lambda: fake.pods(**{"loraflow/step": "evaluate"}), stormy, "a pod of evaluate")
    kill_worker(stormy, "evaluate")
    fake.linger(0.0)
    stormy.wait("evaluate", "success")
    assert [pod["metadata"]["uid"] for pod in fake.pods(**{"loraflow/step": "evaluate"})] == [made["metadata"]["uid"]]
    assert stormy.task("evaluate")["try_number"] == 2


def test_the_run_ends_with_a_version_that_passed_the_gate(stormy: AirflowRun) -> None:
    assert stormy.end() == "success", stormy.told()
    assert stormy.run.read(Evaluation).verdict.passed
    assert stormy.run.read(Promotion).promoted and stormy.run.read(RegisteredVersion).version >= 1


@needs_the_fake
def test_everything_lies_where_production_keeps_it(production_set: Production, stormy: AirflowRun) -> None:
    assert production_set.s3 and production_set.hub and production_set.database
    keys = [each["Key"] for each in production_set.s3.list_objects_v2(Bucket=production.BUCKET)["Contents"]]
    for below in (f"runs/{RECIPE}/", "dvc/files/md5/", "mlflow/"):
        assert any(key.startswith(below) for key in keys), below
    assert {"team/tiny", "team/tiny-lora"} <= production_set.hub.repositories.keys()
    assert stormy.run.read(Publication).model.startswith(production_set.hub.url)
    with psycopg2.connect(production_set.database.address("airflow")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM dag_run WHERE state = 'success'")
        assert cursor.fetchone() == (1,)


@needs_the_fake
def test_each_step_ran_in_a_pod_that_its_labels_find(production_set: Production, stormy: AirflowRun) -> None:
    fake = production_set.fake
    assert fake
    for step in STEPS:
        assert fake.pods(**{"loraflow/step": step, "loraflow/recipe": "tiny"}), step
    assert not production_set.pods.list_namespaced_pod(production_set.namespace).items  # each goes once it has been read


def test_the_log_of_a_step_is_in_airflow_line_by_line(stormy: AirflowRun) -> None:
    told = [(record["timestamp"], record["event"]) for record in stormy.log("train")]
    assert any("training" in line and "loss" in line for _, line in told), told
    lines = [(at, line) for at, line in told if line.startswith("train: ")]
    assert len(lines) == len(set(lines)), lines  # once, though the triggerer that died had told some of them


@needs_the_fake
@pytest.mark.usefixtures("quick_steps")
def test_a_training_that_ran_out_of_memory_goes_on_with_half_the_micro_batch(production_set: Production, stormy: AirflowRun) -> None:
    fake = production_set.fake
    assert fake and stormy.state == "success"
    fake.arm(faults.out_of_memory(), log="training 0/", **{"loraflow/step": "train"})
    run = production_set.airflow.trigger(RECIPE, data="latest")
    run.wait("train", "success")
    told = [record["event"] for record in run.log("train", 1)]
    assert any("OOMKilled" in line and "half the micro-batch" in line for line in told), told
    assert run.run.halvings("train") == run.run.read(Adapter).halvings == 1 and run.task("train")["try_number"] == 2
    run.mark("merge", "failed")  # what comes after is another test's matter
    run.end()


@pytest.mark.usefixtures("quick_steps")
def test_a_task_that_is_marked_failed_ends_its_pod(production_set: Production, stormy: AirflowRun) -> None:
    stormy.end()
    run = production_set.airflow.trigger(RECIPE, data="latest", **VALUES)
    if production_set.fake:
        hold(run.run, "train")  # else it takes long enough by itself
    pod = wait_for(lambda: production_set.pod(run, "train"), run, "a pod of train")
    run.mark("train", "failed")  # at once: before any triggerer has taken the parked task up
    assert run.end() == "failed"
    production_set.airflow.until(lambda: gone(production_set, pod), "the end of train's pod")


@needs_the_fake
def test_no_secret_is_in_anything_that_the_runs_left(production_set: Production, stormy: AirflowRun) -> None:
    fake, s3, hub, database, folder = (
        production_set.fake, production_set.s3, production_set.hub, production_set.database, production_set.folder
    )  # fmt: skip
    assert fake and s3 and hub and database and stormy.state == "success"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=production.BUCKET)
    stored = [s3.get_object(Bucket=production.BUCKET, Key=each["Key"])["Body"].read() for page in pages for each in page["Contents"]]
    published = [content for repository in hub.repositories.values() for content in repository.files.values()]
    logs = [fake.log(pod["metadata"]["name"]) for pod in fake.pods()]
    assert len(stored) > 20 and published and any("training" in log for log in logs)
    places = (folder / "home", folder / "git", folder / "mlflow.log", json.dumps(fake.pods()), *logs, *stored, *published)
    assert leaks(*places, database.dump("airflow"), database.dump("mlflow")) == []
    assert not [place for place in (json.dumps(fake.pods()), *logs) if fake.token in place]


def in_the_middle(where: Production, run: AirflowRun) -> bool:
    """Whether a training has steps behind it and before it; on loopback a checkpoint in the bucket says so sooner than its progress."""
    if where.s3:
        kept = where.s3.list_objects_v2(
            Bucket=production.BUCKET, Prefix=f"{run.run.uri.partition(production.BUCKET + '/')[2]}/train/g0-kept/"
        )
        return any(each["Key"].endswith(".listing") for each in kept.get("Contents", ()))
    position = read_position(run.run)
    return position is not None and position.step == "train" and 0 < position.done < position.total


def another(where: Production, run: AirflowRun, step: str, uid: str) -> bool:
    """Whether a step has another pod than that one."""
    pod = where.pod(run, step)
    return pod is not None and pod.metadata.uid != uid


def gone(where: Production, pod: Any) -> bool:
    """Whether a pod is there no longer."""
    pods = where.pods.list_namespaced_pod(where.namespace).items
    return pod.metadata.uid not in [each.metadata.uid for each in pods]


def kill_worker(run: AirflowRun, step: str) -> None:
    """Let the worker die that has a task in hand; it is named after the task instance."""
    instance = run.task(step)["id"]
    found = [process for process in psutil.process_iter(["cmdline"]) if instance in " ".join(process.info["cmdline"] or [])]
    assert found, f"no worker has {step} in hand"
    for process in found:
        for each in (process, *process.children(recursive=True)):
            each.kill()


def wait_for(what: Callable[[], Any], run: AirflowRun, expected: str) -> Any:
    """Wait for something to come to pass while the run goes on."""
    deadline = time.monotonic() + 900
    while not (value := what()):
        assert run.state in ("queued", "running"), f"{expected}: {run.told()}"
        assert time.monotonic() < deadline, f"not in time: {expected}; {run.told()}"
        time.sleep(0.4)
    return value
