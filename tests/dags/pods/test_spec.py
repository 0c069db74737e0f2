"""The pod of a step, from recipe and settings: what is asked for, what is given away, and that the API takes it."""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from dags.pods import spec as pods
from dags.pods.spec import Work
from tasks.schema import load as recipes
from tasks.schema.pods import LABEL
from tasks.settings import settings
from tests.support import tiny


def work(step: str = "train", part: str = "", generation: int = 0, **overrides: Any) -> Work:
    document = tiny.recipe_document(Path("/base"), Path("/rows.csv"))
    recipe = recipes.resolve(document, "full", {key.replace("__", "."): value for key, value in overrides.items()})
    return Work(recipe, "s3://bucket/runs/tiny/manual__2026", "manual__2026", step, generation, part)


@pytest.fixture(autouse=True)
def cluster(airflow_home: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_RUNS", "s3://bucket/runs")
    monkeypatch.setenv("LORAFLOW_RUNNER", "kubernetes")
    monkeypatch.setenv("LORAFLOW_IMAGE", "registry.example/loraflow/steps:1")


def pod(of: Work | None = None) -> dict[str, Any]:
    """The pod, taken by the schema of each Kubernetes that is still supported, and by the client's own model."""
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
    from kubernetes.client import ApiClient

    made = pods.pod(of or work(), settings())
    for version in ("1.33", "1.37"):
        kubernetes_validate.validate(made, version, strict=True)
    again = ApiClient().sanitize_for_serialization(PodGenerator.deserialize_model_dict(json.loads(json.dumps(made))))
    assert again == made
    return made


def container(of: Work | None = None) -> dict[str, Any]:
    (found,) = pod(of)["spec"]["containers"]
    return dict(found)


def environment(of: Work | None = None) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container(of)["env"]}


def test_the_schema_refuses_what_is_no_pod() -> None:
    made = pod()
    made["spec"]["restartPolice"] = "Never"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(made, "1.37", strict=True)


def test_the_command_is_the_one_typed_by_hand_and_no_shell_s() -> None:
    run = ["--run", "s3://bucket/runs/tiny/manual__2026"]
    assert container()["command"] == ["python", "-m", "tasks", "train", *run, "--generation", "0"]
    assert container(work("sweep_trial", "r12-s3", 2))["command"][3:] == ["sweep_trial", *run, "--generation", "2", "--part", "r12-s3"]
    assert "args" not in container()


def test_a_run_s_pod_has_one_name_whatever_the_generation_and_labels_that_find_it() -> None:
    first, other = pod(work("sweep_trial", "r12-s3")), pod(work("sweep_trial", "r12-s3", 5))
    assert first["metadata"]["name"] == other["metadata"]["name"]
    names = {work(step, part).pod_name for step in ("train", "sweep_trial") for part in ("", "r12-s3", "r12-s4")}
    assert len(names) == 6 and all(len(name) <= 63 for name in names)
    assert len(Work(work().recipe, "s3://b/tiny/x", "x", "sweep_trial", 0, "p" * 80).pod_name) <= 63
    assert other["metadata"]["labels"] == {
        "app.kubernetes.io/name": "loraflow-step", "app.kubernetes.io/part-of": "loraflow", "loraflow/recipe": "tiny",
        "loraflow/run": "manual__2026", "loraflow/step": "sweep_trial", "loraflow/generation": "5", "loraflow/part": "r12-s3",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["manual__2026-01-01T00-00-00-00-00", "_x", "a" * 120, "x_", "a" * 49 + "-" * 9 + "b" * 9])
def test_every_name_of_a_run_or_part_becomes_a_valid_label_of_its_own(name: str) -> None:
    for label in ("run", "part"):
        one, other = (
            pods.labels(Work(work().recipe, "/runs", text, "sweep_trial", 0, text))[f"loraflow/{label}"] for text in (name, name + "2")
        )
        assert LABEL.fullmatch(one) and LABEL.fullmatch(other) and one != other
        assert one == name or not LABEL.fullmatch(name)


def test_requests_are_limits_and_a_step_has_its_own() -> None:
    own = {"train": {"cpu": "6", "memory": "30Gi", "ephemeral_storage": "100Gi"}}
    heavy, light = work(pods__step_resources=own), work("split", pods__step_resources=own)
    assert container(heavy)["resources"]["limits"] == {"cpu": "6", "memory": "30Gi", "ephemeral-storage": "100Gi"}
    assert container(light)["resources"]["limits"] == {"cpu": "1", "memory": "4Gi", "ephemeral-storage": "10Gi"}
    for asked in (heavy, light):
        assert container(asked)["resources"]["requests"] == container(asked)["resources"]["limits"]
    assert pod(heavy)["spec"]["volumes"] == [{"name": "scratch", "emptyDir": {"sizeLimit": "100Gi"}}]
    assert environment(heavy)["OMP_NUM_THREADS"] == "6" and environment(light)["OMP_NUM_THREADS"] == "1"


