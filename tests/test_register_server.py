"""`register` over a real tracking server that keeps the artifacts itself."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import tracking
from tasks.contracts import Adapter, RegisteredVersion
from tasks.settings import quiet_environment
from tasks.steps import perform
from tasks.workspace import Run
from tests import evaluated

TEXTS = ["a lovely day", "the rude table again", "my street"]


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """A real tracking server that keeps artifacts itself."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", str(tmp_path / "served")]
    log = tmp_path / "server.log"
    with log.open("w") as stream:
        server = subprocess.Popen(command, cwd=tmp_path, env=quiet_environment(), stdout=stream, stderr=stream, start_new_session=True)
        try:
            wait_for_port(port, server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_for_port(port: int, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.5)
    pytest.fail(log.read_text())


def do(run: Run, generation: int = 0) -> RegisteredVersion:
    found = perform("register", run, generation)
    assert isinstance(found, RegisteredVersion)
    return found


def test_over_a_server_the_weights_travel_once_and_serve(
    trained: Run, mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", mlflow_server)
    with tracking.tracked(trained) as tracked:
        trained.write(dataclasses.replace(trained.read(Adapter), tracked=tracked))
    evaluated.evaluate(trained)
    found = do(trained)
    assert not list(trained.folder.glob("register/*/*"))
    assert len(list((tmp_path / "served").rglob("model.safetensors"))) == 1
    assert do(trained, generation=1) == found and found.version == 1
    tracking.client().set_registered_model_alias("tiny", "champion", "1")
    served = json.loads(evaluated.outside(evaluated.PREDICT % TEXTS, tmp_path, MLFLOW_TRACKING_URI=mlflow_server).splitlines()[-1])
    assert served["columns"] == ["label", "score_negative", "score_neutral", "score_positive"]
    assert [sum(row[1:]) for row in served["rows"]] == pytest.approx([1.0] * len(TEXTS))
