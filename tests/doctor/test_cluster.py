"""The cluster, looked at from Airflow's side: the real client against the API on loopback."""

from types import SimpleNamespace
from typing import Any

import pytest

from tasks.contracts import Finding
from tasks.doctor import checks, cluster, inputs, machine
from tasks.doctor import settings as configuration
from tasks.doctor.findings import Check, examine
from tasks.doctor.scope import Scope
from tasks.schema.pods import Pods
from tasks.settings import settings
from tests.support.kubernetes_api.fake import NAMESPACE, KubernetesApi


@pytest.fixture(autouse=True)
def at(kubernetes_api: KubernetesApi, home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubernetes_api.kubeconfig))
    monkeypatch.setenv("LORAFLOW_RUNNER", "kubernetes")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def looked(look: Any = cluster.cluster, recipe: Any = None) -> dict[str, Finding]:
    scope = Scope(settings(), recipe, str(settings().runs_folder))
    return {f"{finding.what}: {finding.found}": finding for finding in examine([Check("cluster", lambda: look(scope))])}


def levels(recipe: Any = None) -> dict[str, str]:
    return {finding.what: finding.level for finding in looked(recipe=recipe).values()}


def gpus(number: int, step: str = "train", **selector: str) -> Any:
    pods = Pods(gpu_steps=(step,), node_selector=selector)
    return SimpleNamespace(pods=pods, train=SimpleNamespace(gpus=number))


def test_a_good_cluster(kubernetes_api: KubernetesApi) -> None:
    found = looked(recipe=gpus(8))
    assert {finding.level for finding in found.values()} == {"ok"}, found
    assert [finding.what for finding in found.values()] == ["cluster", "cluster rights", "service account", "GPUs"]
    assert kubernetes_api.token not in str(found)
    asked = [seen for seen in kubernetes_api.requests if "selfsubjectaccessreviews" in seen.path]
    assert len(asked) == sum(len(verbs) for _, _, verbs in cluster.RIGHTS)


def test_a_right_that_is_missing_is_named(kubernetes_api: KubernetesApi) -> None:
    kubernetes_api.forbid("delete", "pods")
    kubernetes_api.forbid("get", "pods/log")
    (found,) = [each for each in looked().values() if each.what == "cluster rights"]
    assert (found.level, found.remedy) == ("fault", "apply docker/kubernetes/rights.yaml")
    assert found.found == f"in namespace {NAMESPACE} we may not delete pods, get pods/log"


def test_what_the_settings_name_has_to_be_there(kubernetes_api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_POD_SECRETS", "tokens")
    monkeypatch.setenv("LORAFLOW_POD_CONFIG_MAPS", "places")
    monkeypatch.setenv("LORAFLOW_VOLUME_CLAIM", "runs")
    monkeypatch.setenv("LORAFLOW_KUEUE_QUEUE", "gpus")
    monkeypatch.setenv("LORAFLOW_SERVICE_ACCOUNT", "nobody")
    wanted = {"secret", "config map", "volume claim", "queue", "service account"}
    found = levels()
    assert {what for what, level in found.items() if level == "fault"} == wanted

    def make(plural: str, kind: str, name: str, **more: Any) -> None:
        head = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}}
        kubernetes_api.cluster.store.create(plural, head | more)

    make("secrets", "Secret", "tokens", data={"HF_TOKEN": "cGxhbnRlZA=="})
    make("configmaps", "ConfigMap", "places")
    make("serviceaccounts", "ServiceAccount", "nobody")
    make("persistentvolumeclaims", "PersistentVolumeClaim", "runs", status={"phase": "Bound"})
    found = levels()
    assert {what for what, level in found.items() if level != "ok"} == {"queue"}
    assert "planted" not in str(looked()) and "cGxhbnRlZA" not in str(looked())


def test_secrets_that_we_may_not_read_are_no_fault(kubernetes_api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_POD_SECRETS", "tokens")
    kubernetes_api.forbid("get", "secrets")
    (found,) = [each for each in looked().values() if each.what == "secret"]
    assert (found.level, found.found) == ("ok", "tokens: not looked for, we may not read it")


def test_a_claim_that_waits_for_its_first_pod_is_a_warning(kubernetes_api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_VOLUME_CLAIM", "runs")
    head = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "runs", "namespace": NAMESPACE}}
    kubernetes_api.cluster.store.create("persistentvolumeclaims", head | {"status": {"phase": "Pending"}})
    (found,) = [each for each in looked().values() if each.what == "volume claim"]
    assert (found.level, found.found) == ("warning", "runs is Pending")


