"""Steps that finish in milliseconds, for tests of what starts, retries, clears and kills steps.

With this folder on PYTHONPATH, `python -m tasks STEP` runs the real command, with the real workspace, locks, claims and manifests; only the
step's own function is one of `steps.py`. No step then imports torch, MLflow, DVC or Great Expectations.

`hold` lets a step wait, for a test that has to find its process.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from tasks.settings import CHECKOUT
from tasks.workspace.run import Run

FOLDER = Path(__file__).resolve().parent


REAL_STEPS_FILE = "REAL_STEPS_FILE"
"""Environment variable: a step that starts while this file exists is the real one."""


def with_quick_steps(env: Mapping[str, str], real: Path | None = None) -> dict[str, str]:
    """An environment in which the processes below run the quick steps.

    Args:
        env: the environment to extend.
        real: a file; while it exists, steps that start are the real ones.
    """
    path = os.pathsep.join(filter(None, (str(FOLDER), str(CHECKOUT), env.get("PYTHONPATH", ""))))
    return {**env, "PYTHONPATH": path} | ({REAL_STEPS_FILE: str(real)} if real else {})


def hold(run: Run, step: str) -> None:
    """Let a step of a run wait until `release`: `train` before its last optimiser step, any other before its work."""
    run.put(f"{step}.held", "held")


def release(run: Run, step: str) -> None:
    """Let a held step go on, and its later attempts run through."""
    run.put(f"{step}.held", "")
