"""A step as a pod: the real operator, trigger and client against a small API server that runs the pods' commands here.

The pods run quick steps. Pods with real steps: tests/pipeline/test_kubernetes.py.
"""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import Download, Plan
from tasks.workspace.run import Run
from tests.support import tiny
from tests.support.kubernetes_api import faults
from tests.support.kubernetes_api.fake import KubernetesApi
from tests.support.kubernetes_api.images import QUICK_STEPS as IMAGE
from tests.support.parked import context, fails, messages, operator, perform, there_now
from tests.support.quick_steps import hold

pytest_plugins = ["tests.support.parked"]
pytestmark = pytest.mark.usefixtures("pod_log")
MakeRun = Callable[..., Run]
HALF_A_SECOND = 0.5 / 60


def test_a_step_runs_in_a_pod_and_its_lines_are_in_the_log(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any
) -> None:
    run = make_run(tiny_document)
    perform(run, "download")
    assert run.read(Download).source is not None
    (pod,) = kubernetes_api.pods()
    name, said = pod["metadata"]["name"], messages(pod_log)
    command = f"python -m tasks download --run {run.folder} --generation 0"
    assert said[0] == f"pod {name} in namespace loraflow\n{command}\ncpu 1, memory 4Gi, ephemeral-storage 10Gi"
    stages = [f"pod {name} {stage}" for stage in ("waits for a node", "starts on node node-1", "runs on node node-1")]
    seen = [message for message in said if message in stages]  # those that the watch came upon
    assert said[1 : 1 + len(seen)] == seen == sorted(set(seen), key=stages.index) and seen[-1] == stages[-1]
    printed = [record for record in pod_log if "timestamp" in record]
    assert [record["event"] for record in printed] == kubernetes_api.log(name).splitlines()
    assert printed[0]["event"] == "download: run tiny/test, profile full" and printed[0]["timestamp"].endswith("Z")
    assert {record["log_level"] for record in pod_log[1:]} == {"info"} and len(said) <= 1 + len(stages) + len(printed)
    assert there_now(kubernetes_api) == []
    assert pod["metadata"]["labels"]["dag_id"] == "retrain_tiny" and pod["metadata"]["labels"]["try_number"] == "1"


def test_what_is_done_needs_no_pod_and_a_clear_does_it_again(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any
) -> None:
    run = make_run(tiny_document)
    perform(run, "download")
    perform(run, "download", try_number=2)
    assert len(kubernetes_api.pods()) == 1 and messages(pod_log)[-1] == "download: its manifest is there, so it is done"
    perform(run, "download", try_number=3, max_tries=5)  # cleared after the second try
    assert run.generation("download") == 3 and len(kubernetes_api.pods()) == 2


def test_a_fault_that_no_retry_mends_ends_in_one_block(make_run: MakeRun, tiny_document: Any, pod_log: Any) -> None:
    run = make_run(tiny_document)
    assert fails(run, "split") == (66, "fail")
    expected = f"ContractError\n{run.folder}/validate.json: not there (expected: the manifest of validate). Fix: run validate first"
    assert pod_log[-1] == {"event": expected, "log_level": "error"}
    assert not any("ContractError" in message for message in messages(pod_log)[:-1])


def test_a_skip_skips_and_says_why(make_run: MakeRun, tiny_document: Any) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    with pytest.raises(AirflowSkipException, match=r"^skipped: validate: data is latest"):
        perform(make_run(tiny_document, run__data="latest"), "validate")


def test_a_lost_log_leaves_the_step_s_last_words(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any
) -> None:
    kubernetes_api.forbid("get", "pods/log")
    assert fails(make_run(tiny_document), "split") == (66, "fail")
    assert messages(pod_log)[-1].startswith("ContractError\n") and messages(pod_log)[-1].endswith("run validate first")


