"""Packages as containers of files: wheels are fetched by pip and read, never installed or imported.

pip runs as a child process, so that the user's index, mirrors, proxies and certificates count.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from tasks.errors import RecipeError, ServiceError
from tasks.fetch.allowed_hosts import check_host
from tasks.fetch.cache import say
from tasks.fetch.guarded_pip import REFUSED
from tasks.settings import CHECKOUT, quiet_environment, settings
from tasks.workspace.progress import Progress

ShowProgress = Callable[[str, int, str], Progress]
"""Makes the progress of (what, total, unit)."""

LOOK_SECONDS = 45.0
"""How long an index may take to name a package's versions."""


def fetch_wheels(requirement: str, folder: Path, progress: ShowProgress, *, dependencies: bool = False) -> list[Path]:
    """The wheels of a pinned package.

    Args:
        requirement: NAME==VERSION.
        folder: where they are put; it is made.
        progress: shows the transfers.
        dependencies: fetch the packages that it requires as well.

    Raises:
        RecipeError: there is no such package or version.
        ServiceError: pip could not get it.
    """
    command = [*_pip(), "download", "-vv", "--dest", str(folder)]  # -vv tells an index that failed from an empty one
    # Only wheels: the metadata of a source package is had by running its code.
    command += ["--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--progress-bar=raw"]
    command += [*([] if dependencies else ["--no-deps"]), "--", requirement]
    folder.mkdir(parents=True, exist_ok=True)
    # With its reader's death pip's next line of progress fails and ends it: no orphan downloads on.
    with subprocess.Popen(
        command, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        assert pip.stdout is not None
        lines = _follow(pip.stdout, requirement, progress)
    if pip.returncode:
        raise _fault(requirement, lines)
    return sorted(folder.glob("*.whl"))


def check_requirement(requirement: str) -> None:
    """Ask the index for the versions of a package, without fetching one. Raises as `fetch_wheels` does."""
    name, _, version = requirement.partition("==")
    command = [*_pip(), "index", "versions", "--only-binary=:all:", "--pre", "--no-input", "--disable-pip-version-check", "--", name]
    try:
        done = subprocess.run(
            command, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=LOOK_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ServiceError(
            f"pip: {requirement}", f"no answer in {LOOK_SECONDS:.0f} s", "an index", "check pip's configuration (pip config list)"
        ) from None
    lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines()]
    if done.returncode:
        raise _fault(requirement, [line for line in lines if line])
    versions = next((line.partition(": ")[2] for line in lines if line.startswith("Available versions: ")), "")
    if version not in versions.split(", "):
        raise RecipeError(f"pip: {requirement}", "no such version", f"one of the index's versions: {versions}", "correct the recipe")


def _pip() -> list[str]:
    """The command pip, guarded where the settings name hosts."""
    return [sys.executable, "-m", "tasks.fetch.guarded_pip" if settings().allowed_hosts else "pip"]


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    return quiet_environment() | {"PYTHONPATH": path}


def _follow(output: Iterable[str], requirement: str, progress: ShowProgress) -> list[str]:
    """Show pip's progress, file by file; returns the lines that explain a failure."""
    lines: list[str] = []
    name, bar = requirement, None
    with ExitStack() as stack:
        for line in map(str.strip, output):
            if match := re.fullmatch(r"Progress (\d+) of (\d+)", line):
                if bar is None:
                    bar = stack.enter_context(progress(f"fetch {name}", int(match[2]) // 1000, "kB"))
                bar.reach(int(match[1]) // 1000)
            elif match := re.match(r"Downloading (?:\S*/)?(\S+)", line):
                stack.close()
                name, bar = match[1], None
            elif line.startswith(("ERROR:", "WARNING: Retrying", "Could not fetch URL", REFUSED)):
                lines.append(line)
                if line.startswith("WARNING:"):
                    say(f"pip: {line.removeprefix('WARNING: ')}")
    return lines


def _fault(requirement: str, lines: list[str]) -> RecipeError | ServiceError:
    for line in lines:
        if line.startswith(REFUSED):
            check_host(f"pip: {requirement}", line.removeprefix(REFUSED))
    errors = [line for line in lines if line.startswith("ERROR:")]
    last = (errors or lines or ["pip said nothing"])[-1].removeprefix("ERROR: ")
    unreached = any("connection broken" in line or ("Could not fetch URL" in line and ": 404 " not in line) for line in lines)
    if unreached or not re.match(r"No matching distribution|Invalid requirement", last):
        return ServiceError(f"pip: {requirement}", last, "a wheel", "check the network and pip's configuration (pip config list)")
    versions = next((match[1] for line in errors if (match := re.search(r"\(from versions: (.*)\)", line))), "none")
    return RecipeError(f"pip: {requirement}", last, f"one of the index's versions: {versions}", "correct the recipe")
