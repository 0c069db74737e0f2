"""A data set on the Hub as source: a small Hub on loopback, asked by the real client."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from tasks.contracts import Download
from tasks.errors import DataError, RecipeError, ServiceError
from tasks.settings import CHECKOUT
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support.file_server import COMMIT, FileServer, Served
from tests.support.processes import until

NAME, MEMBER = "team/reports", "data/rows.csv"
ROWS = b"text,sentiment\n" + b"".join(b"row number %d,neutral\n" % number for number in range(40_000))
SHA = hashlib.sha256(ROWS).hexdigest()
PLACE = f"/datasets/{NAME}/resolve/{COMMIT}/{MEMBER}"
Start = Callable[..., Run]


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A Hub with the data set, which this process's client takes for its own."""
    monkeypatch.delenv("LORAFLOW_MIRROR", raising=False)
    with FileServer() as server:
        server.add_dataset(NAME, {MEMBER: ROWS})
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries again without the pauses between, which grow to a quarter of a minute."""
    monkeypatch.setattr(time, "sleep", lambda _: None)


@pytest.fixture
def start(tiny_document: dict[str, Any], make_run: Callable[..., Run]) -> Start:
    """A run of the tiny recipe whose data come from the Hub."""

    def make(run_id: str = "test", **source: Any) -> Run:
        whole = {"hub": NAME, "revision": COMMIT, "member": MEMBER, "sha256": SHA, **source}
        return make_run({**tiny_document, "data": {**tiny_document["data"], "source": whole}}, run_id)

    return make


def fetched(run: Run) -> tuple[str, bytes]:
    manifest = perform("download", run)
    assert isinstance(manifest, Download) and manifest.source
    return manifest.source.origin, run.path(manifest.source.path).read_bytes()


def test_the_pinned_commit_is_fetched_once(hub: FileServer, start: Start, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretOfTheTest")
    run = start()
    assert fetched(run) == (f"hub: {NAME}@{COMMIT}, {MEMBER}", ROWS)
    assert {path for _, path, _ in hub.log} == {PLACE}, "no other revision is asked for"
    assert set(hub.tokens) == {"Bearer hf_secretOfTheTest"}
    assert "hf_secretOfTheTest" not in (run.folder / "download.json").read_text()
    assert sorted(os.listdir(home / "sources")) == [SHA, f"{SHA}.lock"]
    asked = len(hub.log)
    assert fetched(start("again"))[1] == ROWS
    assert len(hub.log) == asked


@pytest.mark.parametrize(("chunk", "again"), [(1 << 20, None), (50_000, "bytes=200000-")], ids=["before a chunk", "after some"])
def test_a_cut_transfer_is_mended(hub: FileServer, start: Start, monkeypatch: pytest.MonkeyPatch, chunk: int, again: str | None) -> None:
    """The client goes on after the last whole chunk (10 MB, unless told otherwise) that it has written."""
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", chunk)
    hub.files[PLACE].cuts = [200_000]
    assert fetched(start())[1] == ROWS
    assert [asked for method, _, asked in hub.log if method == "GET"] == [None, again]


def test_another_file_than_promised_is_not_kept(hub: FileServer, start: Start, home: Path) -> None:
    with pytest.raises(
        DataError, match=rf"hub: {NAME}@{COMMIT}, {MEMBER}: .* with sha256 {SHA} \(expected: sha256 a+\)\. Fix: look at the file"
    ):
        fetched(start(sha256="a" * 64))
    assert os.listdir(home / "sources") == [f"{'a' * 64}.lock"]


@pytest.mark.parametrize(
    ("status", "code", "fault", "message"),
    [
        (403, "GatedRepo", RecipeError, "gated (expected: access). Fix: ask for it on the data set's page and set HF_TOKEN"),
        (
            401,
            "RepoNotFound",
            RecipeError,
            "no such data set, or a private one (expected: a data set that HF_TOKEN may read). Fix: correct data.so",
        ),
        (
            404,
            "RevisionNotFound",
            RecipeError,
            f"no revision {COMMIT} (expected: a commit, branch or tag). Fix: correct data.source.revision",
        ),
        (404, "EntryNotFound", RecipeError, "the file). Fix: correct data.source.member"),
        (500, "", ServiceError, "an answer of the Hub). Fix: check the network and HF_ENDPOINT, or give a copy in LORAFLOW_MIRROR"),
    ],
)
def test_what_the_hub_refuses(
    hub: FileServer, start: Start, impatient: None, status: int, code: str, fault: type[Exception], message: str
) -> None:
    hub.refuse(PLACE, status, code)
    with pytest.raises(fault) as error:
        fetched(start())
    assert str(error.value).startswith(f"{NAME} on the Hub: ") and message in str(error.value)


def test_no_network(hub: FileServer, start: Start, impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    with pytest.raises(ServiceError, match=rf"{NAME} on the Hub: not reached \(.*\) \(expected: an answer of the Hub\)"):
        fetched(start())


def test_killed_in_the_middle_it_is_fetched_whole(hub: FileServer, start: Start, home: Path) -> None:
    hub.files[PLACE] = Served(ROWS, seconds_a_piece=1, headers=hub.files[PLACE].headers)
    run = start()
    command = [sys.executable, "-m", "tasks", "download", "--run", str(run.folder)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    with subprocess.Popen(command, cwd=CHECKOUT, env=environment) as child:
        until(lambda: ("GET", PLACE, None) in hub.log)
        child.send_signal(signal.SIGKILL)
    assert not (home / "sources" / SHA).exists() and not run.has(Download)
    hub.files[PLACE].seconds_a_piece = 0
    assert fetched(run)[1] == ROWS
    assert sorted(os.listdir(home / "sources")) == [SHA, f"{SHA}.lock"]
