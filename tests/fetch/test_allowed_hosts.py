"""LORAFLOW_ALLOWED_HOSTS: every client that fetches asks no other host, wherever an address or a redirect leads."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from tasks.errors import RecipeError
from tasks.fetch import http, hub, hub_models, packages
from tasks.workspace.progress import Progress
from tests.support.file_server import COMMIT, FileServer, Served

SHA = "0" * 64


def progress(what: str, total: int, unit: str) -> Progress:
    return Progress(None, "download", what, total, unit)


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server that may be asked, by the name of 127.0.0.1."""
    monkeypatch.setenv("LORAFLOW_ALLOWED_HOSTS", "127.0.0.1,*.example.org")
    monkeypatch.setattr(http, "PAUSES", (0.0, 0.0, 0.0))
    with FileServer() as server:
        yield server


@pytest.fixture
def elsewhere() -> Iterator[FileServer]:
    """A server of another name, `localhost`, which may not be asked."""
    with FileServer() as server:
        server.url = server.url.replace("127.0.0.1", "localhost")
        yield server


def leads_to(server: FileServer, path: str) -> Served:
    """A file that a redirect leads to another server for."""
    return Served(b"", statuses=[302] * 100, headers={"Location": f"{server.url}{path}"})


EXPECTED = (
    r"leads to localhost \(http://localhost:\d+/\S*\) \(expected: a host of LORAFLOW_ALLOWED_HOSTS \(127.0.0.1, "
    r"\*.example.org\)\)\. Fix: add"
)


def test_a_file_and_where_its_redirect_leads(here: FileServer, elsewhere: FileServer, tmp_path: Path) -> None:
    here.files["/rows.csv"] = Served(b"rows")
    here.files["/moved.csv"] = leads_to(elsewhere, "/rows.csv?signature=planted")
    elsewhere.files["/rows.csv"] = Served(b"rows")
    http.fetch_url(f"{here.url}/rows.csv", SHA, tmp_path / "a", progress)
    for fetch in (lambda url: http.fetch_url(url, SHA, tmp_path / "b", progress), http.check_url):
        for url in (f"{here.url}/moved.csv", f"{elsewhere.url}/rows.csv"):
            with pytest.raises(RecipeError, match=f"^data.source.url: {EXPECTED}") as caught:
                fetch(url)
            assert "planted" not in str(caught.value)
    assert elsewhere.log == [] and not (tmp_path / "b").exists()


def test_the_hub_and_the_hosts_that_it_sends_large_files_from(
    here: FileServer, elsewhere: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.add_model("team/tiny", {"config.json": b"{}", "model.safetensors": b"x" * 100})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def at(server: FileServer) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")

    at(here)
    assert hub_models.listing("team/tiny", None).commit == COMMIT
    hub.fetch_file(hub.MODEL, "team/tiny", COMMIT, "config.json", tmp_path / "a", lambda done: None)
    large = f"/team/tiny/resolve/{COMMIT}/model.safetensors"
    head = {"X-Repo-Commit": COMMIT, "X-Linked-Size": "100", "X-Linked-Etag": '"e"'}
    here.files[large] = Served(b"", statuses=[302] * 9, headers={**head, "Location": f"{elsewhere.url}/blob"})
    elsewhere.files["/blob"] = Served(b"x" * 100)
    with pytest.raises(RecipeError, match=f"^Hugging Face Hub: {EXPECTED}"):
        hub.fetch_file(hub.MODEL, "team/tiny", COMMIT, "model.safetensors", tmp_path / "b", lambda done: None)
    at(elsewhere)
    with pytest.raises(RecipeError, match=f"^Hugging Face Hub: {EXPECTED}"):
        hub_models.listing("team/tiny", None)
    assert elsewhere.log == [] and constants.HF_HUB_DISABLE_XET, "another client would fetch by addresses that nobody looks at"


@pytest.fixture
def index(here: FileServer, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """The package index that pip is told of."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{here.url}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    return here


def offer(server: FileServer, address: str) -> None:
    page = f'<a href="{address}/some_rows-1.0-py3-none-any.whl">some_rows-1.0-py3-none-any.whl</a>'
    server.files["/simple/some-rows/"] = Served(page.encode(), headers={"Content-Type": "text/html"})


def wheel() -> bytes:
    import io
    import zipfile

    with zipfile.ZipFile(content := io.BytesIO(), "w") as archive:
        archive.writestr("some_rows-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-rows\nVersion: 1.0\n")
        archive.writestr("some_rows-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("some_rows-1.0.dist-info/RECORD", "")
    return content.getvalue()


def test_a_package_index_and_the_host_of_its_files(
    index: FileServer, elsewhere: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    index.files["/files/some_rows-1.0-py3-none-any.whl"] = Served(wheel())
    offer(index, f"{index.url}/files")
    (fetched,) = packages.fetch_wheels("some-rows==1.0", tmp_path / "a", progress)
    assert fetched.name == "some_rows-1.0-py3-none-any.whl"
    packages.check_requirement("some-rows==1.0")
    offer(index, f"{elsewhere.url}/files")
    with pytest.raises(RecipeError, match=f"^pip: some-rows==1.0: {EXPECTED}"):
        packages.fetch_wheels("some-rows==1.0", tmp_path / "b", progress)
    monkeypatch.setenv("PIP_INDEX_URL", elsewhere.url.replace("//", "//user:planted@") + "/simple")
    for fetch in (
        lambda: packages.check_requirement("some-rows==1.0"),
        lambda: packages.fetch_wheels("some-rows==1.0", tmp_path / "c", progress),
    ):
        with pytest.raises(RecipeError, match=f"^pip: some-rows==1.0: {EXPECTED}") as caught:
            fetch()
        assert "planted" not in str(caught.value)
    assert elsewhere.log == [] and "planted" not in "".join(capfd.readouterr())


def test_without_a_list_every_host_may_be_asked(home: Path, elsewhere: FileServer, tmp_path: Path) -> None:
    elsewhere.files["/rows.csv"] = Served(json.dumps([]).encode())
    http.fetch_url(f"{elsewhere.url}/rows.csv", SHA, tmp_path / "a", progress)
    assert elsewhere.asked() == ["/rows.csv"]
