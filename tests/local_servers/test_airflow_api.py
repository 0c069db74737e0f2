"""The client of Airflow's API: which requests it retries, and how it reports an error that stays."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

import pytest

from tasks.errors import ServiceError
from tasks.local_servers import airflow_api
from tasks.local_servers.airflow_api import Airflow
from tests.support.http_server import body_of, serving

STATE = b'{"state": "running", "access_token": "new"}'


@dataclass
class Server:
    """An API server.

    Attributes:
        statuses: of its next answers; 0: it hangs up. Then it answers 200.
        asked: method and token of each request.
    """

    airflow: Airflow
    statuses: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body_of(self)
            running.asked.append((self.command, self.headers["Authorization"]))
            status = running.statuses.pop(0) if running.statuses else 200
            if not status:
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(STATE)))
            self.end_headers()
            self.wfile.write(STATE)

        do_GET = do_POST = answer  # noqa: N815  the names that the server looks for

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        running = Server(Airflow(url))
        yield running


@pytest.mark.parametrize("status", [500, 503, 0])
def test_a_question_is_retried_every_second(server: Server, waits: list[float], status: int) -> None:
    server.statuses = [status] * (airflow_api.TRIES - 1)
    assert server.airflow.run_state("dag", "run") == "running"
    assert len(server.asked) == airflow_api.TRIES and waits == [1] * (airflow_api.TRIES - 1)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (503, "503 to GET /api/v2/dags/dag/dagRuns/run: .*running"),
        (0, "no answer .RemoteProtocolError: .* .expected: a running API server"),
    ],
)
def test_an_error_that_stays_is_reported_after_the_last_try(server: Server, waits: list[float], status: int, message: str) -> None:
    server.statuses = [status] * 99
    with pytest.raises(ServiceError, match=f"Airflow at {server.airflow.url}: {message}"):
        server.airflow.run_state("dag", "run")
    assert len(server.asked) == airflow_api.TRIES and len(waits) == airflow_api.TRIES - 1


@pytest.mark.parametrize("status", [500, 0])
def test_what_changes_something_is_never_sent_twice(server: Server, waits: list[float], status: int) -> None:
    server.statuses = [status]
    with pytest.raises(ServiceError):
        server.airflow.trigger("dag", "run", {})
    assert len(server.asked) == 1 and not waits


def test_a_request_without_a_valid_token_gets_one(server: Server, waits: list[float]) -> None:
    server.statuses = [401]
    assert server.airflow.run_state("dag", "run") == "running"
    assert server.asked == [("GET", None), ("GET", None), ("GET", "Bearer new")] and not waits


def test_another_refusal_is_not_retried(server: Server, waits: list[float]) -> None:
    server.statuses = [404]
    with pytest.raises(ServiceError, match="404 to GET"):
        server.airflow.run_state("dag", "run")
    assert len(server.asked) == 1 and not waits
