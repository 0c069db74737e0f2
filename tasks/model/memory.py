"""A lack of memory, the GPU's or the machine's: told apart from other faults, and given back."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import RecipeError

GPU_FAULTS = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""How torch's allocator and CUDA's libraries say it."""

CGROUP_EVENTS = Path("/sys/fs/cgroup/memory.events")
"""Counts, of the container that this process is in, among others the processes that the kernel killed for memory (`oom_kill`)."""


class Shortage(MemoryError):
    """Memory ran out in another process; its text says whose."""


def shortage(error: BaseException) -> str | None:
    """Whose memory ran out, in words; None where the error is another."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, Shortage):
        return str(error)
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError) or any(fault in text for fault in GPU_FAULTS):
        return f"the GPU's memory ran out{_asked_for(text)}"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and should_reduce_batch_size(error)):
        return f"the machine's memory ran out{_asked_for(text)}"
    return None


def _asked_for(text: str) -> str:
    if found := re.search(r"Tried to allocate ([\d.]+ \w+)", text):
        return f" ({found[1]} more asked for)"
    if found := re.search(r"tried to allocate (\d+) bytes", text):
        return f" ({int(found[1]) / 2**20:,.1f} MiB more asked for)"
    return ""


@contextmanager
def room_for(model: Path) -> Iterator[None]:
    """While a model is loaded: a lack of memory is no batch's fault.

    Raises:
        RecipeError: it does not fit.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if (found := shortage(error)) is None:
            raise
        remedy = "raise the memory (pods.resources.memory, or a larger GPU), or pack it by base_model.quantization"
        raise RecipeError(str(model), f"{found} while it was loaded", "room for the whole model", remedy) from None


def free() -> None:
    """Give back what nothing refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def kernel_kills() -> int:
    """How many processes of this container the kernel has killed for want of memory; 0 where it does not say."""
    try:
        found = re.search(r"^oom_kill (\d+)$", CGROUP_EVENTS.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
