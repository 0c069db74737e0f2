"""A real MLflow tracking server on loopback."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tasks.local_servers.configuration import environment_file
from tasks.settings import CHECKOUT, quiet_environment
from tests.support.loopback import free_port, server

COMMAND = ("mlflow", "server", "--workers", "1")


@contextmanager
def running(folder: Path, environment: Mapping[str, str], command: Sequence[str] = COMMAND) -> Iterator[str]:
    """A server that takes requests; its address.

    Args:
        folder: for its log.
        environment: where it keeps what (`MLFLOW_BACKEND_STORE_URI`, `MLFLOW_ARTIFACTS_DESTINATION`), beside the variables that every
            server of ours has.
        command: what it is started with, but for host and port: those are given after, and the last ones count.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    everything = quiet_environment() | environment_file(CHECKOUT / "mlflow" / "server.env") | environment
    words = [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)]
    # Asked as a probe does: by an address that bears no account, past any proxy.
    with server(words, everything, folder / "mlflow.log", lambda: httpx.get(f"{address}/health", timeout=5, trust_env=False).is_success):
        yield address
