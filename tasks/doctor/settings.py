"""The settings: what stands in the environment, and whether pods can do with it."""

import difflib
import os
from collections.abc import Iterator

from tasks.contracts import STEPS, Finding
from tasks.doctor.findings import good, of_error, warning
from tasks.doctor.pod_settings import missing_for_pods
from tasks.doctor.scope import Scope
from tasks.registry import publish
from tasks.settings import Settings

WHAT = "settings"


def configuration(scope: Scope) -> Iterator[Finding]:
    """Names that are no setting, and values that cannot be."""
    settings = scope.settings
    publish.namespace(settings.hub_url)
    found = list(_strangers())
    yield from found
    if not found:
        yield good(WHAT, f"profile {scope.recipe.profile if scope.recipe else settings.profile}, runner {settings.runner}")


def for_pods(scope: Scope) -> Iterator[Finding]:
    """What steps in pods would miss."""
    steps = [step for step in STEPS if not scope.here(step)]
    missing = missing_for_pods(scope.settings, steps)
    yield from (of_error("settings for pods", error) for error in missing)
    if not missing:
        yield good("settings for pods", f"image {scope.settings.image}, namespace {scope.settings.namespace}")


def _strangers() -> Iterator[Finding]:
    known = [f"LORAFLOW_{name.upper()}" for name in Settings.model_fields]
    for name in sorted(name for name in os.environ if name.startswith("LORAFLOW_") and name not in known):
        near = difflib.get_close_matches(name, known, n=1)
        yield warning(WHAT, f"{name} is no setting", f"did you mean {near[0]}?" if near else "see docs/settings.md, or remove it")
