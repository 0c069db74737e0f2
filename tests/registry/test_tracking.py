"""The client of MLflow: when it checks that the tracking server answers."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tasks.errors import ServiceError
from tasks.registry import tracking
from tests.support.http_server import body_of, serving


@pytest.fixture
def asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The paths at which experiments were searched for; the first search below `/fails-once` fails."""
    searched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body_of(self)
            searched.append(self.path)
            failed = self.path.startswith("/fails-once") and searched.count(self.path) == 1
            self.send_response(404 if failed else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        monkeypatch.setenv("LORAFLOW_MLFLOW_URI", url)
        yield searched


def test_a_server_is_asked_once_in_a_process(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = tracking.settings().mlflow_tracking_uri
    for uri, requests in ((first, 1), (first, 1), (f"{first}/other", 2), (first, 2)):
        monkeypatch.setenv("LORAFLOW_MLFLOW_URI", uri)
        assert tracking.client().tracking_uri == uri and len(asked) == requests


def test_a_failed_check_is_repeated(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", tracking.settings().mlflow_tracking_uri + "/fails-once")
    with pytest.raises(ServiceError, match="no answer .* .expected: a tracking server"):
        tracking.client()
    tracking.client()
    assert len(asked) == 2
