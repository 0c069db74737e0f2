"""Servers of others on loopback: a free port, and a process that is up when it answers and gone when it is no longer needed."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

WAIT_SECONDS = 200.0


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(command: Sequence[str], environment: Mapping[str, str], log: Path, answers: Callable[[], bool]) -> Iterator[None]:
    """A server in a process group of its own, which is killed afterwards.

    Args:
        command: what runs, in the log's folder.
        environment: its whole environment.
        log: file for what it prints; what a test that waits in vain fails with.
        answers: whether it is ready; may raise what a server does that does not listen yet.
    """
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=log.parent, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while not _ready(answers):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        yield
    finally:
        with suppress(ProcessLookupError):  # it ended by itself, as its log says
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ready(answers: Callable[[], bool]) -> bool:
    try:
        return answers()
    except (OSError, httpx.HTTPError):
        return False
