"""Where a run writes: folders, a real S3 API, git and DVC's own remote; whatever was tried is gone afterwards."""

import subprocess
import tempfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.contracts import Finding
from tasks.doctor import machine, storage, tracking_server
from tasks.doctor.findings import Check, examine
from tasks.doctor.scope import Scope
from tasks.schema.pods import Resources, amount
from tasks.settings import settings
from tests.support.http_server import serving
from tests.support.s3_server import S3


def look(check: Any, place: str = "/nowhere", recipe: Any = None) -> dict[str, Finding]:
    """The findings of one check, by what they are of."""
    scope = Scope(settings(), recipe, place)
    return {finding.what: finding for finding in examine([Check("check", lambda: check(scope))])}


@pytest.fixture(autouse=True)
def clean(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for temporary files of its own, so that what is left there shows."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


def test_a_bucket_is_written_read_and_cleaned(s3: S3) -> None:
    assert look(storage.workspace, s3.url)["workspace"] == Finding("workspace", "ok", f"{s3.url} is written, read and cleaned")
    verbs = [line.split()[0] for line in s3.asked() if "loraflow-preflight" in line]
    assert verbs[0] == "PUT" and "GET" in verbs and verbs[-1] in ("DELETE", "POST")
    assert s3.objects() == {}


@pytest.mark.parametrize(("fault", "passing"), [("denied", False), ("unavailable", True)])
def test_a_bucket_that_refuses_or_does_not_answer(s3: S3, fault: Any, passing: bool) -> None:
    s3.fail(fault, "PUT .*loraflow-preflight", times=-1)
    found = look(storage.workspace, s3.url)["workspace"]
    assert (found.level, found.passing) == ("fault", passing)
    assert found.remedy == "check LORAFLOW_RUNS, its credentials and the network"
    s3.heal()
    s3.fail(fault, "DELETE .*loraflow-preflight|POST .*delete", times=-1)
    assert look(storage.workspace, s3.url)["workspace"].level == "fault", "what cannot be removed is told too"


def test_no_bucket_and_no_credentials(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    found = look(storage.workspace, "s3://nosuch-bucket-here/x")["workspace"]
    assert (found.level, found.passing) == ("fault", False) and "FileNotFoundError" in found.found
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    found = look(storage.workspace, s3.url)["workspace"]
    assert (found.level, found.passing) == ("fault", True), found.found


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = look(storage.workspace, str(tmp_path / "file" / "runs"))["workspace"]
    assert (found.level, found.passing) == ("fault", False) and "cannot be written to" in found.found
    assert look(storage.workspace, str(tmp_path / "a" / "b"))["workspace"].found == f"{tmp_path}/a/b will be made"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "tmp"]


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "team.git"
    git("init", "--quiet", "--bare", "--initial-branch=main", str(folder))
    monkeypatch.setenv("LORAFLOW_DATA_REPO", str(folder))
    return folder


def test_a_push_is_rehearsed_and_dvcs_remote_probed_by_dvc_itself(repository: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_DVC_REMOTE", f"{s3.url}/dvc")
    found = look(storage.data_repository)
    assert found["data repository"] == Finding("data repository", "ok", f"{repository} may be pushed to")
    assert found["DVC remote"] == Finding("DVC remote", "ok", f"{s3.url}/dvc is written, read and cleaned")
    assert any("PUT" in line and "workspace/dvc/.loraflow-preflight" in line for line in s3.asked())
    assert s3.objects() == {} and git("-C", str(repository), "for-each-ref") == ""
    assert list(Path(tempfile.gettempdir()).iterdir()) == []
    s3.fail("denied", "PUT .*loraflow-preflight", times=-1)
    refused = look(storage.data_repository)["DVC remote"]
    assert (refused.level, refused.passing) == ("fault", False) and "test-planted-secret" not in refused.found


def test_the_remote_that_the_repository_commits_is_the_one_that_is_probed(repository: Path, s3: S3, tmp_path: Path) -> None:
    """With its options: the address of the API stands in DVC's configuration alone."""
    work = tmp_path / "work"
    git("clone", "--quiet", str(repository), str(work))
    (work / ".dvc").mkdir()
    config = f"[core]\n    remote = ours\n['remote \"ours\"']\n    url = {s3.url}/committed\n    endpointurl = {s3.endpoint}\n"
    (work / ".dvc" / "config").write_text(config)
    git("-C", str(work), "add", "--all")
    git("-C", str(work), "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "remote")
    git("-C", str(work), "push", "--quiet", "origin", "HEAD:main")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ENDPOINT_URL")
        found = look(storage.data_repository)
    assert found["DVC remote"].found == f"{s3.url}/committed is written, read and cleaned"
    assert git("-C", str(repository), "for-each-ref", "--format=%(refname)").split() == ["refs/heads/main"]


def test_a_repository_that_is_not_there_or_says_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("LORAFLOW_DVC_REMOTE", str(tmp_path / "files"))
    monkeypatch.setenv("LORAFLOW_DATA_REPO", f"file://{tmp_path}/nosuch.git")
    found = look(storage.data_repository)["check"]
    assert (found.level, found.passing) == ("fault", True) and found.found.startswith(f"file://{tmp_path}/nosuch.git: git clone failed")
    # What a server says of a user without the right to write, which git asks for when the push is rehearsed.
    refusal = tmp_path / "git-receive-pack"
    refusal.write_text("#!/bin/sh\necho 'remote: Permission denied to push' >&2\nexit 1\n")
    refusal.chmod(0o755)
    git("init", "--quiet", "--bare", "--initial-branch=main", str(tmp_path / "team.git"))
    monkeypatch.setenv("LORAFLOW_DATA_REPO", str(tmp_path / "team.git"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "remote.origin.receivepack")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(refusal))
    found = look(storage.data_repository)["check"]
    assert (found.level, found.passing) == ("fault", False)
    assert "git push failed (remote: Permission denied to push" in found.found


def test_a_version_that_a_run_asks_for_has_to_be_there(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    monkeypatch.setenv("LORAFLOW_DVC_REMOTE", str(tmp_path))
    git("clone", "--quiet", str(repository), str(tmp_path / "work"))
    work = ("-C", str(tmp_path / "work"), "-c", "user.name=a", "-c", "user.email=a@b")
    git(*work, "commit", "--quiet", "--allow-empty", "-m", "data")
    git(*work, "tag", "data/tiny/v2")
    git(*work, "push", "--quiet", "origin", "HEAD:main", "data/tiny/v2")

    def of(data: str) -> Finding:
        recipe = SimpleNamespace(name="tiny", run=SimpleNamespace(data=data))
        return look(storage.data_repository, recipe=recipe)["data repository"]

    assert of("latest").level == of("v2").level == "ok"
    assert of("v1") == Finding(
        "data repository", "fault", f"{repository} has no version v1 of tiny, there: v2", "name one of them, or run.data new"
    )


def test_a_disk_without_room(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    home.mkdir()
    scope = Scope(settings(), None, str(home / "runs"))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5_000_000_000))
    (enough,) = machine.room(scope, 2_000_000_000, cached=False)  # 2 fetched, 2 merged, 1 to spare
    assert (enough.level, enough.found) == ("ok", f"5.0 GB free at {home}, about 5.0 GB needed")
    (short,) = machine.room(scope, 2_100_000_000, cached=False)
    assert (short.level, short.found) == ("fault", f"5.0 GB free at {home}, about 5.2 GB needed")
    (cached,) = machine.room(scope, 3_900_000_000, cached=True)
    assert cached.level == "ok"


@pytest.mark.parametrize("unit", ["", "m", "k", "Ki", "M", "Mi", "G", "Gi", "T", "Ti"])
def test_a_quantity_is_read_as_kubernetes_reads_it(unit: str) -> None:
    from kubernetes.utils import parse_quantity

    quantity = Resources(memory=f"1.5{unit}").memory
    assert amount(quantity) == float(parse_quantity(quantity))


def test_a_quantity_that_kubernetes_refuses_is_refused() -> None:
    with pytest.raises(ValidationError, match="memory"):
        Resources(memory="4ki")


def test_a_database_that_another_holds(home: Path) -> None:
    import sqlite3

    (home / "mlflow").mkdir(parents=True)
    path = home / "mlflow" / "mlflow.db"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE a (b)")
    assert look(tracking_server.tracking_server)["MLflow"].level == "ok"
    path.write_bytes(b"no database, but long enough to be read as one" * 100)
    broken = look(tracking_server.tracking_server)["MLflow"]
    assert (broken.level, broken.passing) == ("fault", False) and "file is not a database" in broken.found


def test_a_real_server_is_written_to_and_left_as_it_was(mlflow_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import mlflow

    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", mlflow_server.replace("http://", "http://somebody:planted-password@"))
    from types import SimpleNamespace

    recipe = SimpleNamespace(name="tiny")
    host = mlflow_server.removeprefix("http://")
    found = look(tracking_server.tracking_server, recipe=recipe)
    assert [finding.level for finding in found.values()] == ["ok"] * 4, found
    assert found["MLflow"].found == f"http://{host} answers, version {mlflow.__version__}"
    client = mlflow.MlflowClient(mlflow_server, mlflow_server)
    assert [each.name for each in client.search_experiments(view_type=mlflow.entities.ViewType.ALL)] == ["Default"]
    assert client.search_registered_models() == []
    assert [path for path in (tmp_path / "served").rglob("*") if path.is_file()] == []
    client.create_experiment("tiny")
    client.create_registered_model("tiny")
    found = look(tracking_server.tracking_server, recipe=recipe)
    assert found["MLflow tracking"].found == "experiment tiny may be written to"
    assert found["MLflow registry"].found == "model tiny may be written to"
    assert not client.get_registered_model("tiny").tags
    assert "loraflow.preflight" not in client.get_experiment_by_name("tiny").tags
    served = tmp_path / "served"
    for path in sorted(served.rglob("*"), reverse=True):
        path.rmdir()
    served.rmdir()
    served.touch()  # a store that takes nothing any more
    found = look(tracking_server.tracking_server, recipe=recipe)
    assert (found["MLflow artifacts"].level, found["MLflow artifacts"].passing) == ("fault", True)
    assert [found[what].level for what in ("MLflow", "MLflow tracking", "MLflow registry")] == ["ok"] * 3


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_refuses_us_is_asked_once(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuse(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(status)

        do_GET = do_POST  # noqa: N815  the name that the server looks for

        def log_message(self, *_: object) -> None:
            pass

    with serving(Refuse) as address:
        monkeypatch.setenv("LORAFLOW_MLFLOW_URI", address)
        found = look(tracking_server.tracking_server)["check"]
    assert (found.level, found.passing) == ("fault", False)
    assert f"error code {status}" in found.found and found.remedy.startswith("set MLFLOW_TRACKING_USERNAME")
