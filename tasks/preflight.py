"""Look whether all is there that the run will need, before anything is fetched and long before a GPU is asked for.

Reads   nothing
Uses    base_model.*, data.source, data.test.source, train.fp16, run.*, pods.*   of the recipe; the settings
Writes  Preflight   runs/<recipe>/<run>/preflight.json

All findings at once, each with its remedy. What is written to try whether writing is possible is removed again. The same by hand:
`loraflow doctor RECIPE`.
"""

import sys

from tasks.contracts import Preflight
from tasks.doctor.checks import for_a_step
from tasks.doctor.findings import examine, lines, stop_at_faults
from tasks.doctor.scope import Scope
from tasks.settings import settings
from tasks.workspace.run import Run


def preflight(run: Run) -> Preflight:
    """Look whether all is there that the run will need: services, rights, access, room; all findings at once."""
    scope = Scope(settings(), run.recipe, run.uri)
    findings = examine(for_a_step(scope))
    for line in lines(findings):
        print(f"preflight: {line}", file=sys.stderr, flush=True)
    stop_at_faults(f"{run.id}: preflight", findings)
    return Preflight(findings)
