"""The step `preflight` and the command `doctor`: every finding at once, and what follows from faults that wait and that do not."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.contracts import Finding, Preflight
from tasks.doctor import findings as findings_module
from tasks.doctor.findings import Check, examine, fault, good, lines, stop_at_faults, warning
from tasks.errors import DataError, PreflightError, ServiceError
from tasks.settings import CHECKOUT, quiet_environment
from tasks.workspace.perform import perform
from tasks.workspace.run import Run

MakeRun = Callable[..., Run]


def found(run: Run) -> tuple[Finding, ...]:
    manifest = perform("preflight", run)
    assert isinstance(manifest, Preflight)
    return manifest.findings


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_the_embedded_default_passes_and_nothing_is_left_behind(make_run: MakeRun, tiny_document: Any, home: Path, capfd: Any) -> None:
    run = make_run(tiny_document)
    findings = found(run)
    assert {finding.level for finding in findings} == {"ok"}
    assert [finding.what for finding in findings] == [
        "settings", "workspace", "git", "packages", "base model", "room on disk", "memory", "GPU", "data file", "data repository",
        "DVC remote", "MLflow", "published folder",
    ]  # fmt: skip
    assert {path.split("/")[0] for path in tree(home)} == {"runs"}, "nothing but the run itself"
    assert tree(run.folder) <= {"recipe.yaml", "preflight.json", "preflight.lock", "preflight", "preflight/g0-a1"}
    said = capfd.readouterr().err
    assert f"preflight: ok      data file: file: {tiny_document['data']['source']['file']}" in said


def test_what_is_there_already_is_looked_at_itself(make_run: MakeRun, tiny_document: Any, home: Path, tmp_path: Path) -> None:
    """After a first run: its database, data repository and folders."""
    from tasks.data.repository import cloned
    from tasks.registry import tracking

    tracking.client()
    with cloned(tmp_path):
        pass
    (home / "dvc-remote").mkdir()
    run = make_run(tiny_document, "again")
    before = {path: (home / path).read_bytes() for path in tree(home) if (home / path).is_file()}
    findings = {finding.what: finding for finding in found(run)}
    assert {finding.level for finding in findings.values()} == {"ok"}
    assert findings["MLflow"].found.startswith(f"{home}/mlflow/mlflow.db is a database that may be written to")
    assert findings["data repository"].found == f"{home}/data-repo.git may be pushed to"
    assert findings["DVC remote"].found == f"{home}/dvc-remote is written"
    after = {path: (home / path).read_bytes() for path in tree(home) if (home / path).is_file()}
    assert {path: content for path, content in after.items() if not path.startswith(f"runs/{run.id}/preflight")} == before


def test_faults_of_every_kind_are_told_at_once(
    make_run: MakeRun, tiny_document: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("LORAFLOW_HUB", "hub:team")
    monkeypatch.setenv("LORAFLOW_MLFLOW_URL", "http://somewhere")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "empty.csv").touch()
    document = {**tiny_document, "data": {**tiny_document["data"], "source": {"file": str(tmp_path / "empty.csv")}}}
    run = make_run(document, base_model__name="folder:/nowhere", run__data="new", train__fp16=True)
    with pytest.raises(PreflightError) as caught:
        perform("preflight", run)
    text = str(caught.value)
    assert text.startswith("tiny/test: preflight: 5 of ")
    for line in (
        "\n  base model: base_model.name: /nowhere is no folder (expected: a model's folder). Fix: correct it",
        "\n  GPU: none here, train.fp16 needs one. Fix: set train.fp16 to false",
        f"\n  data file: file: {tmp_path}/empty.csv is empty. Fix: bring the whole file there",
        "\n  MLflow: MLflow at http://127.0.0.1:9: no answer (",
        "\n  Hub token: HF_TOKEN is not set (expected: a token that may write). Fix: make one at https://huggingface.co/settings/tokens",
    ):
        assert line in text or (line.startswith("\n  GPU") and any(Path("/dev").glob("nvidia[0-9]*"))), text
    assert not run.has(Preflight)


def test_services_that_do_not_answer_may_be_asked_again(make_run: MakeRun, tiny_document: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        ServiceError, match=r"^tiny/test: preflight: 1 of \d+ findings is a fault \(expected: none\)\. Fix: see whether"
    ) as caught:
        perform("preflight", make_run(tiny_document))
    assert caught.value.exit_code == 75


def test_what_the_run_will_not_do_is_not_looked_at(make_run: MakeRun, tiny_document: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_HUB", "hub:team")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for key, value in (("run__push", False), ("run__promotion", "never")):
        findings = found(make_run(tiny_document, key, **{key: value}))
        assert "Hub token" not in [finding.what for finding in findings]


def test_checks_wait_at_the_same_time() -> None:
    all_here = threading.Barrier(5)

    def meet() -> Iterator[Finding]:
        all_here.wait(60)
        yield good("meet", "there")

    assert [finding.level for finding in examine([Check("meet", meet)] * 5, seconds=60)] == ["ok"] * 5


def test_a_check_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    half, over = threading.Event(), threading.Event()
    readings = iter([0.0])

    def clock() -> float:
        """The time is up as soon as the check has found its first half."""
        for first in readings:
            return first
        assert half.wait(60)
        return 20.0

    def stuck() -> Iterator[Finding]:
        yield good("stuck", "half of it")
        half.set()
        over.wait(60)

    monkeypatch.setattr(findings_module, "time", SimpleNamespace(monotonic=clock))
    try:
        findings = examine([Check("stuck", stuck)], seconds=20)
    finally:
        over.set()
    assert [finding.level for finding in findings] == ["ok", "fault"]
    assert findings[-1] == fault("stuck", "no answer in 20 s", "look at the service and the network", passing=True)


def test_an_error_is_a_finding_after_those_before_it() -> None:
    def look() -> Iterator[Finding]:
        yield good("one", "well")
        raise DataError("rows", "none", "some", "add some")

    def bug() -> Iterator[Finding]:
        raise KeyError("x")

    assert examine([Check("two", look), Check("three", bug)]) == (
        good("one", "well"),
        fault("two", "rows: none (expected: some)", "add some"),
        warning("three", "could not be looked at (KeyError: 'x')", "look at it by hand"),
    )


def test_warnings_stop_nothing_and_one_lasting_fault_makes_all_of_them_last() -> None:
    waits, lasts = fault("a", "x", passing=True, remedy="r"), fault("b", "y", "s")
    stop_at_faults("here", [good("c", "d"), warning("e", "f", "g")])
    with pytest.raises(ServiceError, match="1 of 1 findings is a fault"):
        stop_at_faults("here", [waits])
    both = r"2 of 3 findings are faults \(expected: none\)\. Fix: mend .*\n  a: x. Fix: r\n  b: y. Fix: s$"
    with pytest.raises(PreflightError, match=both):
        stop_at_faults("here", [waits, lasts, good("c", "d")])
    assert lines([waits, good("c", "d")]) == ["fault   a: x. Fix: r", "ok      c: d"]


def test_no_finding_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted123")
    text = "http://user:planted%2F@host/x said hf_planted123"
    (finding,) = examine([Check("a", lambda: [fault("a", text, text)])])
    assert finding.found == finding.remedy == "http://host/x said …"


def doctor(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tasks", "doctor", *arguments],
        cwd=CHECKOUT, env={**quiet_environment(), "COLUMNS": "250", **environment}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def test_doctor_shows_a_table_and_its_exit_code_is_that_of_the_step(home: Path) -> None:
    done = doctor()
    assert done.returncode == 0, done.stderr
    for row in ("│ ok │ settings", "│ ok │ git", "│ ok │ data repository", "│ ok │ MLflow"):
        assert row in done.stdout
    assert not home.exists()
    done = doctor("nosuch")
    assert (done.returncode, "nosuch.yaml: no such recipe" in done.stderr) == (64, True)
    done = doctor(LORAFLOW_DATA_REPO="-upload-pack=touch x", LORAFLOW_HUB="nowhere")
    assert done.returncode == 68 and "LORAFLOW_HUB: is 'nowhere' (expected: folder:PATH or hub:NAMESPACE)" in done.stdout


def test_doctor_is_quick(home: Path) -> None:
    """Seconds of the processor, since tests share it: what a run waits for on the embedded default."""
    before = os.times()
    assert doctor("ethos", "--profile", "local", "--set", "data.source.url=null", "--set", f"data.source.file={__file__}").returncode in (
        0,
        68,
        75,
    )
    after = os.times()
    assert after.children_user - before.children_user < 6


def test_a_wrong_setting_is_told_in_words(home: Path) -> None:
    done = doctor(LORAFLOW_AIRFLOW_PORT="eighty")
    assert done.returncode == 78
    assert "settings: LORAFLOW_AIRFLOW_PORT is 'eighty' (" in done.stderr and "Traceback" not in done.stderr
