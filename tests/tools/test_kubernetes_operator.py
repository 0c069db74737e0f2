"""Airflow's own operator and trigger against the small Kubernetes API: that they need nothing which it does not have."""

import asyncio
import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.kubernetes_api import faults
from tests.support.kubernetes_api.fake import NAMESPACE, KubernetesApi
from tests.support.kubernetes_api.manifests import IMAGE, PATIENT


@pytest.fixture(autouse=True)
def connection(airflow_home: Path, kubernetes_api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"kube_config_path": str(kubernetes_api.kubeconfig), "namespace": NAMESPACE}
    monkeypatch.setenv("AIRFLOW_CONN_FAKE", json.dumps({"conn_type": "kubernetes", "extra": extra}))


def operator(code: str, **options: Any) -> Any:
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    return KubernetesPodOperator(
        **{"task_id": "train", "name": "train", "kubernetes_conn_id": "fake", "namespace": NAMESPACE, "image": IMAGE},
        **{"cmds": ["python", "-u", "-c", code], "labels": {"step": "train"}, "startup_check_interval_seconds": 1, **options},
    )


def context() -> Any:
    ti = SimpleNamespace(dag_id="d", task_id="train", map_index=-1, try_number=1, start_date=datetime.now(UTC), xcom_push=lambda **_: None)
    return {"ti": ti, "run_id": "manual__1", "dag": SimpleNamespace()}


def test_the_operator_runs_a_pod_to_its_end(kubernetes_api: KubernetesApi) -> None:
    operator("print('trained')").execute(context())
    (pod,) = kubernetes_api.pods(dag_id="d", step="train")
    assert pod["status"]["phase"] == "Succeeded"
    deletes = [seen for seen in kubernetes_api.requests if seen.method == "DELETE"]
    assert [seen.path for seen in deletes] == [f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}"]
    assert not [seen for seen in kubernetes_api.requests if seen.code >= 400], "the operator asked for something that is not there"


def test_the_operator_goes_on_after_lost_streams_and_refused_calls(kubernetes_api: KubernetesApi) -> None:
    def followed() -> list[Any]:
        return [seen for seen in kubernetes_api.requests if seen.path.endswith("/log")]

    def cut() -> None:
        while not followed():
            time.sleep(0.1)
        kubernetes_api.drop_logs()
        kubernetes_api.fail(500, method="GET")

    other = threading.Thread(target=cut)
    other.start()
    operator("import time; print('half'); time.sleep(4); print('whole')").execute(context())
    other.join()
    (pod,) = kubernetes_api.pods()
    assert pod["status"]["phase"] == "Succeeded"
    assert len(followed()) >= 2 and "sinceSeconds" in followed()[-1].query


def test_the_operator_fails_with_its_pod_and_leaves_it_marked(kubernetes_api: KubernetesApi) -> None:
    from airflow.exceptions import AirflowException

    kubernetes_api.arm(faults.out_of_memory(), step="train", log="ready")
    with pytest.raises(AirflowException, match="OOMKilled"):
        operator(PATIENT, on_finish_action="keep_pod").execute(context())
    (pod,) = kubernetes_api.pods()
    assert (pod["status"]["phase"], pod["metadata"]["labels"]["already_checked"]) == ("Failed", "True")


@pytest.mark.parametrize(("code", "status"), [(0, "success"), (66, "failed")])
def test_the_trigger_sees_the_end(kubernetes_api: KubernetesApi, code: int, status: str) -> None:
    from airflow.sdk.exceptions import TaskDeferred

    kubernetes_api.arm(faults.unschedulable(seconds=1.5), step="train")
    with pytest.raises(TaskDeferred) as deferred:
        operator(f"import time; time.sleep(3); raise SystemExit({code})", deferrable=True, poll_interval=0.2, logging_interval=1).execute(
            context()
        )

    async def first() -> Any:
        async for event in deferred.value.trigger.run():
            return event.payload

    payload = asyncio.run(first())
    (pod,) = kubernetes_api.pods()
    assert (payload["status"], payload["name"]) == (status, pod["metadata"]["name"])
    assert [seen for seen in kubernetes_api.requests if seen.query.get("watch")], "it watches the pod's events"
    assert [seen for seen in kubernetes_api.requests if seen.path.endswith("/log")], "it fetches the log while it waits"
    assert not [seen for seen in kubernetes_api.requests if seen.code >= 400]