def test_a_pod_that_finds_no_node_is_given_up(make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any) -> None:
    kubernetes_api.arm(faults.unschedulable("0/1 nodes are available: 1 Insufficient cpu."))
    assert fails(make_run(tiny_document, pods__schedule_minutes=2 * HALF_A_SECOND), "download") == (75, "default")
    assert "got no node (Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.) (expected: one within 0.01" in messages(pod_log)[-1]
    assert any("waits for a node (0/1 nodes are available" in message for message in messages(pod_log))
    assert any(message.startswith("FailedScheduling: ") for message in messages(pod_log)) and there_now(kubernetes_api) == []


def test_an_image_that_cannot_be_pulled_is_tried_again_and_a_busy_registry_waited_for(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any
) -> None:
    run = make_run(tiny_document)
    kubernetes_api.arm(faults.pull_error())
    assert fails(run, "download") == (75, "default")
    assert f"image {IMAGE} cannot be pulled (ErrImagePull: rpc error: code = NotFound" in messages(pod_log)[-1]
    kubernetes_api.arm(faults.pull_error("429 Too Many Requests", seconds=1.0))
    perform(run, "download", try_number=2)
    assert run.has(Download)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("LORAFLOW_IMAGE", "No Image", "image 'No Image' (InvalidImageName"),
        ("LORAFLOW_POD_SECRETS", "hub", 'cannot start (CreateContainerConfigError: secret "hub" not found)'),
        ("LORAFLOW_SERVICE_ACCOUNT", "nobody", "refused by the cluster (403: "),
        ("LORAFLOW_NAMESPACE", "nowhere", "refused by the cluster (404: "),
    ],
)
def test_what_a_setting_is_wrong_about_is_final(
    variable: str, value: str, words: str, make_run: MakeRun, tiny_document: Any, pod_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert fails(make_run(tiny_document), "download") == (78, "fail")
    assert words in messages(pod_log)[-1]


def test_a_pod_whose_time_is_up_is_not_tried_again(home: Path, tiny_base: Path, kubernetes_api: KubernetesApi, pod_log: Any) -> None:
    document = tiny.recipe_document(tiny_base, home / "none.csv") | {"pods": {"deadline_hours": 1 / 3600, "grace_seconds": 5}}
    run = tiny.start_at_train(home / "runs/tiny/test", tiny_base, tiny.tweets(200), document)
    hold(run, "train")
    assert fails(run, "train") == (64, "fail")
    assert "ended by the cluster (DeadlineExceeded)" in messages(pod_log)[-1]


def test_a_quota_that_is_used_up_is_waited_for(make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "team", "namespace": "loraflow"},
        "spec": {"hard": {"pods": "0"}},
    }
    store = kubernetes_api.cluster.store
    store.create("resourcequotas", quota)
    run = make_run(tiny_document)

    def lift(trigger: Any) -> None:
        if type(trigger).__name__ == "TimeDeltaTrigger":
            store.remove("resourcequotas", "loraflow", "team")

    perform(run, "download", parked=lift)
    assert run.has(Download) and any("waiting for room in the quota (pods " in message for message in messages(pod_log))
    store.create("resourcequotas", quota)
    run = make_run(tiny_document, "other", pods__schedule_minutes=HALF_A_SECOND)
    assert fails(run, "download") == (75, "default") and "over quota (" in messages(pod_log)[-1]


def test_a_pod_that_ends_well_and_leaves_no_manifest_is_no_success(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any
) -> None:
    run = make_run(tiny_document)
    kubernetes_api.arm(lambda *_: (run.folder / "download.json").unlink(), at="exiting")
    assert fails(run, "download") == (66, "fail")
    assert "its manifest). Fix: let LORAFLOW_RUNS name the same place here and in the pod" in messages(pod_log)[-1]


