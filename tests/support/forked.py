"""Processes that start with torch, transformers, PEFT and MLflow imported: forks of a server that imports them once.

Each is a process of its own, in a session of its own, that a test signals, kills and outlives, as one of `subprocess.Popen`.
"""

import atexit
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

PRELOADED = ["tasks.cli", "transformers.trainer", "peft", "mlflow.pyfunc"]
"""Modules without which no training starts; their import takes ten seconds."""


class Forked:
    """A command of loraflow as a process, with the part of `subprocess.Popen` that tests use.

    Args:
        arguments: the command's.
        code: Python that the process runs before its command.

    Attributes:
        stderr: what it prints, as text.
    """

    def __init__(self, arguments: list[str], code: str = "") -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        reader, writer = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(arguments, code, dict(os.environ), os.getcwd(), writer))
        self._process.start()
        writer.close()
        self.stderr = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        while self.poll() is None and os.getpgid(self.pid) != self.pid:  # its first act
            time.sleep(0.001)

    @property
    def returncode(self) -> int | None:
        """Exit code, or the negative number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code, once there is one."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; the exit code."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return self.returncode

    def communicate(self, timeout: float) -> tuple[None, str]:
        """Wait for the end; what it printed to stderr."""
        deadline, printed = time.monotonic() + timeout, b""
        while select.select([self.stderr], [], [], max(deadline - time.monotonic(), 0))[0]:
            if not (part := os.read(self.stderr.fileno(), 1 << 16)):
                break
            printed += part
        self.wait(max(deadline - time.monotonic(), 0))
        return None, printed.decode()

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stderr.close()
        self.wait()


def _run(arguments: list[str], code: str, env: dict[str, str], folder: str, stderr: Connection) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream, number in ((nothing, 0), (nothing, 1), (stderr.fileno(), 2)):
        os.dup2(stream, number)
    stderr.close()
    sys.argv = ["loraflow", *arguments]
    try:
        exec(code, {})
        from tasks.cli import main

        main()
    finally:
        atexit._run_exitfuncs()
