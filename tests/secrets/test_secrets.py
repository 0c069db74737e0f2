"""No secret that loraflow is given is in anything that a run leaves behind, nor in what it prints, however it ends."""

import base64
import gzip
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from tasks.secrets.redaction import without_secrets
from tasks.settings import CHECKOUT
from tests.support.git_server import git_server
from tests.support.hub_server import hub_server
from tests.support.planted import MARK, leaks, plant, secret, with_password
from tests.support.s3_server import S3


def command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """loraflow as it is called, all that it prints kept."""
    given = {**os.environ, **environment}
    argv = [sys.executable, "-m", "tasks", *arguments]
    return subprocess.run(argv, cwd=CHECKOUT, env=given, capture_output=True, text=True, timeout=500)


@pytest.fixture
def services(
    tmp_path: Path, home: Path, s3: S3, mlflow_server: str, tiny_document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A team's services, each with a password, and a recipe; gives the folder that all of them keep things below."""
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(tmp_path / "git" / "team.git")], check=True)
    subprocess.run(["git", "-C", str(tmp_path / "git" / "team.git"), "config", "http.receivepack", "true"], check=True)
    (tmp_path / "recipes").mkdir()
    document = {
        **tiny_document,
        "train": {**tiny_document["train"], "max_steps": 4, "rows": 60},
        "gate": {"metric": "macro_f1", "beats_base": False},
    }
    (tmp_path / "recipes" / "tiny.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    plant(monkeypatch)
    monkeypatch.setenv("LORAFLOW_RECIPES", str(tmp_path / "recipes"))
    monkeypatch.setenv("LORAFLOW_PROFILE", "full")
    monkeypatch.setenv("LORAFLOW_DVC_REMOTE", f"{s3.url}/dvc")
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", with_password(mlflow_server, "MLFLOW"))
    monkeypatch.delenv("LORAFLOW_MIRROR", raising=False)
    with git_server(tmp_path / "git", "somebody", secret("GIT")) as address:
        monkeypatch.setenv("LORAFLOW_DATA_REPO", with_password(f"{address}/team.git", "GIT"))
        yield tmp_path


def stored(s3: S3) -> list[bytes]:
    return [content for key in s3.objects() for content in (key.encode(), s3.read(key))]


def test_a_whole_run_and_what_goes_wrong_in_it_shows_no_secret(services: Path, home: Path, s3: S3) -> None:
    done = command("run", "tiny", "--run-id", "one", "--promote")
    run = home / "runs" / "tiny" / "one"
    assert done.returncode == 0, done.stderr[-3000:]
    assert (run / "push.json").exists() and s3.objects("dvc")
    assert leaks(services, done.stdout, done.stderr, *stored(s3)) == []

    dead, refused = with_password("http://127.0.0.1:9", "MLFLOW"), os.environ["LORAFLOW_DATA_REPO"].replace("GIT", "WRONG")
    for step, setting, said in (
        ("train", {"LORAFLOW_MLFLOW_URI": dead, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}, "MLflow at http://127.0.0.1:9"),
        ("register", {"LORAFLOW_MLFLOW_URI": dead, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}, "MLflow at http://127.0.0.1:9"),
        ("version", {"LORAFLOW_DATA_REPO": refused}, "git clone failed"),
        ("version", {"LORAFLOW_DATA_REPO": with_password("http://127.0.0.1:9/x.git", "GIT")}, "git clone failed"),
        ("version", {"AWS_ENDPOINT_URL": with_password("http://127.0.0.1:9", "AWS")}, "dvc"),
        ("preflight", {"LORAFLOW_MLFLOW_URI": dead, "LORAFLOW_DATA_REPO": refused, "LORAFLOW_HUB": "hub:team"}, "PreflightError"),
    ):
        failed = command(step, "--run", str(run), "--generation", "1", **setting)
        assert failed.returncode != 0 and said in failed.stderr, (step, failed.stderr[-2000:])
        assert leaks(services, failed.stdout, failed.stderr, *stored(s3)) == [], step


def test_the_hub_repeats_what_it_was_sent_and_we_do_not(services: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_server() as state:
        state.fail["whoami"] = 403
        hub = {"LORAFLOW_HUB": "hub:team", "HF_ENDPOINT": state.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home / "hf")}
        done = command("doctor", "tiny", "--set", "base_model.name=team/model", **hub)
        assert done.returncode == 68 and "Hub token" in done.stdout
        assert leaks(services, done.stdout, done.stderr) == []


def test_a_token_with_a_line_end_works_and_one_that_no_header_can_hold_is_a_fault(
    services: Path, home: Path, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", f"{secret('MLFLOW_TRACKING_TOKEN').encode('ascii', 'ignore').decode()}\r\n")
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", mlflow_server)  # a password in it would go before a token
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name)
    with hub_server() as state:
        state.token = secret("HF_TOKEN")
        hub = {"LORAFLOW_HUB": "hub:team", "HF_ENDPOINT": state.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home / "hf")}
        done = command("doctor", "tiny", **hub)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "of maintainer, may write to team" in done.stdout and "GET /api/whoami-v2" in state.requests
        assert leaks(done.stdout, done.stderr) == []

        broken = {name: f"{os.environ[name].strip()}\né" for name in ("HF_TOKEN", "MLFLOW_TRACKING_TOKEN", "AWS_SESSION_TOKEN")}
        asked = len(state.requests)
        done = command("doctor", "tiny", **hub, **broken)
        said = " ".join(done.stderr.split())
        assert done.returncode == 68 and len(state.requests) == asked, done.stdout + done.stderr
        for what, name in (("Hub token", "HF_TOKEN"), ("MLflow", "MLFLOW_TRACKING_TOKEN"), ("DVC remote", "AWS_SESSION_TOKEN")):
            assert f"{name}: holds a line end inside (expected: what an HTTP header can hold). Fix: copy the value again" in said, what
        assert leaks(services, done.stdout, done.stderr) == []

        beyond = {"LORAFLOW_MLFLOW_URI": with_password(mlflow_server, "MLFLOW_TRACKING_PASSWORD")}
        done = command("doctor", "tiny", **hub, **beyond)
        said = " ".join(done.stderr.split())
        assert done.returncode == 68 and "MLflow: LORAFLOW_MLFLOW_URI: its user name or password holds a character" in said, said
        assert leaks(services, done.stdout, done.stderr) == []


