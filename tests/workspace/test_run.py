"""The workspace: a manifest means done, and nothing else does."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contracts import CONTRACTS, STEPS, SWEEP_STEPS, BaseModelFiles, Download, MergedModel, Part, Promotion, SourceFile
from tasks.errors import ContractError, RecipeError, ServiceError
from tasks.workspace import storage
from tasks.workspace.files import link_or_copy, remove_folder, write_atomically
from tasks.workspace.location import run_folder
from tasks.workspace.run import Run

DONE = Download(BaseModelFiles("a/b", "c0ffee", "download/g0-a1/base"), SourceFile("file:x", "download/g0-a1/x.csv", "0" * 64, 7))


def test_a_manifest_round_trips_and_remembers_its_inputs(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write(DONE)
    assert run.read(Download) == DONE
    run.perform("merge", lambda run: MergedModel(run.read(Download).base_model.path, "float32", 3), contract=MergedModel)
    envelope = json.loads((tmp_path / "merge.json").read_text())
    assert envelope["step"] == "merge" and list(envelope["inputs"]) == ["download"]


@given(
    version=st.integers(1),
    predecessor=st.none() | st.integers(1),
    reason=st.text(max_size=50),
    policy=st.sampled_from(["auto", "manual", "never"]),
)
def test_any_manifest_round_trips(
    tmp_path_factory: pytest.TempPathFactory, version: int, predecessor: Any, reason: str, policy: Any
) -> None:
    run, manifest = Run(tmp_path_factory.mktemp("run")), Promotion(True, policy, version, predecessor, reason)
    run.write(manifest)
    assert run.read(Promotion) == manifest


def test_every_step_has_a_contract_named_after_it() -> None:
    assert STEPS == ("preflight", "download", "validate", "split", "version", "train", "merge", "evaluate", "register", "promote", "push")
    assert SWEEP_STEPS == ("preflight", "download", "validate", "split", "version", "sweep_plan", "sweep_trial", "sweep_compare")
    assert set(CONTRACTS) == {*STEPS, *SWEEP_STEPS}
    assert all(contract.step == step for step, contract in CONTRACTS.items())
    assert Part("p", 1, {}) == Part("p", 1, {})


def test_a_done_step_is_not_done_again_until_asked_for_or_its_input_changes(tmp_path: Path) -> None:
    run, calls = Run(tmp_path), []

    def work(run: Run) -> MergedModel:
        calls.append(run.attempt.name)
        return MergedModel(run.read(Download).base_model.revision, "float32", 1)

    run.write(DONE)
    for _ in range(2):
        Run(tmp_path).perform("merge", work, contract=MergedModel)
    assert calls == ["g0-a1"]
    Run(tmp_path).perform("merge", work, contract=MergedModel, generation=1)
    Run(tmp_path).perform("merge", work, contract=MergedModel, generation=1)
    assert calls == ["g0-a1", "g1-a2"]
    run.write(Download(BaseModelFiles("a/b", "changed", "x"), None))
    assert Run(tmp_path).perform("merge", work, contract=MergedModel).path == "changed"


def test_a_dead_attempt_leaves_nothing_but_what_it_kept(tmp_path: Path) -> None:
    run = Run(tmp_path)

    def dies(run: Run) -> MergedModel:
        (run.attempt / "half").write_text("half")
        run.kept.mkdir()
        (run.kept / "checkpoint").write_text("whole")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run.perform("merge", dies, contract=MergedModel)
    assert not (tmp_path / "merge.json").exists()

    def lives(run: Run) -> MergedModel:
        assert (run.kept / "checkpoint").read_text() == "whole"
        assert not list(run.attempt.iterdir())
        return MergedModel(run.relative(run.attempt), "float32", 1)

    assert run.perform("merge", lives, contract=MergedModel).path == "merge/g0-a2"
    assert [path.name for path in (tmp_path / "merge").iterdir()] == ["g0-a2"]


def test_a_child_that_outlives_a_dead_attempt_by_a_moment_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = tmp_path / "merge" / "g0-a1"
    stale.mkdir(parents=True)
    real = os.rmdir

    def rmdir(path: Any, **options: Any) -> None:
        if not (tmp_path / "late").exists():  # the child writes after the folder was read, once
            (tmp_path / "late").touch()
            (stale / "late").touch()
        real(path, **options)

    monkeypatch.setattr(os, "rmdir", rmdir)
    Run(tmp_path).perform("merge", lambda run: MergedModel(run.relative(run.attempt), "float32", 1), contract=MergedModel)
    assert (tmp_path / "late").exists() and not stale.exists()


def test_a_folder_that_cannot_be_removed_is_tried_for_five_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    remove_folder(tmp_path / "missing")
    assert not waits
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        remove_folder(tmp_path / "file")
    assert waits == [0.2] * 24


def _hold(folder: str, ready: Any) -> None:
    def work(run: Run) -> MergedModel:
        ready.set()
        time.sleep(60)
        raise AssertionError

    Run(Path(folder)).perform("merge", work, contract=MergedModel)


def test_one_process_a_step_and_a_dead_one_frees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(str(tmp_path), ready))
    holder.start()
    assert ready.wait(60)
    monkeypatch.setattr(storage, "LOCK_SECONDS", 0.3)
    with pytest.raises(ServiceError, match=r"merge: another process works on it .expected: none after 0 s.|another process works on it"):
        Run(tmp_path).perform("merge", lambda _: MergedModel("", "", 0), contract=MergedModel)
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join()
    assert Run(tmp_path).perform("merge", lambda _: MergedModel("p", "float32", 0), contract=MergedModel).path == "p"


ENVELOPE = '{"schema": %d, "step": "download", "generation": 0, "inputs": {}, "started": "", "finished": "", "output": {}}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"download.json: not there \(expected: the manifest of download\)\. Fix: run download first"),
        ("{", r"not a manifest \(expected: a step's manifest\)\. Fix: run the step again"),
        (ENVELOPE % 9, r"schema is 9 \(expected: 1\)"),
        (ENVELOPE % 1, "base_model: Field required"),
    ],
)
def test_a_manifest_that_does_not_fit_is_told(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "download.json").write_text(content)
    with pytest.raises(ContractError, match=message):
        Run(tmp_path).read(Download)


def test_a_run_without_recipe_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"not there \(expected: a frozen recipe\)\. Fix: start the run first"):
        _ = Run(tmp_path).recipe


@given(st.text(min_size=1, max_size=300))
def test_a_run_id_never_leaves_its_folder(run_id: str) -> None:
    folder = run_folder(Path("/runs"), "ethos", run_id)
    assert folder.parent == Path("/runs/ethos") and folder.name not in ("", ".", "..") and len(folder.name) < 130


def test_run_ids_that_look_alike_stay_apart() -> None:
    ids = ["manual__2026-01-01T00:00:00+00:00", "manual__2026-01-01T00-00-00+00-00", "a/b", "a-b", "..", "."]
    assert len({run_folder(Path("r"), "ethos", run_id) for run_id in ids}) == len(ids)
    with pytest.raises(RecipeError, match=r".expected: lower-case letters, digits and _"):
        run_folder(Path("r"), "../ethos", "x")


def test_a_half_written_file_is_never_seen(tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    write_atomically(path, "before")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "after \ud800")
    assert path.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["small.json"]


def test_large_files_are_linked_not_copied(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "weights").write_bytes(b"w")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "weights").stat().st_ino == (tmp_path / "a" / "weights").stat().st_ino


def test_parts_of_a_step_have_manifest_lock_and_attempts_of_their_own(tmp_path: Path) -> None:
    run = Run(tmp_path)
    promotion = Promotion(False, "never", 1, None, "")
    for part in ("a", "b"):
        run.perform("promote", lambda _: promotion, contract=Promotion, part=part)
    written = (run.folder / "promote.b.json").read_bytes()
    run.perform("promote", lambda _: promotion, contract=Promotion, part="a", generation=1)
    assert (run.generation("promote", "a"), run.generation("promote", "b"), run.generation("promote")) == (1, 0, None)
    assert run.read(Promotion, "b") == promotion and not run.has(Promotion)
    assert (run.folder / "promote.b.json").read_bytes() == written
    assert (run.folder / "promote.a" / "g1-a2").is_dir() and (run.folder / "promote.b" / "g0-a1").is_dir()
