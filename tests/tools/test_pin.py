"""`docker/pin.sh` against a registry on loopback: only what was looked up is written."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tasks.settings import CHECKOUT
from tests.support.http_server import serving

pytestmark = pytest.mark.guards("docker/pin.sh")

PIN = CHECKOUT / "docker" / "pin.sh"
INDEX = "application/vnd.oci.image.index.v1+json"


class Registry(BaseHTTPRequestHandler):
    """A registry that has `python:3.11` and nothing else; its manifest lists several architectures."""

    manifest = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}, indent=3).encode()

    def do_GET(self) -> None:
        known = self.path in ("/v2/", "/v2/python/manifests/3.11")
        body = (self.manifest if "manifests" in self.path else b"{}") if known else b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}'
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", INDEX if known and "manifests" in self.path else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its address, which skopeo takes without TLS."""
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed (on Debian: apt-get install skopeo)")
    settings = tmp_path / ".config" / "containers"
    settings.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(Registry) as url:
        address = url.removeprefix("http://")
        (settings / "registries.conf").write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
        yield address


def pin(*files: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """The command on files."""
    command = ["bash", str(PIN), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **env})


def test_a_tag_gets_the_digest_of_the_manifest_that_the_registry_sent(registry: str, tmp_path: Path) -> None:
    dockerfile, compose = tmp_path / "a.Dockerfile", tmp_path / "compose.yaml"
    dockerfile.write_text(f"ARG BASE={registry}/python:3.11\nFROM ${{BASE}}\n")
    old = "0" * 64
    compose.write_text(f"services:\n  a:\n    image: {registry}/python:3.11@sha256:{old}\n  b:\n    image: loraflow/steps:local\n")
    done = pin(dockerfile, compose)
    digest = hashlib.sha256(Registry.manifest).hexdigest()
    assert done.returncode == 0 and done.stdout == f"{registry}/python:3.11@sha256:{digest}\n", done.stderr
    assert dockerfile.read_text() == f"ARG BASE={registry}/python:3.11@sha256:{digest}\nFROM ${{BASE}}\n"
    assert f"    image: {registry}/python:3.11@sha256:{digest}\n" in compose.read_text()
    assert "    image: loraflow/steps:local\n" in compose.read_text()


def test_what_cannot_be_looked_up_changes_no_file(registry: str, tmp_path: Path) -> None:
    good, bad = tmp_path / "a.Dockerfile", tmp_path / "b.Dockerfile"
    good.write_text(f"ARG BASE={registry}/python:3.11\n")
    bad.write_text(f"ARG BASE={registry}/python:9.99\n")
    done = pin(good, bad)
    assert done.returncode == 1 and f"{registry}/python:9.99: no manifest to be had" in done.stderr
    assert "@sha256" not in good.read_text() + bad.read_text()


def test_without_a_client_it_refuses(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "sed", "grep", "sort"):
        (programs / name).symlink_to(shutil.which(name) or name)
    done = pin(tmp_path / "a.Dockerfile", PATH=str(programs))
    assert done.returncode == 1 and "neither skopeo nor docker buildx is here" in done.stderr