def test_a_pod_that_waits_in_a_queue_waits_and_then_runs(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kueue's webhook holds a pod of its queue by a gate, which Kueue takes away when its turn has come."""
    from kubernetes.client import V1PodSchedulingGate

    from dags.pods import operator as pod_step

    def webhook(pod: Any) -> None:
        assert pod.metadata.labels["kueue.x-k8s.io/queue-name"] == "gpus"
        pod.spec.scheduling_gates = [V1PodSchedulingGate(name="kueue.x-k8s.io/admission")]

    monkeypatch.setattr(pod_step, "pod_mutation_hook", webhook)
    run = make_run(tiny_document, pods__queue="gpus", pods__start_minutes=6 * HALF_A_SECOND)

    def admit(trigger: Any) -> None:
        patch = {"spec": {"schedulingGates": [{"$patch": "delete", "name": "kueue.x-k8s.io/admission"}]}}
        client = operator(run, "download").client
        threading.Timer(4.0, lambda: client.patch_namespaced_pod(trigger.pod_name, "loraflow", patch)).start()

    perform(run, "download", parked=admit)
    assert run.has(Download) and any(message.endswith("waits in its queue") for message in messages(pod_log))


def test_no_secret_is_in_what_a_pod_leaves_behind(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, pod_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAFLOW_POD_SECRETS", "hub")
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "hub", "namespace": "loraflow"},
        "data": {"HF_TOKEN": "cGxhbnRlZA=="},
    }
    kubernetes_api.cluster.store.create("secrets", secret)
    kept: list[Any] = []
    run = make_run(tiny_document)
    perform(run, "download", parked=lambda trigger: kept.append(trigger.serialize()))
    left = json.dumps([kubernetes_api.pods(), messages(pod_log), kept], default=str)
    assert run.has(Download) and "planted" not in left and kubernetes_api.token not in left


def test_a_step_needs_no_right_but_those_that_airflow_is_given(
    make_run: MakeRun, tiny_document: Any, kubernetes_api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dags.pods import cleanup
    from tasks.doctor.cluster import RIGHTS

    monkeypatch.setattr(cleanup, "SETTLE_SECONDS", 0.0)
    kubernetes_api.arm(faults.evict(grace=0.2), log="download: run")
    run = make_run(tiny_document)
    perform(run, "download")
    cleanup.EndPods().execute(context(run, "end_pods"))
    place = re.compile(r"/api/v1/namespaces/loraflow/(?P<kind>\w+)(/(?P<name>[^/]+)(/(?P<part>\w+))?)?")
    asked = set()
    for request in kubernetes_api.requests:
        kind, name, part = place.fullmatch(request.path).group("kind", "name", "part")  # type: ignore[union-attr]
        verb = {"GET": "get" if name else "list", "POST": "create", "DELETE": "delete"}[request.method]
        asked.add((kind, part or "", verb))
    assert asked == {(kind, part, verb) for kind, part, verbs in RIGHTS for verb in verbs}


def test_a_plan_hands_its_trials_on_and_a_trial_does_its_part(home: Path, tiny_base: Path, kubernetes_api: KubernetesApi) -> None:
    from dags.pods.operator import PodPlan, PodTrial

    grid = {"rows": [12, 24], "epochs": [1], "metrics": ["macro_f1"]}
    run = tiny.start_at_train(
        home / "runs/tiny/test", tiny_base, tiny.tweets(200), tiny.recipe_document(tiny_base, home / "x") | {"sweep": grid}
    )
    for try_number in (1, 2):  # the second finds the manifest
        names = perform(
            run, "sweep_plan", make=lambda: PodPlan(step="sweep_plan", recipe="tiny", task_id="sweep_plan"), try_number=try_number
        )
        assert names == [trial.name for trial in run.read(Plan).trials] and len(names) == 2
    assert len(kubernetes_api.pods()) == 1
    with pytest.raises(SystemExit) as caught:
        kubernetes_api.arm(faults.out_of_memory(), log="trial: run")
        perform(run, "sweep_trial", make=lambda: PodTrial(step="sweep_trial", recipe="tiny", part=names[1], task_id="sweep_trial"))
    pod = kubernetes_api.pods()[-1]
    assert caught.value.code == 71 and pod["metadata"]["labels"]["loraflow/part"] == names[1]
    assert pod["spec"]["containers"][0]["command"][-2:] == ["--part", names[1]]
    assert (run.halvings("sweep_trial", names[1]), run.halvings("sweep_trial", names[0])) == (1, 0)
