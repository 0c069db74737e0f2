"""Steps as real processes that a test signals, watches and outlives."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import psutil

from tasks.contracts import Adapter
from tasks.registry import tracking
from tasks.workspace.run import Run
from tests.support.forked import Forked

if TYPE_CHECKING:
    import torch

Process: TypeAlias = subprocess.Popen[str] | Forked


@contextmanager
def step(name: str, run: Run, *options: str, code: str = "") -> Iterator[Forked]:
    """A step in a process (and a group) of its own; whatever is left of it afterwards is killed.

    Args:
        name: the step.
        run: its run.
        options: further ones of the command.
        code: Python that the process runs before its command.
    """
    with Forked([name, "--run", run.uri, *options], code) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def ended(process: Process, seconds: float = 120) -> tuple[int, str]:
    """Exit code of a process that ends by itself, and what it printed."""
    _, printed = process.communicate(timeout=seconds)
    return process.returncode, printed


def until(found: Callable[[], Any], process: Process | None = None, seconds: float = 120) -> Any:
    """What is found, once it is; fails where the process that is to bring it about ends first."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert process is None or process.poll() is None, f"it ended first: {process and ended(process)}"
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
    return value


def kill(process: Process) -> None:
    """Kill a step and its group, as a lost machine does, while it is still at work."""
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


def children(process: Process) -> list[psutil.Process]:
    """Processes below a process."""
    return list(psutil.Process(process.pid).children(recursive=True))


def gone(processes: list[psutil.Process], seconds: float = 60) -> bool:
    """Whether all of them end by themselves in time."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def weights(run: Run) -> "dict[str, torch.Tensor]":
    """The adapter that a run trained."""
    from safetensors.torch import load_file

    return dict(load_file(run.path(run.read(Adapter).path) / "adapter_model.safetensors"))


def apart(one: Run, other: Run) -> float:
    """The largest difference between the adapters of two runs."""
    return difference(weights(one), weights(other))


def difference(first: "dict[str, torch.Tensor]", second: "dict[str, torch.Tensor]") -> float:
    """The largest difference between weights of the same names."""
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def losses(run: Run, metric: str = "train.loss") -> dict[int, float]:
    """The training's loss by step, as MLflow has it."""
    return tracking.history(run.read(Adapter).tracked, metric)
