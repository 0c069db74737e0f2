"""`end_pods`: what a run's tasks left in the cluster is ended, once all of them have ended.

A task ends its own pod. It cannot where nobody was there for it: marked failed within the seconds between being parked and being taken
up by the triggerer, or while its worker was at making the pod, or while no triggerer ran. In an undisturbed run nothing is left.
"""

import time
from typing import Any

from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value
from airflow.sdk import BaseOperator

from dags.pods import connection
from dags.pods.api import PodApi
from tasks.settings import settings

SETTLE_SECONDS = 15.0
"""After which the last look is taken: within it, a worker hears that the task that it makes a pod for was marked."""


class EndPods(BaseOperator):
    """End the pods that the run's tasks have left."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"task_id": "end_pods", "doc_md": __doc__, "do_xcom_push": False, **kwargs})

    def execute(self, context: Any) -> None:
        """Look twice."""
        wanted = {"app.kubernetes.io/part-of": "loraflow", "dag_id": context["dag"].dag_id, "run_id": context["run_id"]}
        selector = ",".join(f"{name}={make_safe_label_value(value)}" for name, value in wanted.items())
        with connection.explain_cluster_errors(self.task_id, self.log):
            api = PodApi(connection.hook().core_v1_client, settings().namespace)
            left = self._end(api, selector)
            time.sleep(SETTLE_SECONDS)
            if not self._end(api, selector) | left:
                self.log.info("no pod of this run is left in namespace %s", settings().namespace)

    def _end(self, api: PodApi, selector: str) -> set[str]:
        """Names of the pods that were told to end."""
        left = [pod for pod in api.all(selector) if not pod["metadata"].get("deletionTimestamp")]
        for pod in left:
            self.log.warning("%s: its task ended without it, so it is ended", pod["metadata"]["name"])
            api.end(pod)
        return {pod["metadata"]["name"] for pod in left}
