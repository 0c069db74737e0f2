"""A small Hub on loopback: as much of its HTTP interface as the real client needs to create a repository and commit to it.

Spoken as huggingface_hub 1.x speaks: whoami, validate-yaml, repos/create, preupload, LFS batch with one PUT an object, tree, commit.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import yaml

from tests.support.http_server import body_of, serving

TOKEN = "hf_loopbackSecret"
WHO = {"type": "user", "name": "maintainer", "orgs": [{"name": "team", "roleInOrg": "write"}], "auth": {"accessToken": {"role": "write"}}}
"""Whose the token is, and what it may do."""
REGULAR_BYTES = 200_000
"""Larger files go through LFS."""


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class HubState:
    """What the server holds, and how it behaves."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fail: dict[str, int] = field(default_factory=dict)
    """Part of a path to the status that requests to it get."""
    url: str = ""
    token: str = TOKEN


@contextmanager
def hub_server() -> Iterator[HubState]:
    """Serve an empty Hub until the block ends."""
    state = HubState()
    with serving(type("Handler", (Handler,), {"state": state})) as state.url:
        yield state


class Handler(BaseHTTPRequestHandler):
    state: HubState
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        if not self._admitted(b""):
            return
        if self.path == "/api/whoami-v2":
            return self._answer(WHO)
        owner, name, what = [*self.path.removeprefix("/api/models/").split("/"), "revision"][:3]
        repository = self.state.repositories.get(f"{owner}/{name}")
        if repository is None:
            return self._answer({"error": "Repository not found"}, 404)
        assert what.startswith(("tree", "revision"))
        if what == "revision":
            return self._answer({"id": f"{owner}/{name}", "sha": commit_id(len(repository.commits)), "siblings": [], "tags": []})
        self._answer([{"type": "file", "path": path, "size": len(data), "oid": git_oid(data)} for path, data in repository.files.items()])

    def do_PUT(self) -> None:
        body = body_of(self)
        self.state.requests.append(f"PUT {self.path}")
        oid = self.path.rsplit("/", 1)[1]
        assert hashlib.sha256(body).hexdigest() == oid
        self.state.objects[oid] = body
        self._answer({})

    def do_POST(self) -> None:
        body = body_of(self)
        if not self._admitted(body):
            return
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            head = json.loads(body)["content"].split("---")[1]
            return self._answer({"errors": [], "warnings": []} if isinstance(yaml.safe_load(head), dict) else {"errors": ["no"]})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        owner, name, what = path.removeprefix("/api/models/").split("/")[:3]
        repository = self.state.repositories[f"{owner}/{name}"]
        if what == "preupload":
            return self._preupload(repository, json.loads(body)["files"])
        assert what == "commit", path
        self._commit(f"{owner}/{name}", repository, [json.loads(line) for line in body.decode().splitlines()])

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        url = {"url": f"{self.state.url}/{name}"}
        if name in self.state.repositories:
            return self._answer({"error": "You already created this model repo", **url}, 409)
        self.state.repositories[name] = Repository(private=wanted.get("private") or wanted.get("visibility") == "private")
        self._answer(url)

    def _preupload(self, repository: Repository, files: list[dict[str, Any]]) -> None:
        def mode(file: dict[str, Any]) -> dict[str, Any]:
            known = repository.files.get(file["path"])
            large = file["size"] > REGULAR_BYTES
            oid = None if known is None else hashlib.sha256(known).hexdigest() if large else git_oid(known)
            return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

        self._answer({"files": [mode(file) for file in files]})

    def _batch(self, wanted: dict[str, Any]) -> None:
        def action(item: dict[str, Any]) -> dict[str, Any]:
            if item["oid"] in self.state.objects:
                return dict(item)
            return {**item, "actions": {"upload": {"href": f"{self.state.url}/lfs/{item['oid']}", "header": {}}}}

        self._answer({"transfer": "basic", "objects": [action(item) for item in wanted["objects"]]})

    def _commit(self, name: str, repository: Repository, operations: list[dict[str, Any]]) -> None:
        files = dict(repository.files)
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        repository.files = files
        repository.commits.append(operations[0]["value"]["summary"])
        oid = commit_id(len(repository.commits))
        self._answer({"success": True, "commitOid": oid, "commitUrl": f"{self.state.url}/{name}/commit/{oid}", "hookOutput": ""})

    def _admitted(self, body: bytes) -> bool:
        self.state.requests.append(f"{self.command} {self.path}")
        status = next((status for part, status in self.state.fail.items() if part in self.path), None)
        if status is None and self.headers.get("Authorization") != f"Bearer {self.state.token}":
            status = 401
        if status is not None:
            self._answer({"error": f"refused as told, with {self.headers.get('Authorization')}"}, status)
        return status is None

    def _answer(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status >= 400 and isinstance(content, dict):
            self.send_header("X-Error-Message", str(content.get("error", "")))
        self.end_headers()
        self.wfile.write(data)


def commit_id(number: int) -> str:
    """Of a repository's commit with this number."""
    return f"{number:040x}"


def git_oid(data: bytes) -> str:
    """Git's own hash of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