def test_a_queue_that_is_not_there_is_asked_for_in_either_version(kubernetes_api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_KUEUE_QUEUE", "gpus")
    (found,) = [each for each in looked().values() if each.what == "queue"]
    assert (found.found, found.remedy) == (
        f"gpus is not in namespace {NAMESPACE}", "make it, or install Kueue: pods would wait for ever",
    )  # fmt: skip
    asked = [seen.path for seen in kubernetes_api.requests if seen.path.endswith("/localqueues/gpus")]
    assert asked == [f"/apis/kueue.x-k8s.io/{version}/namespaces/{NAMESPACE}/localqueues/gpus" for version in ("v1beta2", "v1beta1")]


def test_too_few_gpus_are_a_warning_since_nodes_may_be_made_on_demand() -> None:
    assert levels(gpus(16))["GPUs"] == "warning"
    assert levels(gpus(16, "evaluate"))["GPUs"] == "ok", "one, whatever the training takes"
    assert levels(gpus(1, pool="nowhere"))["GPUs"] == "warning"
    (found,) = [each for each in looked(recipe=gpus(1, pool="nowhere")).values() if each.what == "GPUs"]
    assert found.found == "no node with pool=nowhere has 1, the most is 0"


def test_an_api_that_does_not_answer_may_be_asked_again(kubernetes_api: KubernetesApi) -> None:
    kubernetes_api.close()
    (found,) = looked().values()
    assert (found.what, found.level, found.passing) == ("cluster", "fault", True)


def test_no_way_to_a_cluster_and_no_such_connection(monkeypatch: pytest.MonkeyPatch, airflow_home: Any) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    (found,) = looked().values()
    assert (found.level, found.passing) == ("fault", False) and "no way to it" in found.found


def test_the_connection_is_asked_of_airflow(kubernetes_api: KubernetesApi, monkeypatch: pytest.MonkeyPatch, airflow_home: Any) -> None:
    import json

    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    monkeypatch.setenv("LORAFLOW_KUBERNETES_CONN", "cluster")
    monkeypatch.setenv("PATH", f"{__import__('sys').prefix}/bin:{__import__('os').environ['PATH']}")
    extra = {"kube_config": json.loads(kubernetes_api.kubeconfig.read_text())}
    monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    assert levels()["cluster"] == "ok"


def test_settings_that_no_pod_could_run_with(monkeypatch: pytest.MonkeyPatch) -> None:
    found = looked(configuration.for_pods)
    assert [each.level for each in found.values()] == ["fault"] * 6
    assert next(iter(found)).startswith("settings for pods: LORAFLOW_IMAGE: not set (expected: the image of the steps)")
    for name, value in {
        "IMAGE": "loraflow-steps:1",
        "RUNS": "s3://bucket/runs",
        "DATA_REPO": "https://bot:planted-password@git.example.org/data.git",
        "MLFLOW_URI": "http://mlflow:5000",
        "DVC_REMOTE": "s3://bucket/dvc",
        "HUB": "hub:team",
    }.items():
        monkeypatch.setenv(f"LORAFLOW_{name}", value)
    (only,) = looked(configuration.for_pods).values()
    assert only.level == "fault" and only.found.startswith("LORAFLOW_DATA_REPO: holds a password (expected: none, since it stands")
    monkeypatch.setenv("LORAFLOW_DATA_REPO", "git@git.example.org:data.git")
    (only,) = looked(configuration.for_pods).values()
    assert (only.level, only.found) == ("ok", f"image loraflow-steps:1, namespace {NAMESPACE}")


def needs(*steps: str, **more: Any) -> Scope:
    """Of a recipe whose steps, or only these, run as pods."""
    return Scope(settings(), SimpleNamespace(pods=Pods(steps=steps or "all"), **more), "/runs")  # type: ignore[arg-type]


def names(found: list[Check]) -> set[str]:
    return {check.what for check in found}


def test_airflows_side_needs_the_cluster_and_not_what_steps_need() -> None:
    alone, mixed = needs(), needs("train")
    assert not alone.here() and mixed.here() and not mixed.here("train") and mixed.here("version")
    assert names(checks.by_hand(alone)) == {"settings", "workspace", "settings for pods", "cluster"}
    assert names(checks.by_hand(mixed)) == names(checks.for_a_step(mixed)) | {"settings for pods", "cluster"}
    assert names(checks.by_hand(Scope(settings(), None, "/runs"))) == names(checks.by_hand(alone))


def test_a_pod_without_a_gpu_does_not_judge_by_itself_what_the_trainings_pod_will_have(tmp_path: Any) -> None:
    model = SimpleNamespace(name="folder:/nowhere", revision=None)
    of_pods = needs(base_model=model, train=SimpleNamespace(fp16=True))
    assert [finding.what for finding in inputs.base_model(of_pods)] == ["base model"], "neither GPU nor room nor memory"
    resources = Pods(step_resources={"merge": {"memory": "1Gi", "ephemeral_storage": "3Gi"}})
    asked = Scope(settings(), SimpleNamespace(pods=resources), "/runs")  # type: ignore[arg-type]
    found = list(machine.pod_room(asked, 2 * 2**30))
    assert [finding.level for finding in found] == ["warning"] * 2
    assert [finding.remedy.partition(",")[0] for finding in found] == [
        "raise pods.step_resources.merge.memory", "raise pods.step_resources.merge.ephemeral_storage",
    ]  # fmt: skip
