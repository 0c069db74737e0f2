"""Which checks are done: those of what the run needs, where its steps run."""

from collections.abc import Callable, Iterable
from functools import partial

from tasks.contracts import Finding
from tasks.doctor import cluster, configuration, hub_rights, inputs, machine, places, tracking_server
from tasks.doctor.findings import Check
from tasks.doctor.needs import Needs

Look = Callable[[Needs], Iterable[Finding]]

EVERYWHERE: dict[str, Look] = {"settings": configuration.configuration, "workspace": places.workspace}

FOR_STEPS: dict[str, Look] = {
    "programs": machine.programs,
    "packages": machine.packages,
    "base model": inputs.base_model,
    "data": inputs.data_files,
    "data repository": places.data_repository,
    "MLflow": tracking_server.tracking_server,
    "published folder": places.published,
    "Hub token": hub_rights.hub_rights,
}
"""What steps need, wherever they run."""


def checks(needs: Needs, *, steps_run_here: bool) -> list[Check]:
    """The checks in the order in which they are told.

    Args:
        needs: what they are done for.
        steps_run_here: whether this process is where steps run, a step itself or a machine that runs them; otherwise it is Airflow's
            side of a cluster, which needs none of what they need, but the cluster.
    """
    looks = EVERYWHERE | (FOR_STEPS if steps_run_here else {"cluster": cluster.cluster})
    return [Check(what, partial(look, needs)) for what, look in looks.items()]
