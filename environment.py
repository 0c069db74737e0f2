"""Create an environment with the packages of requirements.lock: `make setup`. Only the standard library is installed at this point.

The lock pins everything except torch's build, which depends on the machine. It comes from the first of these sources that has a wheel
for this Python and platform:

1. the folders of wheels in pip's configuration (`PIP_FIND_LINKS`, `global.find-links`);
2. PyTorch's index, where uv selects the build for the GPU, or the one without CUDA if there is no GPU;
3. the package index. Its Linux build needs CUDA libraries even without a GPU.

A CUDA build is always installed together with its libraries.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
BASE: str = sys._base_executable  # type: ignore[attr-defined]
"""The interpreter that runs this, or the one behind its environment, which may lack pip."""
UV = ROOT / ".uv" / "bin" / "uv"
LOCK = ROOT / "requirements.lock"
INPUTS = (LOCK, ROOT / "pyproject.toml", Path(__file__).resolve())
"""An environment that is older than one of these is updated."""
PYTORCH = "download.pytorch.org"
PYTORCH_OPTION = "--torch-backend=auto"
PROBE = {"UV_HTTP_TIMEOUT": "5", "UV_HTTP_CONNECT_TIMEOUT": "5", "UV_HTTP_RETRIES": "0"}
"""uv's settings while it asks a source that may be out of reach: seconds, and no retry."""


@dataclass(frozen=True)
class Build:
    """The build of torch to install, as uv resolves it."""

    packages: list[dict[str, Any]]
    """torch and what it requires beyond the lock, in the format of pylock.toml."""
    source: str
    options: tuple[str, ...]
    """uv's options for this source."""
    reason: str = ""
    """Why no better source was used."""

    @property
    def pins(self) -> list[str]:
        """The pin of torch comes first; its version includes the build, like +cpu."""
        return sorted((f"{each['name']}=={each['version']}" for each in self.packages), key=lambda pin: not pin.startswith("torch=="))

    @property
    def download(self) -> str:
        """The size of the wheels that are not on this machine."""
        wheels = [wheel for package in self.packages for wheel in package.get("wheels", ()) if not wheel["url"].startswith("file:")]
        size = sum(wheel.get("size", 0) for wheel in wheels) / 1e9
        return f"up to {size:.1f} GB" if all("size" in wheel for wheel in wheels) else f"more than {size:.1f} GB"

    def __str__(self) -> str:
        return f"{self.pins[0]} from {self.source}"

    @property
    def libraries(self) -> str:
        """What a CUDA build costs, and why it is one; empty for a build without CUDA."""
        if len(self.packages) == 1:
            return ""
        text = f", a CUDA build, with the {len(self.packages) - 1} packages it requires: {self.download} to download"
        return f"{text} ({self.reason})" if self.reason else text


