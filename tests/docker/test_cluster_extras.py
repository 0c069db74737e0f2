"""The values for Airflow's chart and Kueue's queues: each key reviewed, each part of one mind with settings, pods and manifests."""

import json
import re
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import latest_version

from dags.pods import spec as pods
from tasks.schema import load as recipes
from tasks.settings import CHECKOUT, settings
from tests.support import manifests
from tests.support.kubernetes_api.quantities import quantity
from tests.support.manifests import Object, documents, environment, of_kind, one
from tests.support.reviewed_keys import AIRFLOW_CHART, KUEUE, unknown
from tests.support.s3_server import S3

VALUES = ("airflow.values.yaml", "airflow-volume.values.yaml")
COMPONENTS = ("scheduler", "triggerer", "dagProcessor", "apiServer", "migrateDatabaseJob")


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch, home: Any) -> Object:
    """The pod of a training with a GPU, under the settings as they are shipped, queue included."""
    shipped = environment("settings.env") | {"LORAFLOW_KUEUE_QUEUE": manifests.suggested("settings.env")["LORAFLOW_KUEUE_QUEUE"]}
    for name, value in shipped.items():
        monkeypatch.setenv(name, value)
    found = recipes.resolve(recipes.load(CHECKOUT / "tasks/recipes/unsmile.yaml"), "full", {"pods.gpu_steps": ["train"]})
    return pods.pod(pods.Work(found, "s3://example-loraflow/runs/unsmile/one", "one", "train", 0), settings())


# The pod of a step, in the namespace that the manifests make for it


def test_the_pod_is_let_in_by_quota_limits_and_network(pod: Object) -> None:
    kubernetes_validate.validate(pod, latest_version(), strict=True)
    asked = pod["spec"]["containers"][0]["resources"]["limits"]
    hard = one("ResourceQuota", "loraflow", "loraflow")["spec"]["hard"]
    limits = {f"limits.{name}" for name in asked if name != pods.GPU}  # of a GPU there is no more than was asked for
    assert set(hard) == {f"requests.{name}" for name in asked} | limits | {"pods", "persistentvolumeclaims"}
    assert all(quantity(hard[f"requests.{name}"]) >= quantity(amount) for name, amount in asked.items())
    (limit,) = one("LimitRange", "loraflow", "loraflow")["spec"]["limits"]
    assert all(quantity(limit["max"][name]) >= quantity(asked[name]) for name in limit["max"])
    labels = pod["metadata"]["labels"].items()
    for policy in of_kind("NetworkPolicy"):
        if policy["metadata"]["namespace"] == pod["metadata"]["namespace"]:
            assert policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels, policy["metadata"]["name"]
    assert pod["spec"]["serviceAccountName"] == one("ServiceAccount", "loraflow-step", "loraflow")["metadata"]["name"]


