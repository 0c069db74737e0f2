"""The Hub on loopback, for models: it serves repositories for download as the real one does, and takes what is pushed.

Small files come by a redirect within the Hub, large ones (LFS) by one to a server of another address, which takes ranges and refuses
the Hub's token. Gated, private and missing repositories, revisions and files are refused with the Hub's statuses and codes.
"""

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import pytest

from tests.support.http_server import serving
from tests.support.hub_server import Handler, HubState, Repository, commit_id, git_oid

OPEN_FILES = ("README.md", ".gitattributes")
"""What a gated repository shows to everybody."""


@dataclass
class ModelHub(HubState):
    """What the server holds, and how it behaves."""

    gated: dict[str, bool] = field(default_factory=dict)
    """Gated repositories, and whether the token's account was given access."""
    cdn: str = ""
    """Address of the server of large files."""
    cuts: list[int] = field(default_factory=list)
    """Bytes after which that server ends an answer, one a request."""
    ranges: list[str | None] = field(default_factory=list)
    """What was asked of that server, in order."""

    def add(self, name: str, folder: Path) -> None:
        """Hold the files of a folder as a public repository."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        self.repositories[name] = Repository(private=False, files=files, commits=["Upload"])

    def commit(self, name: str) -> str:
        """The present commit of a repository."""
        return commit_id(len(self.repositories[name].commits))

    def asked(self, name: str) -> list[str]:
        """Files of a repository that somebody asked for, in order."""
        found = [re.fullmatch(rf"HEAD /{name}/resolve/[^/]+/([^?]+).*", request) for request in self.requests]
        return [unquote(match[1]) for match in found if match]


@contextmanager
def model_hub() -> Iterator[ModelHub]:
    """Serve an empty Hub until the block ends."""
    state = ModelHub()
    files, hub = type("Files", (LargeFiles,), {"state": state}), type("Hub", (Downloads,), {"state": state})
    with serving(files) as state.cdn, serving(hub) as state.url:
        yield state


@contextmanager
def taken_for_the_hub(state: ModelHub, home: Path, *, token: str = "") -> Iterator[pytest.MonkeyPatch]:
    """Let this process's client take the server for the Hub, as `HF_ENDPOINT` lets that of a process of its own."""
    import huggingface_hub.hf_api
    import transformers.utils.hub

    constants = huggingface_hub.constants
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", state.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", state.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)  # what of a file is kept when a transfer is cut
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub-cache"))
        patch.setattr(transformers.utils.hub, "_hf_api", None)
        patch.setattr(huggingface_hub.hf_api.api, "endpoint", state.url)
        patch.setenv("HF_ENDPOINT", state.url)
        patch.setenv("HF_TOKEN", token)
        yield patch


