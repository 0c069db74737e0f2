"""A run in an object store: what a step fetches, hands up and leaves, and who may write when nobody holds a lock."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import object_store
from tasks.checkpoints import mark_whole, newest_whole
from tasks.contracts import BaseModelFiles, DatasetVersion, Download, MergedModel, Part, Promotion
from tasks.errors import ContractError, DataError, ServiceError, SettingsError
from tasks.workspace import Run, run_folder
from tests.s3_server import S3

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture
def fresh(s3: S3, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Run]:
    """The run `tiny/one` as a machine sees it that has seen nothing of it before."""
    machines = iter(range(100))

    def machine() -> Run:
        monkeypatch.setenv("LORAFLOW_SCRATCH", str(tmp_path / f"machine-{next(machines)}"))
        return Run(run_folder(s3.url, "tiny", "one"))

    return machine


def left_on(scratch: str) -> list[str]:
    return [path.name for path in Path(scratch).rglob("*") if path.is_file() and not path.name.endswith(".lock")]


def merged(run: Run) -> MergedModel:
    (run.attempt / "model").mkdir()
    (run.attempt / "model" / "weights").write_bytes(b"w" * 1000)
    (run.attempt / "log.txt").write_text("of no interest to later steps")
    return MergedModel(run.relative(run.attempt / "model"), "float32", 1)


def checkpoint(run: Run, step: int, best: int | None = None) -> Path:
    """A whole checkpoint as the trainer leaves it."""
    folder = run.kept / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text(f"after step {step}")
    state = {"global_step": step, "best_model_checkpoint": best and str(run.kept / f"checkpoint-{best}")}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    mark_whole(folder)
    return folder


def dies(run: Run) -> MergedModel:
    raise OSError("the node is gone")


def training(*steps: int, best: int | None = None, limit: int = 2) -> Callable[[Run], MergedModel]:
    """A training that hands up checkpoints, of which so many stay, and dies."""

    def work(run: Run) -> MergedModel:
        for number, step in enumerate(steps):
            (run.kept / "energy.json").parent.mkdir(exist_ok=True)
            (run.kept / "energy.json").write_text(json.dumps({run.attempt.name: step}))
            for old in [old for old in steps[: max(number + 1 - limit, 0)] if old != best]:
                shutil.rmtree(run.kept / f"checkpoint-{old}", ignore_errors=True)
            assert run.keep(checkpoint(run, step, best))
        return dies(run)

    return work


def begin(run: Run, work: Callable[[Run], MergedModel], **given: int) -> None:
    with pytest.raises(OSError, match="the node is gone"):
        run.perform("merge", work, contract=MergedModel, **given)


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


def test_a_fresh_machine_has_the_newest_whole_checkpoint_and_the_small_files(s3: S3, fresh: Callable[[], Run]) -> None:
    begin(fresh(), training(10, 20, 30))
    kept = {path.split("/")[5] for path in s3.objects("tiny/one/merge/g0-kept") if "checkpoint" in path}
    assert kept == {"checkpoint-20", "checkpoint-30", "checkpoint-20.listing", "checkpoint-30.listing"}, "as many as the trainer keeps"

    def goes_on(run: Run) -> MergedModel:
        assert sorted(path.name for path in run.kept.iterdir()) == ["checkpoint-30", "energy.json"]
        assert newest_whole(run.kept) == run.kept / "checkpoint-30"
        spent = json.loads((run.kept / "energy.json").read_text())
        assert list(spent.values()) == [30] and next(iter(spent)).startswith("g0-a1-")
        checkpoint(run, 40)
        run.keep(run.kept / "checkpoint-40")
        return MergedModel("", "", 1)

    fresh().perform("merge", goes_on, contract=MergedModel)
    assert set(s3.objects()) == {"tiny/one/merge.json", "tiny/one/merge.claim"}, "what attempts hand on goes when the step is done"


def test_a_new_generation_begins_without_the_old_checkpoints(s3: S3, fresh: Callable[[], Run]) -> None:
    begin(fresh(), training(10))
    begin(fresh(), lambda run: dies(run) if not run.kept.exists() else MergedModel("", "", 1), generation=1)
    assert not s3.objects("tiny/one/merge/")


@pytest.mark.parametrize("torn", ["listing", "cut", "changed", "missing"])
def test_a_torn_checkpoint_falls_back_to_the_one_before(
    s3: S3, fresh: Callable[[], Run], torn: str, capfd: pytest.CaptureFixture[str]
) -> None:
    begin(fresh(), training(10, 20))
    newest = next(path for path in s3.objects("tiny/one/merge/g0-kept") if path.endswith("checkpoint-20/weights"))
    damage = {
        "listing": lambda: s3.client.delete_object(Bucket=s3.bucket, Key="workspace/" + newest.replace("/weights", ".listing")),
        "cut": lambda: s3.write(newest, b"after"),
        "changed": lambda: s3.write(newest, b"after step 21"),
        "missing": lambda: s3.client.delete_object(Bucket=s3.bucket, Key=f"workspace/{newest}"),
    }
    damage[torn]()

    def goes_on(run: Run) -> MergedModel:
        assert newest_whole(run.kept) == run.kept / "checkpoint-10"
        assert [path.name for path in run.kept.glob("checkpoint-*")] == ["checkpoint-10"]
        return dies(run)

    begin(fresh(), goes_on)
    assert torn == "listing" or "passing over a checkpoint that is not whole" in capfd.readouterr().err


def test_the_best_checkpoint_travels_and_is_named_where_it_lies(s3: S3, fresh: Callable[[], Run]) -> None:
    begin(fresh(), training(10, 20, 30, best=10))

    def goes_on(run: Run) -> MergedModel:
        assert sorted(path.name for path in run.kept.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-30"]
        newest = newest_whole(run.kept)
        assert newest and newest.name == "checkpoint-30", "still whole after its state was made to fit this machine"
        state = json.loads((newest / "trainer_state.json").read_text())
        assert state["best_model_checkpoint"] == str(run.kept / "checkpoint-10") and state["global_step"] == 30
        shutil.rmtree(run.kept / "checkpoint-30")
        run.keep(checkpoint(run, 40, best=10))
        return dies(run)

    begin(fresh(), goes_on)
    kept = {path.split("/")[5] for path in s3.objects("tiny/one/merge/g0-kept") if path.endswith(".listing")}
    assert kept == {"checkpoint-10.listing", "checkpoint-40.listing"}, "the best lies where the first attempt left it"


def test_an_attempt_that_was_taken_for_dead_ends_and_writes_nothing_more(s3: S3, fresh: Callable[[], Run]) -> None:
    def orphan(run: Run) -> MergedModel:
        assert run.keep(checkpoint(run, 10))
        fresh().perform("merge", merged, contract=MergedModel)  # the retry, on another machine, to its end
        before = s3.objects(), s3.read("tiny/one/merge.json")
        with pytest.raises(ContractError, match=r"attempt g0-a2-\w+ has claimed it, g0-a1-\w+ expected; nothing to do here"):
            run.keep(checkpoint(run, 20))
        assert (s3.objects(), s3.read("tiny/one/merge.json")) == before
        return merged(run)

    with pytest.raises(ContractError, match="has claimed it"):
        fresh().perform("merge", orphan, contract=MergedModel)
    assert fresh().read(MergedModel).path.startswith("merge/g0-a2-"), "the retry's result stands"


def test_two_that_upload_at_once_spoil_nothing(s3: S3, fresh: Callable[[], Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """The retry begins while the orphan's checkpoint is on its way: it has no listing, and is no checkpoint."""

    def orphan(run: Run) -> MergedModel:
        assert run.keep(checkpoint(run, 10))
        upload = run.place._objects.upload  # type: ignore[attr-defined]

        def interrupted(*given: object) -> None:
            begin(fresh(), goes_on)
            upload(*given)

        monkeypatch.setattr(run.place._objects, "upload", interrupted)  # type: ignore[attr-defined]
        run.keep(checkpoint(run, 20))
        raise AssertionError("the claim was lost while it uploaded")

    def goes_on(run: Run) -> MergedModel:
        assert newest_whole(run.kept) == run.kept / "checkpoint-10"
        return dies(run)

    with pytest.raises(ContractError, match="has claimed it"):
        fresh().perform("merge", orphan, contract=MergedModel)
    begin(fresh(), goes_on)


