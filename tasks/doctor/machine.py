"""This machine: programs, packages, room on the disk, memory, a GPU where one is needed."""

import os
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from tasks.contracts import Finding
from tasks.doctor.findings import fault, good, warning
from tasks.doctor.scope import Scope, scheme
from tasks.schema.pods import amount

GB = 1_000_000_000
SPARE = GB
"""Room for data, reports and logs beside a model's weights, bytes."""

LARGE = 4 * GB
"""Weights beyond this take days on a processor, bytes."""

PACKAGES = ("mlflow", "dvc", "great-expectations", "torch", "transformers", "peft")
"""What the steps import; the extra `steps` brings them."""

WORKSPACE_PACKAGES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", ""), "abfs": ("adlfs", "")}
DVC_PACKAGES = {"s3": ("dvc-s3", "dvc-s3"), "gs": ("dvc-gs", ""), "azure": ("dvc-azure", ""), "ssh": ("dvc-ssh", "")}
"""Scheme of a URL to the package that opens it, and the extra that brings that."""


def programs(scope: Scope) -> Iterator[Finding]:
    """git, and ssh where the data repository is reached by it."""
    url = scope.settings.data_repo_url
    by_ssh = scheme(url) in ("ssh", "git+ssh") or ("://" not in url and ":" in url.partition("/")[0])
    for program in ("git", *(["ssh"] if by_ssh else [])):
        path = shutil.which(program)
        yield good(program, path) if path else fault(program, "not found on the PATH", f"install {program}")


def packages(scope: Scope) -> Iterator[Finding]:
    """What the steps import that run here."""
    wanted = dict.fromkeys(PACKAGES, "steps")
    recipe, settings = scope.recipe, scope.settings
    if recipe and recipe.base_model.name.startswith("pypi:"):
        wanted["gguf"] = "demo"
    if recipe and (recipe.base_model.quantization or "8bit" in recipe.train.optim):
        wanted["bitsandbytes"] = "steps"
    for place, known in ((scope.place, WORKSPACE_PACKAGES), (settings.dvc_remote_url, DVC_PACKAGES)):
        if scheme(place) in known:
            package, extra = known[scheme(place)]
            wanted[package] = extra
    versions = {name: _version(name) for name in wanted}
    if missing := [name for name, version in versions.items() if version is None]:
        extras = ",".join(sorted({wanted[name] for name in missing} - {""}))
        remedy = f"install loraflow[{extras}]" if extras else f"install {', '.join(missing)}"
        yield fault("packages", f"not installed: {', '.join(missing)}", remedy)
    else:
        yield good("packages", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def room(scope: Scope, weights: int | None, cached: bool) -> Iterator[Finding]:
    """Room for what the run will write, on each disk that it writes to.

    Args:
        scope: where it writes.
        weights: bytes of the base model's weights, where they are known.
        cached: whether the model cache has them already.
    """
    home = standing(scope.settings.home)
    work = standing(scope.settings.scratch or scope.settings.home if scheme(scope.place) else Path(scope.place))
    # The base is linked into the run where both lie on one disk, else copied; the merged model is as large as it.
    apart = os.stat(home).st_dev != os.stat(work).st_dev
    wanted = {home: 0 if cached else weights or 0}
    wanted[work] = wanted.get(work, 0) + (weights or 0) * (2 if apart else 1)
    disks: dict[int, tuple[Path, int]] = {}
    for folder, needed in wanted.items():
        disk = os.stat(folder).st_dev
        disks[disk] = (folder, disks.get(disk, (folder, 0))[1] + needed)
    for folder, needed in disks.values():
        free = shutil.disk_usage(folder).free
        known = f", about {in_gb(needed + SPARE)} needed" if weights else ""
        if free >= needed + SPARE:
            yield good("room on disk", f"{in_gb(free)} free at {folder}{known}")
        else:
            known = known or f" (expected: at least {in_gb(SPARE)})"
            remedy = "free space, or move LORAFLOW_HOME, LORAFLOW_RUNS or LORAFLOW_SCRATCH"
            yield fault("room on disk", f"{in_gb(free)} free at {folder}{known}", remedy)


def memory(weights: int | None) -> Iterator[Finding]:
    """Whether the unquantised weights, which `merge` and `evaluate` load, fit into memory."""
    import psutil

    total = int(psutil.virtual_memory().total)
    if weights is None:
        yield good("memory", f"{in_gb(total)} in all")
    elif total < weights:
        remedy = "choose a smaller base model, or profile local, or a machine with more"
        yield warning("memory", f"{in_gb(total)} in all, the base model's weights alone take {in_gb(weights)}", remedy)
    else:
        yield good("memory", f"{in_gb(total)} in all, the base model's weights take {in_gb(weights)}")


def pod_room(scope: Scope, weights: int | None) -> Iterator[Finding]:
    """Whether what the recipe asks for its pods holds the base model."""
    if scope.recipe is None or weights is None:
        return
    for step in ("train", "merge", "evaluate"):
        asked = scope.recipe.pods.resources_of(step)
        # On scratch: base and merged model; train alone writes no second one.
        wanted = {
            "memory": (asked.memory, weights),
            "ephemeral_storage": (asked.ephemeral_storage, weights * (1 if step == "train" else 2)),
        }
        for key, (quantity, needed) in wanted.items():
            if not scope.here(step) and amount(quantity) < needed:
                remedy = f"raise pods.step_resources.{step}.{key}, or pods.resources.{key}"
                yield warning(f"pod of {step}", f"{key} is {quantity}, the base model takes about {in_gb(needed)} of it", remedy)


def gpu(scope: Scope, weights: int | None) -> Iterator[Finding]:
    """Whether there is a GPU, where the training runs here."""
    recipe, there, build = scope.recipe, any(Path("/dev").glob("nvidia[0-9]*")), _version("torch") or ""
    if there and build.endswith("+cpu"):
        yield warning("GPU", f"there is one, but torch {build} is built for the processor", "install a CUDA build of torch")
    elif there:
        yield good("GPU", "there is one")
    elif recipe and recipe.train.fp16:
        yield fault("GPU", "none here, train.fp16 needs one", "set train.fp16 to false, or train where there is a GPU")
    elif (weights or 0) > LARGE:
        found = f"none here; on the processor a base model of {in_gb(weights or 0)} takes days"
        yield warning("GPU", found, "choose profile local, or train where there is a GPU")
    else:
        yield good("GPU", "none here; everything runs on the processor")


def standing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def in_gb(number: int) -> str:
    """Bytes as a text."""
    return f"{number / GB:,.1f} GB"
