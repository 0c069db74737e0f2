"""Several processes of one machine that train together, a GPU each: started by torch's launcher, ended together, one fault told.

They meet over a file and, without GPUs, talk over the loopback interface alone. None outlives the process that started them: the
kernel kills them with it.
"""

import os
import pickle
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

from tasks.errors import InterruptedRunError, LoraflowError, ServiceError
from tasks.model.memory import Shortage, kernel_kills, shortage
from tasks.process import sigterm
from tasks.process.child import dies_with
from tasks.process.library_logs import quiet_libraries
from tasks.secrets.redaction import redact_output

J = TypeVar("J")
R = TypeVar("R")

POLL_SECONDS = 0.2

GRACE_SECONDS = 5.0
"""How long the others may take to notice that one has failed, before they are killed."""

WAIT = timedelta(days=1)
"""How long a process waits for the others: the first one may be scoring a model, or handing up a checkpoint. A dead one is noticed by
the process that started it."""


def in_ranks(count: int, work: Callable[[J], R], job: J, what: str) -> R:
    """What the work returns in the first of so many processes that do it together; with one, it is done here.

    Args:
        count: how many.
        work: a function of a module; every process calls it.
        job: what it is given, picklable.
        what: name of the step, for messages.

    Raises:
        LoraflowError: the first that one of them raised.
        Shortage: one of them ran out of memory, or the kernel killed it for want of that.
        RuntimeError: one of them raised another error, a bug; with its traceback.
    """
    if count == 1:
        return work(job)
    from torch.multiprocessing.spawn import start_processes

    kills = kernel_kills()
    with tempfile.TemporaryDirectory(prefix="loraflow-ranks-") as name:
        folder = Path(name)
        context: Any = start_processes(_take_part, (_Group(count, folder, os.getpid(), what), work, job), nprocs=count, join=False)  # type: ignore[no-untyped-call]
        try:
            with sigterm.on_sigterm(lambda: _pass_on(context)) as asked:
                _join(context, folder, what, asked, kills)
        finally:
            for process in context.processes:
                process.kill()
                process.join()
        return cast(R, _unpickled(folder / "result"))


def rank() -> int:
    """Number of this process among those that train together; 0 is the first, or the only one."""
    return int(os.environ.get("RANK", "0"))


def anywhere(here: bool) -> bool:
    """Whether something is so in any of the processes that train together; all of them ask at the same moment."""
    import torch

    if not torch.distributed.is_initialized():
        return here
    flag = torch.tensor([float(here)], device="cuda" if torch.cuda.is_available() else "cpu")
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


def wait_for_all() -> None:
    """Wait until all processes that train together are here."""
    anywhere(False)


def _pass_on(context: Any) -> None:
    for process in context.processes:
        if process.is_alive():
            process.terminate()


def _join(context: Any, folder: Path, what: str, asked: Callable[[], bool], kills: int) -> None:
    """Wait for all to end well, and raise what `in_ranks` does where one has not."""
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

    try:
        while not context.join(timeout=POLL_SECONDS, grace_period=GRACE_SECONDS):
            pass
    except (ProcessExitedException, ProcessRaisedException) as error:
        first, count, signal_name = error.error_index, len(context.processes), getattr(error, "signal_name", None)
    else:
        return
    faults = sorted((cast(_Fault, _unpickled(path)) for path in folder.glob("fault-*")), key=lambda fault: fault.at)
    if told := next((fault.error for fault in faults if fault.error), None):
        raise told  # what the others met afterwards is that this one was gone
    if asked():
        raise sigterm.ended(what)
    which = f"process {first + 1} of {count}"
    if signal_name == "SIGKILL" and kernel_kills() > kills:
        raise Shortage(f"the machine's memory ran out (the kernel killed {which})")
    if found := next((fault.text for fault in faults if fault.rank == first), None):
        raise RuntimeError(f"{which} failed:\n{found}")
    how = signal_name or f"exit code {context.processes[first].exitcode}"
    raise ServiceError(what, f"{which} ended by {how}", "all of them at work", "a retry goes on from what is whole")


@dataclass(frozen=True)
class _Group:
    """The processes that work together."""

    count: int
    folder: Path
    """Where they meet, and leave result and faults."""
    parent: int
    """Process id."""
    what: str
    """What they work on, for messages."""


@dataclass(frozen=True)
class _Fault:
    """How a process failed."""

    rank: int
    at: float
    """Monotonic time of this machine, seconds."""
    error: LoraflowError | Shortage | None
    """None where it is a bug, or that another process was gone."""
    text: str


def _take_part(number: int, group: _Group, work: Callable[[J], R], job: J) -> None:
    """One of the processes, from its start to its end."""
    if tell_the_kernel := dies_with(group.parent):  # torch asks for SIGINT, which a process that waits for the others does not hear
        tell_the_kernel()
    redact_output()
    sigterm.listen(group.what, lambda: os._exit(InterruptedRunError.exit_code), patient=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches all of them; the parent sees to it
    quiet_libraries()
    warnings.simplefilter("ignore")
    try:
        _meet(number, group.count, group.folder)
        result = work(job)
        if number == 0:
            _write(group.folder / "result", result)
        _leave()
    except BaseException as error:
        known: LoraflowError | Shortage | None = error if isinstance(error, (LoraflowError, Shortage)) else None
        if known is None and (found := shortage(error)):
            known = Shortage(found)
        _write(group.folder / f"fault-{number}", _Fault(number, time.monotonic(), known, traceback.format_exc()))
        sys.stderr.flush()
        os._exit(error.exit_code if isinstance(error, LoraflowError) else 1)  # a library's thread may wait for the others for ever


def _meet(number: int, count: int, folder: Path) -> None:
    import torch

    ranks = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(value) for name, value in ranks.items()})
    if loopback := next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(len(os.sched_getaffinity(0)) // count, 1))
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    store = torch.distributed.FileStore(str(folder / "meeting"), count)  # type: ignore[attr-defined]
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(number)
    torch.distributed.init_process_group("nccl" if gpus else "gloo", store=store, rank=number, world_size=count, timeout=WAIT)


def _leave() -> None:
    import torch

    torch.distributed.destroy_process_group()


def _write(path: Path, thing: object) -> None:
    path.write_bytes(pickle.dumps(thing))


def _unpickled(path: Path) -> object:
    return pickle.loads(path.read_bytes())  # noqa: S301 — one of our own processes wrote it
