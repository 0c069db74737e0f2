"""What attempts of a step hand on through an object store, and who may hand up when nobody holds a lock."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from tasks.contracts import MergedModel
from tasks.errors import ContractError
from tasks.settings import CHECKOUT
from tasks.workspace.checkpoint_files import newest_whole
from tasks.workspace.run import Run
from tests.support.s3_server import S3
from tests.support.stored_runs import begin, checkpoint, dies, merged, training


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
        run.save_checkpoint(run.kept / "checkpoint-40")
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
        run.save_checkpoint(checkpoint(run, 40, best=10))
        return dies(run)

    begin(fresh(), goes_on)
    kept = {path.split("/")[5] for path in s3.objects("tiny/one/merge/g0-kept") if path.endswith(".listing")}
    assert kept == {"checkpoint-10.listing", "checkpoint-40.listing"}, "the best lies where the first attempt left it"


def test_an_attempt_that_was_taken_for_dead_ends_and_writes_nothing_more(s3: S3, fresh: Callable[[], Run]) -> None:
    def orphan(run: Run) -> MergedModel:
        assert run.save_checkpoint(checkpoint(run, 10))
        fresh().perform("merge", merged, contract=MergedModel)  # the retry, on another machine, to its end
        before = s3.objects(), s3.read("tiny/one/merge.json")
        with pytest.raises(ContractError, match=r"attempt g0-a2-\w+ has claimed it \(expected: g0-a1-\w+\)\. Fix: nothing to do here"):
            run.save_checkpoint(checkpoint(run, 20))
        assert (s3.objects(), s3.read("tiny/one/merge.json")) == before
        return merged(run)

    with pytest.raises(ContractError, match="has claimed it"):
        fresh().perform("merge", orphan, contract=MergedModel)
    assert fresh().read(MergedModel).path.startswith("merge/g0-a2-"), "the retry's result stands"


def test_two_that_upload_at_once_spoil_nothing(s3: S3, fresh: Callable[[], Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """The retry begins while the orphan's checkpoint is on its way: it has no listing, and is no checkpoint."""

    def orphan(run: Run) -> MergedModel:
        assert run.save_checkpoint(checkpoint(run, 10))
        upload = run.storage._objects.upload  # type: ignore[attr-defined]

        def interrupted(*given: object) -> None:
            begin(fresh(), goes_on)
            upload(*given)

        monkeypatch.setattr(run.storage._objects, "upload", interrupted)  # type: ignore[attr-defined]
        run.save_checkpoint(checkpoint(run, 20))
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
        assert run.save_checkpoint(checkpoint(run, 10))
        s3.fail("unavailable", "PUT .*checkpoint-20/weights", times=-1)
        assert not run.save_checkpoint(checkpoint(run, 20))
        assert "checkpoint-20 could not be handed up, going on without it" in capfd.readouterr().err
        s3.heal()
        assert run.save_checkpoint(checkpoint(run, 30))
        return dies(run)

    begin(fresh(), work)
    kept = {path.split("/")[5] for path in s3.objects("tiny/one/merge/g0-kept") if path.endswith(".listing")}
    assert kept == {"checkpoint-10.listing", "checkpoint-30.listing"}


def test_a_run_goes_into_another_process_and_hands_up_from_there(s3: S3, fresh: Callable[[], Run]) -> None:
    def work(run: Run) -> MergedModel:
        folder = checkpoint(run, 10)
        code = "import pathlib, pickle, sys; run = pickle.load(sys.stdin.buffer); assert run.save_checkpoint(pathlib.Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, str(folder)], input=pickle.dumps(run), cwd=CHECKOUT, check=True)
        return dies(run)

    begin(fresh(), work)
    assert [path for path in s3.objects() if path.endswith("checkpoint-10.listing")]
