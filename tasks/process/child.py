"""A child process that does not outlive its parent, however the parent ends: `kill -9` leaves no orphan that writes on.

The child runs in a process group of its own. So does a small watcher, which holds the far end of a pipe: when the parent closes
it, or dies and the kernel does, the watcher kills the group, itself and grandchildren included. On Linux the kernel kills the
child as well (parent-death signal), also where somebody has killed the watcher.
"""

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

GRACE_SECONDS = 3.0
"""Between SIGTERM and SIGKILL; Airflow waits five seconds before it kills a task's process."""

POLL_SECONDS = 0.5
PR_SET_PDEATHSIG = 1

WATCHER = (
    "import os, signal, sys\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "sys.stdin.buffer.read()\n"  # until the parent is gone
    "os.killpg(0, signal.SIGKILL)\n"
)


class ParentGoneError(Exception):
    """The process that this one works for has died, so this one has to end too."""


class Child:
    """A running child; leave its `with` block and it, and whatever it started, is gone.

    Args:
        argv: the command, a list of arguments.
        env: the child's whole environment.
        cwd: the folder it starts in; without one, this process's own.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> None:
        self._own_parent = os.getppid()
        far_end, self._lifeline = os.pipe()
        watcher = [sys.executable, "-I", "-S", "-c", WATCHER]
        quiet = subprocess.DEVNULL
        self._watcher = subprocess.Popen(watcher, stdin=far_end, stdout=quiet, stderr=quiet, process_group=0)
        os.close(far_end)
        try:
            self._process = subprocess.Popen(
                argv,
                env=env,
                cwd=cwd,
                stdin=quiet,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=self._watcher.pid,
                preexec_fn=dies_with(os.getpid()),
            )
        except BaseException:
            self._end_group()
            raise

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_group()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def lines(self) -> Iterator[str]:
        """What the child prints, on either stream, line by line as it comes, until it has ended.

        Raises:
            ParentGoneError: the parent of this process died meanwhile.
        """
        assert self._process.stdout
        rest, ended = b"", False
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while True:
                if os.getppid() != self._own_parent:
                    raise ParentGoneError
                if selector.select(POLL_SECONDS):
                    chunk = os.read(self._process.stdout.fileno(), 65536)
                    if not chunk:
                        break
                    *whole, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
                    yield from (line.decode(errors="replace") for line in whole)
                elif ended:
                    break  # though a process that it left behind still holds its output open
                else:
                    ended = self._process.poll() is not None  # read once more: it may have printed since `select`
        if rest:
            yield rest.decode(errors="replace")

    def wait(self) -> int:
        """The child's exit code, below zero where a signal ended it."""
        return self._process.wait()

    def end(self) -> None:
        """End the child and its group: SIGTERM, and after a few seconds SIGKILL."""
        if self._watcher.returncode is not None:
            return  # all of it is gone, and its number may be another's
        os.killpg(self._watcher.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(self._watcher.pid, signal.SIGKILL)

    def _end_group(self) -> None:
        """Kill what is left of the group: nobody has waited for the watcher yet, so its number is still the group's."""
        os.killpg(self._watcher.pid, signal.SIGKILL)
        os.close(self._lifeline)
        self._watcher.wait()


def dies_with(parent: int) -> Callable[[], None] | None:
    """What a child does at its start, so that the kernel ends it with its parent, by SIGKILL; None where that is not Linux."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded here: after the fork there is no time for it

    def tell_the_kernel() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was told
            os._exit(1)

    return tell_the_kernel
