"""The steps by name: where each one's function is, imported only when it is performed."""

import sys
from importlib import import_module

from tasks.contracts import CONTRACTS, Manifest
from tasks.workspace import outcome
from tasks.workspace.disk import disk_faults
from tasks.workspace.run import Run


def perform(step: str, run: Run, generation: int = 0, part: str = "") -> Manifest:
    """Do a step of a run, or one part of its work, once.

    Raises:
        LoraflowError: what the step found; its exit code says whether a retry may help.
    """
    print(f"{step}: run {run.id}, profile {run.recipe.profile}", file=sys.stderr, flush=True)
    work = getattr(import_module(f"tasks.{step}"), step)
    with disk_faults(run.folder):
        manifest = run.perform(step, work, contract=CONTRACTS[step], generation=generation, part=part)
    if told := outcome.sentence(run, manifest):
        print(f"{step}: {told}", file=sys.stderr, flush=True)
    return manifest
