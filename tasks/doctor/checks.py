"""Which checks are done: those of what the run needs, where its steps run."""

from collections.abc import Callable, Iterable
from functools import partial

from tasks.contracts import Finding
from tasks.doctor import cluster, hub, inputs, machine, settings, storage, tracking_server
from tasks.doctor.findings import Check
from tasks.doctor.scope import Scope

Look = Callable[[Scope], Iterable[Finding]]

EVERYWHERE: dict[str, Look] = {"settings": settings.configuration, "workspace": storage.workspace}

FOR_STEPS: dict[str, Look] = {
    "programs": machine.programs,
    "packages": machine.packages,
    "base model": inputs.base_model,
    "data": inputs.data_files,
    "data repository": storage.data_repository,
    "MLflow": tracking_server.tracking_server,
    "published folder": storage.published,
    "Hub token": hub.hub_rights,
}
"""What steps need, wherever they run."""


FOR_PODS: dict[str, Look] = {"settings for pods": settings.for_pods, "cluster": cluster.cluster}
"""What Airflow's side needs where steps run in pods."""


def for_a_step(scope: Scope) -> list[Check]:
    """The checks of `preflight`, which runs where steps run, in a pod too."""
    return _checks(scope, EVERYWHERE | FOR_STEPS)


def by_hand(scope: Scope) -> list[Check]:
    """The checks of `loraflow doctor`: of what this machine does, as one that runs steps, as Airflow's side of a cluster, or both."""
    looks = EVERYWHERE | (FOR_STEPS if scope.here() else {}) | (FOR_PODS if scope.settings.runner == "kubernetes" else {})
    return _checks(scope, looks)


def _checks(scope: Scope, looks: dict[str, Look]) -> list[Check]:
    return [Check(what, partial(look, scope)) for what, look in looks.items()]
