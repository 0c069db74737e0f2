"""A child process ends with its parent, whatever ends that. Real processes throughout."""

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tasks.process import child as lifeline
from tasks.process.child import Child
from tasks.settings import CHECKOUT
from tests.support.processes import until

BUSY = """
import subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(grandchild.pid, flush=True)
time.sleep(600)  # in silence: a broken pipe must not be what ends it
"""
"""A step that works, and has started a process of its own."""

WORKER = f"""
import os, sys
from tasks.process.child import Child, ParentGoneError
with Child([sys.executable, "-c", {BUSY!r}], os.environ) as child:
    try:
        for number, line in enumerate(child.lines()):
            if number == 0:
                print(os.getpid(), child.pid, child._watcher.pid, line, flush=True)
    except ParentGoneError:
        pass
"""
"""What a task's process does: it prints its own pid, the step's, the watcher's and the step's child's."""

SUPERVISOR = f"""
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", {WORKER!r}])
worker.wait()
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def wait_for(path: Path) -> str:
    """Code that waits until there is a file."""
    return f"import os, time\nwhile not os.path.exists({str(path)!r}): time.sleep(0.01)\n"


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def start() -> Iterator[Callable[[str], tuple[subprocess.Popen[str], list[int]]]]:
    """Start code that prints pids in its first line; whatever is left is ended."""
    found: list[int] = []
    started: list[subprocess.Popen[str]] = []

    def run(code: str) -> tuple[subprocess.Popen[str], list[int]]:
        process = subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(CHECKOUT)})
        started.append(process)
        assert process.stdout
        found.extend(map(int, process.stdout.readline().split()))
        return process, found

    yield run
    for pid in found:
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)
    for process in started:
        process.kill()
        process.communicate()


def test_lines_of_both_streams_come_as_they_are_printed(tmp_path: Path) -> None:
    go = tmp_path / "go"
    code = "import sys; print('one', flush=True); print('two\\rthree', end='', file=sys.stderr, flush=True)\n" + wait_for(go) + "print()"
    with Child(python(code), os.environ) as child:
        lines = child.lines()
        assert [next(lines), next(lines)] == ["one", "two"]
        go.touch()
        assert list(lines) == ["three"], "its line was not whole before"
        assert child.wait() == 0


def test_a_last_line_without_an_end_is_a_line_and_the_exit_code_is_the_childs() -> None:
    with Child(python("import sys; sys.stdout.write('half'); sys.exit(7)"), os.environ) as child:
        assert list(child.lines()) == ["half"]
        assert child.wait() == 7


def test_what_a_child_prints_just_before_its_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child prints and ends after a look at its output found nothing, and before the look whether it still runs."""
    go = tmp_path / "go"

    class Slow(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            found = super().select(timeout)
            if not go.exists():
                go.touch()
                until(lambda: gone(child.pid))
            return found

    monkeypatch.setattr(selectors, "DefaultSelector", Slow)
    with Child(python(wait_for(go) + "print('last words')"), os.environ) as child:
        assert list(child.lines()) == ["last words"]


def test_bytes_that_are_no_text_are_shown() -> None:
    with Child(python("import sys; sys.stdout.buffer.write(b'\\xff!\\n')"), os.environ) as child:
        assert list(child.lines()) == ["\ufffd!"]


def test_an_ended_child_takes_along_what_it_left_behind() -> None:
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    with Child(python(code), os.environ) as child:
        (left,) = map(int, child.lines())  # ends although the process left behind holds the output open
        assert not gone(left)
    until(lambda: gone(left))


def test_end_is_by_sigterm_first() -> None:
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); print('up', flush=True); time.sleep(600)"
    with Child(python(code), os.environ) as child:
        lines = child.lines()
        assert next(lines) == "up"
        child.end()
        assert child.wait() == 3


def test_end_is_by_sigkill_where_sigterm_is_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "GRACE_SECONDS", 0.3)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    with Child(python(code), os.environ) as child:
        lines = child.lines()
        assert next(lines) == "up"
        child.end()
        assert child.wait() == -signal.SIGKILL


def test_kill_9_of_the_parent_ends_child_and_grandchild(start: Callable) -> None:
    process, pids = start(WORKER)
    process.kill()
    until(lambda: all(gone(pid) for pid in pids))


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_kill_9_of_parent_and_watcher_ends_the_child(start: Callable) -> None:
    process, (_, child, watcher, _grandchild) = start(WORKER)
    os.kill(watcher, signal.SIGKILL)
    process.kill()
    until(lambda: gone(child))


def test_kill_9_of_the_parents_parent_ends_all(start: Callable) -> None:
    process, pids = start(SUPERVISOR)
    assert psutil.Process(pids[0]).ppid() == process.pid
    process.kill()
    until(lambda: all(gone(pid) for pid in pids))


def test_kill_9_of_the_child_ends_its_own_children(start: Callable) -> None:
    _, (worker, child, watcher, grandchild) = start(WORKER)
    os.kill(child, signal.SIGKILL)
    until(lambda: all(gone(pid) for pid in (worker, child, watcher, grandchild)))


def test_a_command_that_is_not_there_leaves_no_watcher(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.Process().children()}
    with pytest.raises(FileNotFoundError):
        Child([str(tmp_path / "nothing")], os.environ)
    until(lambda: {process.pid for process in psutil.Process().children() if not gone(process.pid)} <= before)