def find_links() -> list[str]:
    """The folders and pages of wheels that pip is configured with; uv reads only its own configuration."""
    if links := os.environ.get("PIP_FIND_LINKS", "").split():
        return links
    # The account's own configuration also counts where HOME leads elsewhere.
    for home in (os.environ.get("HOME", ""), pwd.getpwuid(os.getuid()).pw_dir):
        command = [BASE, "-m", "pip", "config", "get", "global.find-links"]
        done = subprocess.run(command, env={**os.environ, "HOME": home}, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.split()
    return []


class Uv:
    """uv for one environment.

    Args:
        environment: Its folder.
        links: Folders and pages of wheels.
        project: An empty folder. The configuration in the checkout removes torch's CUDA packages; that is meant for the lock alone.
    """

    def __init__(self, environment: Path, links: list[str], project: Path) -> None:
        (project / "pyproject.toml").write_text("[tool.uv]\n", encoding="utf-8")  # uv looks no further up
        self.python = environment / "bin" / "python"
        self.links = links
        self.project = project
        self.variables = {**os.environ, **({"UV_FIND_LINKS": ",".join(links)} if links else {})}

    def run(self, *arguments: str | Path) -> None:
        """Run a command; if it fails, exit with its code, since uv has printed the reason."""
        command = [UV, "--quiet", "--project", self.project, *arguments]
        if code := subprocess.run(command, env=self.variables, check=False).returncode:
            sys.exit(code)

    def resolve(self, requirement: str, *options: str, **variables: str) -> list[dict[str, Any]]:
        """The packages that a requirement needs in this environment, as in pylock.toml: each with the wheel that fits.

        Raises:
            LookupError: If uv finds no solution; with its reasons.
        """
        import tomllib  # an older Python has to reach the message that it is too old

        command: list[str | Path] = [UV, "--quiet", "--project", self.project, "pip", "compile", *options]
        command += ["--format", "pylock.toml", "--python", self.python, "-"]
        variables = {**self.variables, **variables}
        done = subprocess.run(command, input=requirement, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LookupError(done.stderr.strip())
        packages: list[dict[str, Any]] = tomllib.loads(done.stdout)["packages"]
        return packages

    def problem(self, requirement: str, option: str) -> str:
        """Why the source that an option selects has nothing that fits, in one line; empty if it has."""
        try:
            self.resolve(requirement, "--no-deps", option, **PROBE)
        except LookupError as error:
            return str(error).splitlines()[-1].removeprefix("  cause: ")
        return ""


def locked_names(lock: str) -> set[str]:
    """The packages that the lock installs; those that the project overrides away are in it for no platform."""
    pins = (line for line in lock.splitlines() if re.match(r"[a-z0-9-]+==", line))
    return {pin.partition("==")[0] for pin in pins if "sys_platform == 'never'" not in pin}


def choose_torch(uv: Uv) -> Build:
    """Select the source of torch, and resolve what its build requires beyond the lock.

    Raises:
        LookupError: If no source has a build for this environment; with uv's reasons.
    """
    lock = LOCK.read_text(encoding="utf-8")
    (torch,) = re.findall(r"^torch==\S+", lock, re.M)
    options: tuple[str, ...] = ()
    reason = ""
    if uv.links and not uv.problem(torch, "--no-index"):
        source = " ".join(uv.links)
    elif not (unusable := uv.problem(torch, PYTORCH_OPTION)):
        source, options = PYTORCH, (PYTORCH_OPTION,)
    else:
        source = "the package index"
        links = f"no wheel in {' '.join(uv.links)} fits" if uv.links else "PIP_FIND_LINKS names no folder of wheels"
        reason = f"{links}; {PYTORCH}: {unusable}"
    names = locked_names(lock) - {"torch"}
    packages = [each for each in uv.resolve(torch, *options, "--constraint", str(LOCK)) if each["name"] not in names]
    return Build(packages, source, options, reason)


def python_of(environment: Path) -> str:
    """The Python version of an environment, like 3.13; empty if there is none, or its interpreter is gone."""
    config = environment / "pyvenv.cfg"
    if not config.exists() or not (environment / "bin" / "python").exists():
        return ""
    found = re.search(r"^version(?:_info)? = (\d+\.\d+)", config.read_text(encoding="utf-8"), re.M)
    return found[1] if found else ""


def check_torch(environment: Path, build: Build) -> None:
    """Import torch in the environment; if that fails, exit with the fix."""
    done = subprocess.run([environment / "bin" / "python", "-c", "import torch"], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        sys.exit(
            f"setup: {environment}: {build}: import torch fails: {lines[-1]} (expected: no error). Fix: install what is missing, or name a "
            f"folder with another wheel of {build.pins[0].partition('+')[0]} for this Python and platform in PIP_FIND_LINKS. Then run make "
            "setup again."
        )


def main(environment: Path) -> None:
    """Create or update an environment for the Python that runs this; at once if it is up to date."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if sys.version_info < (3, 11):  # noqa: UP036  the message is for an older one
        sys.exit(f"setup: this is Python {version} (expected: 3.11 or newer). Fix: name one, like make setup PYTHON=python3.12")
    existing = python_of(environment)
    complete = environment / "complete"
    if existing == version and complete.exists() and complete.stat().st_mtime >= max(path.stat().st_mtime for path in INPUTS):
        return
    complete.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        uv = Uv(environment, find_links(), Path(folder))
        if existing != version:
            if environment.exists():
                print(f"setup: replacing {environment}, made with Python {existing or 'that is gone'}, by one with {version}", flush=True)
            uv.run("venv", "--clear", "--python", BASE, environment)
        try:
            build = choose_torch(uv)
        except LookupError as error:
            sys.exit(f"setup: no build of torch for Python {version}:\n{error}")
        print(f"setup: installing {build}{build.libraries}", flush=True)
        pins = Path(folder) / "torch.txt"
        pins.write_text("\n".join(build.pins) + "\n", encoding="utf-8")
        # uv would keep another build of the same version, and damaged files.
        fresh = ("--reinstall-package", "torch")
        uv.run("pip", "sync", "--python", uv.python, "--compile-bytecode", *fresh, *build.options, LOCK, pins)
        uv.run("pip", "install", "--python", uv.python, "--no-deps", "--editable", ROOT)
    check_torch(environment, build)
    complete.touch()
    size = subprocess.run(["du", "-sh", environment], capture_output=True, text=True, check=True).stdout.split()[0]
    print(f"setup: {environment} is ready (Python {version}, {size})")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