def test_a_store_that_is_gone_for_a_while_costs_a_checkpoint_and_not_the_training(
    s3: S3, fresh: Callable[[], Run], capfd: pytest.CaptureFixture[str]
) -> None:
    def work(run: Run) -> MergedModel:
        assert run.keep(checkpoint(run, 10))
        s3.fail("unavailable", "PUT .*checkpoint-20/weights", times=-1)
        assert not run.keep(checkpoint(run, 20))
        assert "checkpoint-20 could not be handed up, going on without it" in capfd.readouterr().err
        s3.heal()
        assert run.keep(checkpoint(run, 30))
        return dies(run)

    begin(fresh(), work)
    kept = {path.split("/")[5] for path in s3.objects("tiny/one/merge/g0-kept") if path.endswith(".listing")}
    assert kept == {"checkpoint-10.listing", "checkpoint-30.listing"}


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


def test_notes_are_written_seldom_and_neither_fault_nor_slowness_is_felt(
    s3: S3, fresh: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fresh()
    s3.fail("slow", "PUT .*progress.json", times=1)
    began = time.monotonic()
    for number in range(50):
        run.note("progress.json", str(number))
    assert time.monotonic() - began < 1
    deadline = time.monotonic() + 20
    while run.get("progress.json") is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert run.get("progress.json") == "0"
    assert len([asked for asked in s3.asked() if asked.startswith("PUT")]) == 1
    monkeypatch.setattr(object_store, "NOTE_SECONDS", 0.0)
    felt: list[object] = []
    monkeypatch.setattr(threading, "excepthook", felt.append)
    s3.heal()
    s3.fail("denied", "PUT .*progress.json", times=-1)
    run.note("progress.json", "refused")
    for thread in [thread for thread in threading.enumerate() if thread.name == "note"]:
        thread.join(20)
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

        assert run.perform("merge", work, contract=MergedModel).path == "2"
        assert run.perform("merge", work, contract=MergedModel, generation=1).path == "0"
        run.note_out_of_memory("merge", 1)
        assert run.halvings("merge") == 1
        run.note_out_of_memory("trial", 0, "a")
        assert (run.halvings("trial", "a"), run.halvings("trial", "b")) == (1, 0)


def test_a_run_goes_into_another_process_and_hands_up_from_there(s3: S3, fresh: Callable[[], Run]) -> None:
    def work(run: Run) -> MergedModel:
        folder = checkpoint(run, 10)
        code = "import pathlib, pickle, sys; run = pickle.load(sys.stdin.buffer); assert run.keep(pathlib.Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, str(folder)], input=pickle.dumps(run), cwd=CHECKOUT, check=True)
        return dies(run)

    begin(fresh(), work)
    assert [path for path in s3.objects() if path.endswith("checkpoint-10.listing")]


LIGHT = """
import sys
from tasks.contracts import MergedModel
from tasks.workspace import Run
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
