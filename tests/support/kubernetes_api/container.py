"""A container: a process of this machine whose end and output are known as a container runtime knows them."""

import contextlib
import os
import signal
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.process.child import Child, ParentGoneError
from tests.support.kubernetes_api.answers import Object
from tests.support.kubernetes_api.log import Log
from tests.support.kubernetes_api.store import now

LAST_LINES, LAST_BYTES = 80, 2048
"""How much of its log stands for a container's last message."""
MESSAGE_BYTES = 4096


@dataclass(frozen=True)
class Plan:
    """All that a process needs to start."""

    argv: list[str]
    env: dict[str, str]
    cwd: Path
    message: Path
    """File that the container may write its last message to."""


class Container:
    """One container of a pod.

    Args:
        spec: the container's part of the pod's spec.
        told: called with each line that it prints.
        changed: called when its state has changed.
        ending: called when the process has ended, before anybody can see that.
        first: whether SIGTERM finds process 1 of a PID namespace, which takes only signals that it has a handler for.
    """

    def __init__(
        self, spec: Object, told: Callable[[str], None], changed: Callable[[], None], ending: Callable[[], None], first: bool = True
    ) -> None:
        self.spec, self.name = spec, str(spec["name"])
        self.log, self.last_log = Log(told), Log(told)
        self.last_state: Object = {}
        self.restarts = 0
        self.state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self.out_of_memory = False
        self._told, self._changed, self._ending, self._first = told, changed, ending, first
        self._child: Child | None = None
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return "running" in self.state

    @property
    def done(self) -> bool:
        """Whether it has run to its end."""
        return "terminated" in self.state

    @property
    def started(self) -> bool:
        """Whether its process was started; a short one may be done by now."""
        return self.running or (self.done and self.state["terminated"]["reason"] != "StartError")

    @property
    def exit_code(self) -> int:
        """Exit code of a container that is done."""
        return int(self.state["terminated"]["exitCode"])

    def wait_for(self, reason: str, message: str = "") -> None:
        """Say why it does not run yet."""
        self.state = {"waiting": {"reason": reason} | ({"message": message} if message else {})}

    def back_off(self) -> None:
        """Wait for its next run."""
        self.last_log, self.log = self.log, Log(self._told)
        self.last_state, self.out_of_memory = self.state, False
        self.restarts += 1
        self.wait_for("CrashLoopBackOff", f"back-off restarting failed container={self.name}")

    def start(self, plan: Plan) -> None:
        """Start the process; this returns when it runs, or could not be started."""
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(plan, started), name=f"container {self.name}", daemon=True)
        self._thread.start()  # of its own, since the kernel ends a child with the thread that made it
        started.wait()

    def _run(self, plan: Plan, started: threading.Event) -> None:
        begun = now()
        try:
            with Child(plan.argv, plan.env, plan.cwd) as child:
                with self._guard:
                    self._child = child
                self.state = {"running": {"startedAt": begun}}
                started.set()
                for line in child.lines():
                    self.log.add(line)
                code = child.wait()
        except (FileNotFoundError, PermissionError) as error:
            why = "executable file not found in $PATH" if isinstance(error, FileNotFoundError) else "permission denied"
            self._end(128, "StartError", f'unable to start container process: exec: "{plan.argv[0]}": {why}: unknown', begun)
        except ParentGoneError:
            self._end(137, "Error", "", begun)
        else:
            code = code if code >= 0 else 128 - code
            reason = "OOMKilled" if self.out_of_memory else "Completed" if code == 0 else "Error"
            self._end(code, reason, self._last_message(plan, code), begun)
        finally:
            with self._guard:
                self._child = None
            started.set()

    def _end(self, code: int, reason: str, message: str, begun: str) -> None:
        with self._guard:
            self._child = None
        self._ending()
        self.log.close()  # before anybody can see the end: a restart puts a new log in its place
        ended: Object = {"exitCode": code, "reason": reason, "startedAt": begun, "finishedAt": now(), "containerID": self.id}
        self.state = {"terminated": ended | ({"message": message} if message else {})}
        self._changed()

    def _last_message(self, plan: Plan, code: int) -> str:
        written = plan.message.read_bytes()[:MESSAGE_BYTES].decode(errors="replace") if plan.message.exists() else ""
        if not written and code and self.spec["terminationMessagePolicy"] == "FallbackToLogsOnError":
            lines = [line.shown(False) for line in self.log.lines[-LAST_LINES:]]
            return b"".join(lines)[-LAST_BYTES:].decode(errors="replace")
        return written

    def terminate(self) -> None:
        """SIGTERM to the container's first process."""
        with self._guard:
            if self._child and (not self._first or _has_handler(self._child.pid, signal.SIGTERM)):
                _send(self._child.pid, signal.SIGTERM)

    def hold(self, held: bool) -> None:
        """Let the container's first process stand still, or go on."""
        with self._guard:
            if self._child:
                _send(self._child.pid, signal.SIGSTOP if held else signal.SIGCONT)

    def kill(self, out_of_memory: bool = False) -> None:
        """SIGKILL."""
        with self._guard:
            self.out_of_memory |= out_of_memory
            if self._child:
                _send(self._child.pid, signal.SIGKILL)

    def join(self) -> None:
        """Wait until nothing of it is left."""
        if self._thread:
            self._thread.join()

    @property
    def id(self) -> str:
        """As a runtime would name it."""
        return f"containerd://{zlib.crc32(str(id(self)).encode()):064x}"

    def status(self) -> Object:
        """Its part of the pod's status."""
        told: Object = {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "",
            "restartCount": self.restarts,
            "lastState": self.last_state,
        }
        told |= {"ready": self.running, "started": self.running, "state": self.state}
        if not self.state.get("waiting"):
            told |= {"containerID": self.id, "imageID": f"{self.spec['image'].partition('@')[0]}@sha256:{zlib.crc32(b'image'):064x}"}
        return told


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended of itself
        os.kill(pid, number)


def _has_handler(pid: int, number: int) -> bool:
    """Whether a process catches a signal. Where the system does not say, it is taken to."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return True
    caught = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)