class Downloads(Handler):
    """Answers GET and HEAD for repositories; the rest is the pushing's."""

    state: ModelHub

    def do_HEAD(self) -> None:  # noqa: N802  the library's name
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802
        path, _, query = self.path.partition("?")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+)(?:/(.+))?)?", path):
            name, what, revision, below = found.groups()
            return self._about(name, what or "revision", unquote(revision or "main"), below or "", parse_qs(query))
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(found[1], unquote(found[2]), unquote(found[3]))
        if found := re.fullmatch(r"/api/resolve-cache/models/([^/]+/[^/]+)/([^/]+)/(.+)", path):
            return self._plain(found[1], unquote(found[3]))
        super().do_GET()

    def _about(self, name: str, what: str, revision: str, below: str, query: dict[str, list[str]]) -> None:
        """Name, commit and files of a repository; gated ones tell them to everybody."""
        repository = self._found(name, revision)
        if repository is None:
            return
        if what == "tree":
            files = {path: data for path, data in repository.files.items() if path.startswith(f"{below}/" if below else "")}
            if below and not files:
                return self._refuse(404, "EntryNotFound", f"{below} does not exist on {revision!r}")
            return self._answer([{"type": "file", "path": path, **_sizes(repository, path, "oid")} for path in files])
        blobs = query.get("blobs", ["False"])[0].lower() == "true"
        siblings = [{"rfilename": path, **(_sizes(repository, path, "blobId") if blobs else {})} for path in repository.files]
        self._answer({
            "_id": "0" * 24, "id": name, "modelId": name, "author": name.partition("/")[0], "sha": self.state.commit(name),
            "lastModified": "2024-08-01T12:00:00.000Z", "private": repository.private, "disabled": False, "downloads": 7, "likes": 1,
            "gated": "manual" if name in self.state.gated else False, "library_name": "transformers", "pipeline_tag": "text-generation",
            "tags": ["transformers", "safetensors"], "siblings": siblings, "createdAt": "2024-07-01T12:00:00.000Z", "usedStorage": 7,
        })  # fmt: skip

    def _resolve(self, name: str, revision: str, file: str) -> None:
        """Where a file of a revision is to be had."""
        repository = self._found(name, revision)
        if repository is None:
            return
        if name in self.state.gated and file not in OPEN_FILES and not (self._known() and self.state.gated[name]):
            asked = f"Access to model {name} is restricted"
            if self._known():
                return self._refuse(403, "GatedRepo", f"{asked} and you are not in the authorized list. Visit {self.state.url}/{name}")
            return self._refuse(401, "GatedRepo", f"{asked}. You must have access to it and be authenticated. Please log in.")
        if file not in repository.files:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        data, commit = repository.files[file], self.state.commit(name)
        if not _large(repository, file):
            place = f"/api/resolve-cache/models/{name}/{commit}/{quote(file)}?etag=%22{git_oid(data)}%22"
            return self._send(307, b"Temporary Redirect", {"Location": place, "X-Repo-Commit": commit, "ETag": f'"{git_oid(data)}"'})
        sha256 = hashlib.sha256(data).hexdigest()
        self.state.objects[sha256] = data
        place = f"{self.state.cdn}/repos/00/{sha256}?response-content-disposition=inline&Expires=1&Signature=x"
        headers = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{sha256}"', "X-Repo-Commit": commit}
        self._send(302, f"Found. Redirecting to {place}".encode(), {"Location": place, **headers})

    def _plain(self, name: str, file: str) -> None:
        data = self.state.repositories[name].files[file]
        headers = {"ETag": f'"{git_oid(data)}"', "X-Repo-Commit": self.state.commit(name), "Accept-Ranges": "bytes"}
        self._send(200, data, {**headers, "Content-Disposition": f"inline; filename={quote(file)}"})

    def _found(self, name: str, revision: str) -> Repository | None:
        """The repository, where whoever asks may see it at this revision; otherwise the request is answered, with None."""
        self.state.requests.append(f"{self.command} {self.path}")
        given, repository = self.headers.get("Authorization"), self.state.repositories.get(name)
        if given and not self._known():
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif repository is None or (repository.private and not given):
            self._refuse(
                *((404, "RepoNotFound", "Repository not found") if given else (401, "RepoNotFound", "Invalid username or password."))
            )
        elif revision not in ("main", self.state.commit(name)):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repository
        return None

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.state.token}"

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        _send(self, status, body, headers)


class LargeFiles(BaseHTTPRequestHandler):
    """Serves large files by their checksum, whole or a range of bytes."""

    state: ModelHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.state.ranges.append(asked)
        data = self.state.objects[self.path.partition("?")[0].rpartition("/")[2]]
        if self.headers.get("Authorization"):
            return _send(self, 400, b"Only one auth mechanism allowed", {})
        first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else None]
        told = {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"} if asked else {}
        _send(self, 206 if asked else 200, part, {**told, "Accept-Ranges": "bytes"}, *self.state.cuts[:1])
        del self.state.cuts[:1]


def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
    handler.send_response(status)
    for key, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(key, value)
    handler.end_headers()
    if handler.command == "HEAD":
        return
    handler.wfile.write(body[:cut])
    if cut is not None and cut < len(body):
        handler.close_connection = True
        handler.connection.shutdown(2)


def _large(repository: Repository, file: str) -> bool:
    """Whether a file is kept by LFS: as `.gitattributes` says, or, in what was pushed here, by its size."""
    rules = repository.files.get(".gitattributes", b"*.safetensors filter=lfs").decode().splitlines()
    return any("filter=lfs" in rule and fnmatch.fnmatch(file.rpartition("/")[2], rule.split()[0]) for rule in rules)


def _sizes(repository: Repository, file: str, name_of_oid: str) -> dict[str, Any]:
    data = repository.files[file]
    found: dict[str, Any] = {"size": len(data), name_of_oid: git_oid(data)}
    if _large(repository, file):
        sha256 = hashlib.sha256(data).hexdigest()
        found["lfs"] = {"sha256": sha256, "oid": sha256, "size": len(data), "pointerSize": 134}
    return found
