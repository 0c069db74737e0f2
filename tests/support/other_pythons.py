"""Set up an environment for each other Python version and run the tests that do not train in it: `make test-all`."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from environment import UV
from tasks.settings import CHECKOUT


def interpreter(version: str) -> str | None:
    """The path of an interpreter on PATH, among pyenv's or among uv's own; None if there is none that runs."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders = [os.environ["PATH"], *map(str, sorted(pyenv.glob(f"versions/{version}.*/bin")))]
    command = [UV, "python", "find", "--system", "--no-python-downloads", "--offline", version]
    done = subprocess.run(command, env={**os.environ, "PATH": os.pathsep.join(folders)}, cwd=CHECKOUT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def try_on(version: str, pytest: Sequence[str]) -> str:
    """Run the tests on one version; what came of it."""
    python = interpreter(version)
    if python is None:
        return "not tested, no such interpreter on this machine"
    folder = f".venv-{version}"
    if subprocess.run([python, "environment.py", folder], cwd=CHECKOUT).returncode:
        return "set-up failed"
    done = subprocess.run([f"{folder}/bin/python", *pytest, "-m", "not trains"], cwd=CHECKOUT)
    return "tests failed" if done.returncode else "passed"


def main(versions: Sequence[str], pytest: Sequence[str]) -> bool:
    """Try all versions but this one, then print a line for each; whether none failed."""
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    results = {version: try_on(version, pytest) for version in versions if version != own}
    for version, result in results.items():
        print(f"test-all: Python {version}: {result}")
    return not any(result.endswith("failed") for result in results.values())


if __name__ == "__main__":
    end = sys.argv.index("--")
    sys.exit(not main(sys.argv[1:end], sys.argv[end + 1 :]))