def test_a_bug_shows_its_traceback_and_no_secret(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    planted = tmp_path / f"{secret('HF_TOKEN')}.yaml"
    planted.mkdir(parents=True)  # nothing that the reading of recipes looks for
    done = command("check", str(planted))
    assert done.returncode == 1 and "Traceback" in done.stderr and "IsADirectoryError" in done.stderr
    assert leaks(done.stdout, done.stderr) == [] and leaks(str(planted)) != []
    planted.rmdir()
    done = command("check", str(planted))
    assert done.returncode == 64 and "no such recipe" in done.stderr
    assert leaks(done.stdout, done.stderr) == []


def test_secrets_are_taken_out_of_texts_whatever_their_form(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "proxy"):
        addresses = (with_password("https://host/x", name), with_password("ssh://host/x", name))
        for form in (secret(name), repr(secret(name)), quote(secret(name), safe=""), *addresses):
            assert leaks(without_secrets(f"before {form} after")) == [], (name, form)
    monkeypatch.setenv("LORAFLOW_DATA_REPO", f"https://{quote(secret('token'), safe='')}@git.example.org/x.git")
    assert leaks(without_secrets(f"fatal: {secret('token')}")) == []
    monkeypatch.setenv("SHORT_KEY", "abc")
    assert without_secrets("abc of a tokenizer") == "abc of a tokenizer"


def test_the_search_finds_what_is_planted(tmp_path: Path) -> None:
    """The test of the tests: in every form and place in which a secret could hide."""
    for before in range(6):
        assert leaks(base64.b64encode(b"u" * before + secret("HF_TOKEN").encode())), before
        assert leaks(f"Basic {base64.urlsafe_b64encode(b'u' * before + secret('a').encode()).decode()}")
    assert leaks(quote(secret("a"), safe="")) and leaks(f"{MARK}") and not leaks("nothing", b"at all")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "log.gz").write_bytes(gzip.compress(secret("a").encode()))
    (tmp_path / "object").write_bytes(zlib.compress(secret("a").encode()))
    (tmp_path / secret("a").partition("+")[0]).touch()
    assert len(leaks(tmp_path)) == 3
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "deep" / "repo.git")], check=True)
    for argument in ("hash-object", "repack"):
        more = ["-w", "--stdin"] if argument == "hash-object" else ["-adq"]
        subprocess.run(["git", "-C", str(tmp_path / "deep" / "repo.git"), argument, *more], input=secret("b").encode(), check=True)
    assert any("git objects" in found for found in leaks(tmp_path / "deep"))
