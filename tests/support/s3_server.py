"""A real S3 API on loopback (moto's server) in a process of its own, behind a layer that can fail as stores and networks do.

`python -m tests.support.s3_server` prints its address and serves until its standard input is closed: it ends with whoever started it.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.request import Request, urlopen

import pytest

from tasks.settings import CHECKOUT

Fault = Literal["slow down", "unavailable", "denied", "slow", "cut answer", "cut request"]

CONTROL = "/-faults"
ANSWERS = {"slow down": (503, "SlowDown"), "unavailable": (503, "ServiceUnavailable"), "denied": (403, "AccessDenied")}
SLOW_SECONDS = 1.5


@dataclass
class Rule:
    """What is to go wrong with requests whose `METHOD /path?query` matches."""

    match: str
    fault: Fault
    times: int
    after: int = 0
    """How many of them go well before."""


class Faulty:
    """A WSGI layer before the API: counts what is asked for, and lets it fail by rule."""

    def __init__(self, app: Any) -> None:
        self._app, self._lock = app, threading.Lock()
        self._rules: list[Rule] = []
        self._asked: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == CONTROL:
            return self._control(environ, start_response)
        asked = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']} {environ.get('HTTP_RANGE', '')}".strip()
        fault = self._fault(asked)
        if fault in ANSWERS:
            code, name = ANSWERS[fault]
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(f"{code} {name}", [("Content-Type", "application/xml")])
            return [f"<?xml version='1.0'?><Error><Code>{name}</Code><Message>{name}, said the test</Message></Error>".encode()]
        if fault == "slow":
            time.sleep(SLOW_SECONDS)
        if fault == "cut request":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) // 2)
            _hang_up(environ)
            return []
        answer = self._app(environ, start_response)
        return _half(answer, environ) if fault == "cut answer" else answer

    def _fault(self, asked: str) -> str:
        with self._lock:
            self._asked.append(asked)
            for rule in self._rules:
                if rule.times and re.search(rule.match, asked):
                    if rule.after:
                        rule.after -= 1
                        continue
                    rule.times -= 1
                    return rule.fault
        return ""

    def _control(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._lock:
            asked = list(self._asked)
            if environ["REQUEST_METHOD"] == "POST":
                given = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
                self._rules = [Rule(**rule) for rule in given]
                self._asked.clear()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(asked).encode()]


def _half(answer: Iterable[bytes], environ: dict[str, Any]) -> Iterator[bytes]:
    whole = b"".join(answer)
    yield whole[: len(whole) // 2]
    _hang_up(environ)


def _hang_up(environ: dict[str, Any]) -> None:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


class S3:
    """The API as a test sees it.

    Attributes:
        endpoint: its address.
        url: of a bucket that only this test has.
    """

    def __init__(self, endpoint: str, bucket: str) -> None:
        import boto3

        self.endpoint, self.bucket, self.url = endpoint, bucket, f"s3://{bucket}/workspace"
        self.client: Any = boto3.client("s3", endpoint_url=endpoint)
        self._rules: list[Rule] = []
        self.heal()
        self.client.create_bucket(Bucket=bucket)

    def fail(self, fault: Fault, match: str, times: int = 1, after: int = 0) -> None:
        """Let requests fail whose `METHOD /bucket/key?query RANGE` matches; -1 times: every one."""
        self._rules.append(Rule(match, fault, times, after))
        self._tell()

    def heal(self) -> None:
        """Let nothing fail any more, and forget what was asked for."""
        self._rules.clear()
        self._tell()

    def asked(self) -> list[str]:
        """What was asked for since faults were last set."""
        with urlopen(self.endpoint + CONTROL, timeout=60) as answer:
            return list(json.load(answer))

    def objects(self, below: str = "") -> dict[str, int]:
        """Key to size of all objects below a prefix of the workspace; keys are relative to the workspace."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"workspace/{below}")
        return {each["Key"].removeprefix("workspace/"): each["Size"] for page in pages for each in page.get("Contents", ())}

    def read(self, key: str) -> bytes:
        """An object of the workspace."""
        return bytes(self.client.get_object(Bucket=self.bucket, Key=f"workspace/{key}")["Body"].read())

    def write(self, key: str, content: bytes) -> None:
        """Write an object of the workspace."""
        self.client.put_object(Bucket=self.bucket, Key=f"workspace/{key}", Body=content)

    def _tell(self) -> None:
        body = json.dumps([asdict(rule) for rule in self._rules]).encode()
        urlopen(Request(self.endpoint + CONTROL, body, method="POST"), timeout=60).close()


@contextmanager
def running(**environment: str) -> Iterator[str]:
    """An S3 API in a process of its own; its address.

    Args:
        environment: further variables of it, as moto knows them.
    """
    command, everything = [sys.executable, "-m", "tests.support.s3_server"], {**os.environ, **environment}
    with subprocess.Popen(command, cwd=CHECKOUT, env=everything, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin and server.stdout
        try:
            yield server.stdout.readline().strip()
        finally:
            server.stdin.close()
            server.wait(60)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of an S3 API that this test session shares."""
    with running() as endpoint:
        yield endpoint


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> S3:
    """An empty bucket, and the environment by which every client finds it; clients give up after few tries."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-planted-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    return S3(s3_endpoint, f"{name}-{os.urandom(4).hex()}")


def serve() -> None:
    """Serve until standard input ends."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        def log(self, *_: Any) -> None:
            pass

    app = Faulty(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    serve()
