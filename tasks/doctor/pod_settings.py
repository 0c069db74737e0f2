"""What steps in pods need to be told of an installation: found before a run begins, all of it at once. Pure.

A laptop's defaults are folders of the home folder; in a pod that folder is scratch, and what a step leaves there goes with the pod.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.contracts import CONTRACTS, STEPS
from tasks.errors import SettingsError
from tasks.secrets.redaction import without_credentials
from tasks.settings import Settings

NEEDS = {
    "mlflow_uri": {"train", "evaluate", "register", "promote", "push", "sweep_trial", "sweep_compare"},
    "data_repo": {"version"},
    "dvc_remote": {"version"},
    "hub": {"push"},
}
"""Setting to the steps that use it."""

EXPECTED = {
    "mlflow_uri": "the URL of a tracking server",
    "data_repo": "the URL of a git repository",
    "dvc_remote": "the URL of a DVC remote",
    "hub": "hub:NAMESPACE",
}


def missing_for_pods(settings: Settings, steps: Iterable[str] = STEPS) -> list[SettingsError]:
    """The settings that steps in pods cannot do with, each with its remedy.

    Args:
        settings: of Airflow's side, which hands them on to the pods.
        steps: those that run as pods.
    """
    return list(_missing(settings, frozenset(steps)))


def _missing(settings: Settings, steps: frozenset[str]) -> Iterator[SettingsError]:
    if not settings.image:
        yield SettingsError("LORAFLOW_IMAGE", "not set", "the image of the steps", "set it")
    if not _is_url(settings.runs) and not (isinstance(settings.runs, Path) and settings.volume_claim):
        found = f"is {settings.runs or 'not set'}, which pods cannot reach"
        remedy = "set an s3:// URL, or a folder and the claim of its volume in LORAFLOW_VOLUME_CLAIM"
        yield SettingsError("LORAFLOW_RUNS", found, "a workspace of Airflow's and of the pods", remedy)
    for name, users in NEEDS.items():
        value = getattr(settings, name)
        if users & steps and not _reaches(name, value, settings):
            variable, found = f"LORAFLOW_{name.upper()}", f"is {value}, on one machine" if value else "not set"
            used = ", ".join(step for step in CONTRACTS if step in users & steps)
            yield SettingsError(variable, found, f"{EXPECTED[name]}", f"set it: {used} would keep what they do in their pods")
    for name in ("runs", *NEEDS):
        value = str(getattr(settings, name))
        if value != without_credentials(value):
            remedy = "take it out, and put it into a secret that LORAFLOW_POD_SECRETS names"
            yield SettingsError(f"LORAFLOW_{name.upper()}", "holds a password", "none, since it stands in the pods' specs", remedy)


def _reaches(name: str, value: str | None, settings: Settings) -> bool:
    """Whether a pod that is given this comes to the same place as everybody else."""
    if not value:
        return False
    if name == "hub" and value.startswith("hub:"):
        return True
    path = value.removeprefix("folder:").removeprefix("file://").removeprefix("sqlite:///")
    if path != value or path.startswith(("/", ".", "~")):
        return bool(settings.volume_claim and settings.runs) and path.startswith(f"{settings.runs}/")
    return _is_url(value) or ":" in value  # git@host:team/data.git


def _is_url(value: object) -> bool:
    return "://" in str(value or "") and not str(value).startswith(("file://", "local://"))