def test_kueue_admits_the_pod(pod: Object) -> None:
    local = one("LocalQueue", pod["metadata"]["labels"][pods.QUEUE], pod["metadata"]["namespace"])
    cluster = one("ClusterQueue", local["spec"]["clusterQueue"])["spec"]
    asked = pod["spec"]["containers"][0]["resources"]["requests"]
    (group,) = cluster["resourceGroups"]
    assert set(asked) == set(group["coveredResources"])
    assert cluster["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == pod["metadata"]["namespace"]
    quotas = [{r["name"]: quantity(r["nominalQuota"]) for r in flavor["resources"]} for flavor in group["flavors"]]
    assert any(all(quota[name] >= quantity(amount) for name, amount in asked.items()) for quota in quotas)
    hard = one("ResourceQuota", "loraflow", "loraflow")["spec"]["hard"]
    for name in group["coveredResources"]:  # Kueue's quota bites first, as quota.yaml says
        assert sum(quota[name] for quota in quotas) <= quantity(hard[f"requests.{name}"]), name


# The bucket


def test_what_expires_in_the_bucket_is_what_may(s3: S3) -> None:
    rules = json.loads(manifests.text("lifecycle.json"))
    s3.client.put_bucket_lifecycle_configuration(Bucket=s3.bucket, LifecycleConfiguration=rules)
    assert len(s3.client.get_bucket_lifecycle_configuration(Bucket=s3.bucket)["Rules"]) == len(rules["Rules"])
    given, logs = environment("settings.env"), manifests.values()["config"]["logging"]["remote_base_log_folder"]
    passing = [f"{urlsplit(place).path[1:]}/" for place in (given["LORAFLOW_RUNS"], logs)]
    assert [rule["Filter"]["Prefix"] for rule in rules["Rules"] if "Expiration" in rule] == passing
    kept = (given["LORAFLOW_DVC_REMOTE"], environment("mlflow.env")["MLFLOW_ARTIFACTS_DESTINATION"])
    assert not [place for place in kept if f"{urlsplit(place).path[1:]}/".startswith(tuple(passing))]


# Kueue


@pytest.mark.parametrize("found", documents("kueue.yaml"), ids=lambda found: f"{found['kind']}-{found['metadata']['name']}")
def test_kueues_keys_are_reviewed(found: Object) -> None:
    assert found["apiVersion"] == "kueue.x-k8s.io/v1beta2"
    assert unknown(found, KUEUE[found["kind"]]) == []


def test_kueues_flavors_exist_and_list_all_resources_in_order() -> None:
    cluster = one("ClusterQueue", "loraflow")["spec"]
    for group in cluster["resourceGroups"]:
        for flavor in group["flavors"]:
            one("ResourceFlavor", flavor["name"])
            assert [resource["name"] for resource in flavor["resources"]] == group["coveredResources"]
            assert "cohortName" in cluster or not any("borrowingLimit" in resource for resource in flavor["resources"])
    assert cluster["queueingStrategy"] in ("StrictFIFO", "BestEffortFIFO")
    assert cluster["preemption"]["withinClusterQueue"] in ("Never", "LowerPriority", "LowerOrNewerEqualPriority")


# Airflow's Helm chart


@pytest.mark.parametrize("name", VALUES)
def test_the_charts_keys_are_reviewed(name: str) -> None:
    assert unknown(manifests.values(name), AIRFLOW_CHART) == []


def test_the_charts_keys_in_comments_are_reviewed() -> None:
    commented = re.findall(r"^# ((?:ingress|imagePullSecrets):.*(?:\n#   .*)*)", manifests.text("airflow.values.yaml"), re.M)
    assert len(commented) == 2
    for block in commented:
        assert unknown(yaml.safe_load(block.replace("\n# ", "\n")), AIRFLOW_CHART) == []


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("component", COMPONENTS)
def test_what_the_chart_hands_to_kubernetes_is_valid(name: str, component: str) -> None:
    values = {**manifests.values(), **manifests.values(name)}
    container = {
        "name": "airflow",
        "image": "airflow",
        "env": values["env"],
        "envFrom": yaml.safe_load(values["extraEnvFrom"]),
        "volumeMounts": values["volumeMounts"],
        "resources": values[component]["resources"],
        "securityContext": values["securityContexts"]["containers"],
    }
    sync = values["dags"]["gitSync"]
    cloning = {"name": "git-sync", "resources": sync["resources"], "securityContext": sync["securityContexts"]["container"]}
    spec = {"containers": [container, cloning], "volumes": values["volumes"], "securityContext": values["securityContexts"]["pod"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "airflow"}, "spec": spec}
    kubernetes_validate.validate(pod, latest_version(), strict=True)
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for found in spec["containers"]:
        assert found["securityContext"]["readOnlyRootFilesystem"] and found["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert found["securityContext"]["allowPrivilegeEscalation"] is False
        assert set(found["resources"]["requests"]) == set(found["resources"]["limits"]) == {"cpu", "memory", "ephemeral-storage"}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["volumes"]}


def test_the_charts_configuration_is_airflows(airflow_home: Any) -> None:
    from airflow.configuration import conf

    described = conf.configuration_description
    options = [(section, key) for section, keys in manifests.values()["config"].items() for key in keys]
    assert len(options) > 12
    assert [f"{section}.{key}" for section, key in options if key not in described.get(section, {}).get("options", {})] == []
    for entry in manifests.values()["env"]:
        if found := re.fullmatch(r"AIRFLOW__([A-Z_]+?)__([A-Z_]+)", entry["name"]):
            assert found[2].lower() in described[found[1].lower()]["options"], entry["name"]


def test_the_charts_values_agree_with_the_manifests() -> None:
    values, given = manifests.values(), environment("settings.env")
    (maps, secrets) = yaml.safe_load(values["extraEnvFrom"])
    generated = {(g["namespace"], g["name"]) for g in manifests.kustomization()["configMapGenerator"]}
    assert ("airflow", maps["configMapRef"]["name"]) in generated and secrets["secretRef"]["name"] in given["LORAFLOW_POD_SECRETS"]
    bucket = re.match(r"s3://[^/]+", given["LORAFLOW_RUNS"])[0]  # type: ignore[index]
    places = [values["config"]["logging"]["remote_base_log_folder"], environment("mlflow.env")["MLFLOW_ARTIFACTS_DESTINATION"]]
    assert all(place.startswith(f"{bucket}/") for place in [*places, given["LORAFLOW_DVC_REMOTE"]])
    tags = {values["images"]["airflow"]["tag"], values["dags"]["gitSync"]["ref"].removeprefix("v")}
    tags |= {image["newTag"] for image in manifests.kustomization()["images"] if image["name"] == "loraflow/mlflow"}
    tags |= {re.search(r":([\d.]+)", given[name])[1] for name in ("LORAFLOW_IMAGE", "LORAFLOW_GPU_IMAGE")}  # type: ignore[index]
    assert len(tags) == 1
    paths = {entry["name"]: entry["value"] for entry in values["env"]}
    assert paths["AIRFLOW__CORE__DAGS_FOLDER"] == f"{paths['PYTHONPATH']}/{values['dags']['gitSync']['subPath']}"
    assert (CHECKOUT / values["dags"]["gitSync"]["subPath"] / "retrain.py").exists()


def test_the_chart_makes_no_account_and_no_rights() -> None:
    values = manifests.values()
    assert values["createUserJob"] == {"enabled": False} and values["rbac"] == {"create": False} and values["allowPodLaunching"] is False
    assert {part for part in COMPONENTS if values[part]["serviceAccount"]["automountServiceAccountToken"]} == {"scheduler", "triggerer"}
