"""Airflow's own operator and trigger against the small Kubernetes API: that they need nothing which it does not have."""

import asyncio
import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.kubernetes_api import faults
from tests.support.kubernetes_api.fake import NAMESPACE, KubernetesApi
from tests.support.kubernetes_api.manifests import IMAGE, PATIENT
from tests.support.processes import until

WAIT = "\nimport os, time\nwhile not os.path.exists("


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


def test_the_operator_goes_on_after_lost_streams_and_refused_calls(kubernetes_api: KubernetesApi, tmp_path: Path) -> None:
    from airflow.providers.cncf.kubernetes.callbacks import KubernetesPodOperatorCallback

    go, read = tmp_path / "go", threading.Event()

    class Reader(KubernetesPodOperatorCallback):
        @staticmethod
        def progress_callback(**_: Any) -> None:
            read.set()  # the operator has read a line, and will ask for what comes after it

    def followed() -> list[Any]:
        return [seen for seen in kubernetes_api.requests if seen.path.endswith("/log") and seen.code == 200]

    def cut() -> None:
        until(read.is_set)
        kubernetes_api.drop_logs()
        kubernetes_api.fail(500, method="GET")
        until(lambda: len(followed()) >= 2)
        go.touch()

    other = threading.Thread(target=cut)
    other.start()
    code = f"print('one'); print('two'){WAIT}{str(go)!r}): time.sleep(0.01)\nprint('three')"
    operator(code, callbacks=Reader).execute(context())
    other.join()
    (pod,) = kubernetes_api.pods()
    assert pod["status"]["phase"] == "Succeeded"
    assert "sinceSeconds" in followed()[-1].query


def test_the_operator_fails_with_its_pod_and_leaves_it_marked(kubernetes_api: KubernetesApi) -> None:
    from airflow.exceptions import AirflowException

    kubernetes_api.arm(faults.out_of_memory(), step="train", log="ready")
    with pytest.raises(AirflowException, match="OOMKilled"):
        operator(PATIENT, on_finish_action="keep_pod").execute(context())
    (pod,) = kubernetes_api.pods()
    assert (pod["status"]["phase"], pod["metadata"]["labels"]["already_checked"]) == ("Failed", "True")


@pytest.mark.parametrize(("code", "status"), [(0, "success"), (66, "failed")])
def test_the_trigger_sees_the_end(kubernetes_api: KubernetesApi, tmp_path: Path, code: int, status: str) -> None:
    from airflow.sdk.exceptions import TaskDeferred

    go = tmp_path / "go"

    def let_go() -> None:
        """Once the trigger has watched the pod's events it gets a node, and once its log was fetched it ends."""
        until(lambda: [seen for seen in kubernetes_api.requests if seen.query.get("watch")])
        kubernetes_api.release(kubernetes_api.pods()[0]["metadata"]["name"])
        until(lambda: [seen for seen in kubernetes_api.requests if seen.path.endswith("/log")])
        go.touch()

    kubernetes_api.arm(faults.unschedulable(), step="train")
    threading.Thread(target=let_go).start()
    with pytest.raises(TaskDeferred) as deferred:
        waiting = f"print('half'){WAIT}{str(go)!r}): time.sleep(0.01)\nraise SystemExit({code})"
        operator(waiting, deferrable=True, poll_interval=0.2, logging_interval=1).execute(context())

    async def first() -> Any:
        async for event in deferred.value.trigger.run():
            return event.payload

    payload = asyncio.run(first())
    (pod,) = kubernetes_api.pods()
    assert (payload["status"], payload["name"]) == (status, pod["metadata"]["name"])
    assert not [seen for seen in kubernetes_api.requests if seen.code >= 400]