def test_gpus_go_to_the_steps_that_ask_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_GPU_IMAGE", "registry.example/loraflow/steps:1-cuda")
    placed = {"pods__gpu_steps": ["train", "evaluate"], "pods__node_selector": {"gpu": "a100"}, "pods__tolerations": [{"key": "gpu"}]}
    placed |= {"train__gpus": 4, "pods__resources": {"cpu": "8"}}
    train, evaluate, split = (pod(work(step, **placed))["spec"] for step in ("train", "evaluate", "split"))
    asked = [spec["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for spec in (train, evaluate, split)]
    assert asked == ["4", "1", None]
    assert train["nodeSelector"] == {"gpu": "a100"} and train["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert "nodeSelector" not in split and "tolerations" not in split
    assert [spec["containers"][0]["image"][-5:] for spec in (train, evaluate, split)] == ["-cuda", "-cuda", "eps:1"]
    shared = {"name": "shared-memory", "emptyDir": {"medium": "Memory"}}
    assert shared in train["volumes"] and shared not in evaluate["volumes"]
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in train["containers"][0]["volumeMounts"]
    assert environment(work(**placed))["OMP_NUM_THREADS"] == "2"


def test_the_pod_meets_the_restricted_pod_security_standard_and_can_write_to_scratch_alone() -> None:
    spec, inside = pod()["spec"], container()
    assert spec["securityContext"] == {
        "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    assert inside["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert spec["automountServiceAccountToken"] is False and spec["serviceAccountName"] == "loraflow-step"
    assert spec["restartPolicy"] == "Never" and spec["enableServiceLinks"] is False
    assert inside["volumeMounts"] == [{"name": "scratch", "mountPath": "/scratch"}]
    given = environment()
    assert (given["LORAFLOW_HOME"], given["HOME"], given["TMPDIR"]) == ("/scratch", "/scratch/home", "/scratch/tmp")


def test_time_is_limited_for_the_run_and_for_its_end() -> None:
    spec = pod(work(pods__deadline_hours=1.5, pods__grace_seconds=90))["spec"]
    assert (spec["activeDeadlineSeconds"], spec["terminationGracePeriodSeconds"]) == (5400, 90)


def test_a_queue_of_the_recipe_goes_before_that_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "kueue.x-k8s.io/queue-name" not in pod()["metadata"]["labels"]
    monkeypatch.setenv("LORAFLOW_KUEUE_QUEUE", "team")
    assert pod()["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert pod(work(pods__queue="big"))["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "big"


def test_settings_go_along_and_secrets_come_by_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    set_ = {
        "DATA_REPO": "git@host:data.git", "DVC_REMOTE": "s3://bucket/dvc", "HUB": "hub:team", "MLFLOW_URI": "http://mlflow:5000",
        "MLFLOW_UI": "https://mlflow.example", "COUNTRY_ISO_CODE": "FRA", "ALLOWED_HOSTS": "a.example, b.example",
    }  # fmt: skip
    for name, value in set_.items():
        monkeypatch.setenv(f"LORAFLOW_{name}", value)
    for name in ("POD_SECRETS", "POD_CONFIG_MAPS", "IMAGE_PULL_SECRETS"):
        monkeypatch.setenv(f"LORAFLOW_{name}", f"{name.lower().replace('_', '-')}-1, two")
    monkeypatch.setenv("HF_TOKEN", "planted-token")
    given, made = environment(), pod()
    assert {name: given[f"LORAFLOW_{name}"] for name in set_} == {**set_, "ALLOWED_HOSTS": "a.example,b.example"}
    assert given["LORAFLOW_RUNS"] == "s3://bucket/runs" and given["LORAFLOW_IMAGE"] == "registry.example/loraflow/steps:1"
    assert given["HF_HUB_DISABLE_TELEMETRY"] == "1" and "LORAFLOW_PROFILE" not in given
    assert given["LORAFLOW_RUNNER"] == "kubernetes", "preflight asks it, to know that the training's pod is another"
    assert container()["envFrom"] == [
        {"configMapRef": {"name": "pod-config-maps-1"}}, {"configMapRef": {"name": "two"}},
        {"secretRef": {"name": "pod-secrets-1"}}, {"secretRef": {"name": "two"}},
    ]  # fmt: skip
    assert made["spec"]["imagePullSecrets"] == [{"name": "image-pull-secrets-1"}, {"name": "two"}]
    assert "planted-token" not in json.dumps(made)


def test_what_looks_like_a_variable_of_kubernetes_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_HUB", "hub:$(HF_TOKEN)")
    assert environment()["LORAFLOW_HUB"] == "hub:$$(HF_TOKEN)"


def test_a_volume_is_mounted_where_the_workspace_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_VOLUME_CLAIM", "runs")
    assert all(mount["name"] == "scratch" for mount in container()["volumeMounts"])  # the workspace is a bucket
    monkeypatch.setenv("LORAFLOW_RUNS", "/mnt/runs")
    assert {"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}} in pod()["spec"]["volumes"]
    assert {"name": "runs", "mountPath": "/mnt/runs"} in container()["volumeMounts"]
