"""A run in an object store: what a step fetches, hands up and leaves."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contracts import BaseModelFiles, DatasetVersion, Download, MergedModel, Part, Promotion
from tasks.errors import DataError, ServiceError, SettingsError
from tasks.settings import CHECKOUT
from tasks.workspace import bucket
from tasks.workspace.location import run_folder
from tasks.workspace.run import Run
from tests.support.s3_server import S3
from tests.support.stored_runs import begin, dies, merged, training


def left_on(scratch: str) -> list[str]:
    return [path.name for path in Path(scratch).rglob("*") if path.is_file() and not path.name.endswith(".lock")]


def test_the_manifest_goes_up_last_and_with_it_what_it_names_only(s3: S3, fresh: Callable[[], Run]) -> None:
    run = fresh()
    s3.heal()
    manifest = run.perform("merge", merged, contract=MergedModel)
    written = [asked.split("?")[0].rpartition("/workspace/")[2] for asked in s3.asked() if asked.startswith("PUT")]
    attempt = manifest.path.removesuffix("/model")
    assert written == ["tiny/one/merge.claim", f"tiny/one/{attempt}/model/weights", f"tiny/one/{attempt}.listing", "tiny/one/merge.json"]
    assert set(s3.objects()) == set(written)
    assert not left_on(os.environ["LORAFLOW_SCRATCH"]), "the step is over, and so is its folder"
    again = fresh()
    assert again.perform("merge", dies, contract=MergedModel) == manifest, "done is done, on any machine"
    assert (again.path(manifest.path) / "weights").read_bytes() == b"w" * 1000


def test_a_step_fetches_what_it_reads_and_nothing_else(s3: S3, fresh: Callable[[], Run]) -> None:
    def version(run: Run) -> DatasetVersion:
        (run.attempt / "data").mkdir()
        parts = {}
        for name in ("train", "test"):
            (run.attempt / "data" / name).write_text(name)
            parts[name] = Part(run.relative(run.attempt / "data" / name), 1, {})
        return DatasetVersion("data/tiny/v1", 1, True, "0.dir", "0" * 40, "here", parts)  # type: ignore[arg-type]

    fresh().perform("version", version, contract=DatasetVersion)
    s3.heal()

    def train(run: Run) -> MergedModel:
        path = run.read(DatasetVersion).parts["train"].path
        assert [run.path(path).read_text() for _ in range(3)] == ["train"] * 3
        return MergedModel(path, "", 1)

    fresh().perform("merge", train, contract=MergedModel)
    fetched = [asked for asked in s3.asked() if "bytes=" in asked]
    assert len(fetched) == 1 and "/data/train" in fetched[0]


def test_a_changed_input_and_a_new_generation_count_as_in_a_folder(s3: S3, fresh: Callable[[], Run]) -> None:
    calls: list[str] = []

    def work(run: Run) -> MergedModel:
        calls.append(run.attempt.name.rpartition("-")[0])
        return MergedModel(run.read(Download).base_model.revision, "float32", 1)

    run = fresh()
    run.write(Download(BaseModelFiles("a/b", "first", "x"), None))
    for generation in (0, 0, 1, 1):
        fresh().perform("merge", work, contract=MergedModel, generation=generation)
    assert calls == ["g0-a1", "g1-a2"] and run.generation("merge") == 1
    run.write(Download(BaseModelFiles("a/b", "second", "x"), None))
    assert run.generation("merge") is None
    assert fresh().perform("merge", work, contract=MergedModel).path == "second"


def test_parts_stand_beside_one_another(s3: S3, fresh: Callable[[], Run]) -> None:
    promotion = Promotion(False, "never", 1, None, "")
    for part in ("a", "b"):
        fresh().perform("promote", lambda _: promotion, contract=Promotion, part=part)
    run = fresh()
    assert run.read(Promotion, "b") == promotion and not run.has(Promotion) and run.generation("promote", "a") == 0
    assert set(s3.objects()) == {f"tiny/one/promote.{part}.{kind}" for part in "ab" for kind in ("json", "claim")}


def test_outputs_that_the_store_does_not_take_leave_the_step_undone(s3: S3, fresh: Callable[[], Run]) -> None:
    s3.fail("unavailable", "PUT .*weights", times=-1)
    with pytest.raises(ServiceError, match="weights: the store does not answer"):
        fresh().perform("merge", merged, contract=MergedModel)
    s3.heal()
    run = fresh()
    assert not run.has(MergedModel) and not left_on(os.environ["LORAFLOW_SCRATCH"])
    assert run.perform("merge", merged, contract=MergedModel).path.startswith("merge/g0-a2-")
    assert not [path for path in s3.objects("tiny/one/merge/") if "/g0-a1-" in path]


def test_reports_of_bad_data_are_handed_up_with_the_fault(s3: S3, fresh: Callable[[], Run]) -> None:
    def work(run: Run) -> MergedModel:
        (run.attempt / "report.html").write_text("why")
        raise DataError("validate", "bad", "good", f"see {run.address(run.attempt / 'report.html')}")

    with pytest.raises(DataError) as told:
        fresh().perform("merge", work, contract=MergedModel)
    where = str(told.value).partition("see ")[2]
    assert where.startswith(f"{s3.url}/tiny/one/merge/g0-a1-")
    assert s3.read(where.removeprefix(f"{s3.url}/")) == b"why"


def wait_for_notes() -> None:
    for thread in [thread for thread in threading.enumerate() if thread.name == "note"]:
        thread.join(60)


def test_notes_are_written_seldom_and_neither_fault_nor_slowness_is_felt(
    s3: S3, fresh: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, go, put = fresh(), threading.Event(), bucket.ObjectStore.put

    def slow(*arguments: Any) -> None:
        assert go.wait(60)
        put(*arguments)

    monkeypatch.setattr(bucket.ObjectStore, "put", slow)
    s3.heal()
    for number in range(50):
        run.note("progress.json", str(number))
    assert run.get("progress.json") is None, "nobody waited for it"
    go.set()
    wait_for_notes()
    assert run.get("progress.json") == "0"
    assert len([asked for asked in s3.asked() if asked.startswith("PUT")]) == 1
    monkeypatch.setattr(bucket, "NOTE_SECONDS", 0.0)
    felt: list[object] = []
    monkeypatch.setattr(threading, "excepthook", felt.append)
    s3.heal()
    s3.fail("denied", "PUT .*progress.json", times=-1)
    run.note("progress.json", "refused")
    wait_for_notes()
    assert run.get("progress.json") == "0" and not felt
    assert [asked for asked in s3.asked() if asked.startswith("PUT")], "it was tried"


def test_out_of_memory_is_remembered_for_one_generation(s3: S3, fresh: Callable[[], Run], tmp_path: Path) -> None:
    for run in (fresh(), Run(tmp_path / "folder")):
        assert run.halvings("merge") == 0
        run.note_out_of_memory("merge", 0)
        run.note_out_of_memory("merge", 0)
        assert run.halvings("merge") == 2 and json.loads(run.get("merge.memory.json") or "") == {"generation": 0, "halvings": 2}

        def work(run: Run) -> MergedModel:
            return MergedModel(str(run.halvings("merge")), "", 1)

        def runs_out(run: Run) -> MergedModel:
            run.note_out_of_memory("merge")
            return dies(run)

        assert run.perform("merge", work, contract=MergedModel).path == "2"
        assert run.perform("merge", work, contract=MergedModel, generation=1).path == "0"
        run.note_out_of_memory("merge", 1)
        assert run.halvings("merge") == 1
        begin(run, runs_out, generation=2)
        assert json.loads(run.get("merge.memory.json") or "") == {"generation": 2, "halvings": 1}, "of the generation that ran"
        run.note_out_of_memory("sweep_trial", 0, "a")
        assert (run.halvings("sweep_trial", "a"), run.halvings("sweep_trial", "b")) == (1, 0)


LIGHT = """
import sys
from tasks.contracts import MergedModel
from tasks.workspace.run import Run
assert "fsspec" not in sys.modules, "only who has a store pays for it"
assert Run(sys.argv[1]).read(MergedModel).dtype == "float32"
heavy = {"torch", "transformers", "mlflow", "pandas", "pyarrow", "boto3", "dvc"} & set(sys.modules)
assert not heavy, heavy
"""


def test_reading_a_manifest_stays_light(s3: S3, fresh: Callable[[], Run]) -> None:
    run = fresh()
    run.perform("merge", merged, contract=MergedModel)
    subprocess.run([sys.executable, "-c", LIGHT, run.uri], cwd=CHECKOUT, check=True)
    assert not left_on(os.environ["LORAFLOW_SCRATCH"])


def test_the_secret_is_in_no_object(s3: S3, fresh: Callable[[], Run]) -> None:
    begin(fresh(), training(10))
    fresh().perform("merge", merged, contract=MergedModel)
    assert s3.objects() and not [path for path in s3.objects() if b"planted" in s3.read(path)]


def test_a_file_url_is_a_folder_and_a_bare_bucket_is_no_run(tmp_path: Path) -> None:
    assert Run(f"file://{tmp_path}/a%20b").folder == tmp_path / "a b"
    with pytest.raises(SettingsError, match="is no place of a run"):
        Run("s3://bucket")


@given(st.text(min_size=1, max_size=300))
def test_a_run_id_never_leaves_its_prefix(run_id: str) -> None:
    place = run_folder("s3://bucket/runs/", "ethos", run_id)
    beginning, _, name = str(place).rpartition("/")
    assert beginning == "s3://bucket/runs/ethos" and name not in ("", ".", "..") and Run(place).id == f"ethos/{name}"
