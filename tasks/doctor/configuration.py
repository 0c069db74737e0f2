"""The settings: what stands in the environment, and whether it fits together."""

import difflib
import os
from collections.abc import Iterator

from tasks import hub
from tasks.contracts import Finding
from tasks.doctor.findings import fault, good, warning
from tasks.doctor.needs import Needs, scheme
from tasks.redaction import without_credentials
from tasks.settings import Settings

WHAT = "settings"
IN_PODS = ("data_repo", "mlflow_uri", "dvc_remote", "runs")
"""Settings that stand in the specification of every pod."""


def configuration(needs: Needs) -> Iterator[Finding]:
    """Names that are no setting, and settings that do not go together."""
    ours = needs.ours
    found = [*_strangers(), *(_cluster(needs) if ours.runner == "kubernetes" else ())]
    hub.namespace(ours.hub_url)
    yield from found
    if not found:
        yield good(WHAT, f"profile {needs.recipe.profile if needs.recipe else ours.profile}, runner {ours.runner}")


def _strangers() -> Iterator[Finding]:
    known = [f"LORAFLOW_{name.upper()}" for name in Settings.model_fields]
    for name in sorted(name for name in os.environ if name.startswith("LORAFLOW_") and name not in known):
        near = difflib.get_close_matches(name, known, n=1)
        yield warning(WHAT, f"{name} is no setting", f"did you mean {near[0]}?" if near else "see docs/settings.md, or remove it")


def _cluster(needs: Needs) -> Iterator[Finding]:
    ours = needs.ours
    if not ours.image:
        yield fault(WHAT, "LORAFLOW_IMAGE is not set, the steps' image expected with the runner kubernetes", "set it")
    if not scheme(needs.place) and not ours.volume_claim:
        remedy = "set LORAFLOW_RUNS to a bucket, or name the volume claim that pods and Airflow share in LORAFLOW_VOLUME_CLAIM"
        yield fault(WHAT, f"the workspace is the folder {needs.place}, which no pod sees", remedy)
    for name, service in (("data_repo", "git URL"), ("mlflow_uri", "MLflow URI"), ("dvc_remote", "URL of a DVC remote")):
        value = getattr(ours, name)
        if value is None or not (scheme(value) or ":" in value.partition("/")[0]) or value.startswith("sqlite:"):
            found = f"LORAFLOW_{name.upper()} is {'not set' if value is None else value}, which no pod reaches"
            yield fault(WHAT, found, f"set it to a {service} that pods reach")
    for name in IN_PODS:
        value = str(getattr(ours, name) or "")
        if without_credentials(value) != value:
            remedy = "keep it in a secret of LORAFLOW_POD_SECRETS: MLFLOW_TRACKING_PASSWORD, AWS_SECRET_ACCESS_KEY, GIT_CONFIG_*"
            yield fault(WHAT, f"LORAFLOW_{name.upper()} holds a password, which would stand in every pod's specification", remedy)
