"""The manifests of docker/kubernetes: valid, of one mind with the settings and the pods, closed, and without secrets."""

import re
import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions

from tasks.doctor.cluster import RIGHTS
from tasks.local_servers.configuration import environment_file
from tasks.settings import CHECKOUT, Settings, settings
from tests.support import manifests
from tests.support.manifests import Object, core, documents, environment, of_kind, one

OLDEST = (1, 30)
VERSIONS = sorted({v for v in all_versions() if tuple(map(int, v.split(".")[:2])) >= OLDEST}, key=lambda v: [int(n) for n in v.split(".")])
FOREIGN = ("kueue.x-k8s.io/", "kustomize.config.k8s.io/")
NAMESPACES = {"loraflow", "airflow", "mlflow", "postgres"}
SECRETS = {"loraflow", "mlflow", "postgres"}
"""Secrets that have a template."""
SECRET_VALUE = re.compile(
    r"//[^/\s:@]+:[^/\s@]+@|(?:PASSWORD|TOKEN|ACCESS_KEY|SECRET_KEY) ?[=:] ?[^\s:'$]"
    r"|\b(?:password|pass|token|sshKey|fernetKey|jwtSecret|apiSecretKey): *\S"
)
"""A password in an address, or a variable that would hold one."""


def ours(objects: list[Object]) -> list[Object]:
    return [o for o in objects if not o["apiVersion"].startswith(FOREIGN)]


def workloads() -> list[Object]:
    return of_kind("Deployment", "StatefulSet")


def containers(workload: Object) -> list[Object]:
    spec = workload["spec"]["template"]["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def test_several_kubernetes_versions_are_checked() -> None:
    assert len(VERSIONS) >= 6


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_are_valid(version: str) -> None:
    objects = ours(core())
    assert len(objects) > 20
    for found in objects:
        kubernetes_validate.validate(found, version, strict=True)


def test_every_file_is_used() -> None:
    made = manifests.kustomization()
    sources = [name for generator in made["configMapGenerator"] for name in (*generator.get("envs", ()), *generator.get("files", ()))]
    used = {*made["resources"], *(source.rpartition("=")[2] for source in sources), *manifests.EXTRAS, "kustomization.yaml"}
    there = {path.name for path in manifests.FOLDER.iterdir() if path.is_file()}
    assert there - used == {"airflow.values.yaml", "airflow-volume.values.yaml", "lifecycle.json"} and used <= there


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kustomize_builds_what_is_in_the_files() -> None:
    built = subprocess.run(["kubectl", "kustomize", str(manifests.FOLDER)], capture_output=True, text=True, check=True).stdout
    objects = list(yaml.safe_load_all(built))
    names = {(o["kind"], o["metadata"].get("namespace"), re.sub(r"-[a-z0-9]{10}$", "", o["metadata"]["name"])) for o in objects}
    written = {(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in core() if o not in extras()}
    made = {("ConfigMap", g["namespace"], g["name"]) for g in manifests.kustomization()["configMapGenerator"]}
    assert names == written | made
    for found in objects:
        kubernetes_validate.validate(found, VERSIONS[-1], strict=True)
    known = {(o["metadata"]["namespace"], o["metadata"]["name"]) for o in objects if o["kind"] == "ConfigMap"}
    for workload in [o for o in objects if o["kind"] in ("Deployment", "StatefulSet")]:
        namespace, spec = workload["metadata"]["namespace"], workload["spec"]["template"]["spec"]
        mounted = {volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume}
        read = {s["configMapRef"]["name"] for c in containers(workload) for s in c.get("envFrom", ()) if "configMapRef" in s}
        assert {(namespace, name) for name in mounted | read} <= known
        for container in containers(workload):
            name, _, tag = container["image"].rpartition(":")
            assert "/" in name and tag and tag != "latest", container["image"]


def extras() -> list[Object]:
    return [found for name in manifests.EXTRAS for found in documents(name)]


def test_images_are_named_once_and_tagged() -> None:
    images = {image["name"]: image["newTag"] for image in manifests.kustomization()["images"]}
    assert {container["image"] for workload in workloads() for container in containers(workload)} == set(images)
    named = [*images.values(), *(value for key, value in environment("settings.env").items() if key.endswith("IMAGE"))]
    assert len(named) == 4 and all(re.fullmatch(r"(.+:)?[0-9][\w.-]*", name) for name in named)


def test_namespaces_are_restricted_and_all_there_are() -> None:
    for namespace in of_kind("Namespace"):
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {namespace["metadata"]["name"] for namespace in of_kind("Namespace")} == NAMESPACES
    cluster_wide = {"Namespace", "PersistentVolume", "ResourceFlavor", "ClusterQueue"}
    assert {o["metadata"]["namespace"] for o in core() if o["kind"] not in cluster_wide} <= NAMESPACES


@pytest.mark.parametrize("workload", workloads(), ids=lambda workload: workload["metadata"]["name"])
def test_workloads_are_confined_and_state_what_they_take(workload: Object) -> None:
    spec = workload["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
    assert one("ServiceAccount", spec["serviceAccountName"], workload["metadata"]["namespace"])["automountServiceAccountToken"] is False
    for container in containers(workload):
        own, asked = container["securityContext"], container["resources"]
        assert own == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert set(asked["requests"]) == {"cpu", "memory", "ephemeral-storage"} and asked["limits"] == asked["requests"]
    for container in spec["containers"]:
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    selected = workload["spec"]["selector"]["matchLabels"].items()
    service = one("Service", workload["metadata"]["name"], workload["metadata"]["namespace"])["spec"]
    assert selected <= workload["spec"]["template"]["metadata"]["labels"].items() and dict(selected) == service["selector"]
    ports = {port["name"] for container in spec["containers"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["ports"]} <= ports


def test_settings_are_settings_and_load(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    given = environment("settings.env")
    known = {f"LORAFLOW_{name.upper()}" for name in Settings.model_fields}
    ours_given = {name for name in {**given, **manifests.suggested("settings.env")} if name.startswith("LORAFLOW_")}
    assert len(ours_given) > 10 and ours_given <= known - {"LORAFLOW_HOME"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = settings()
    assert found.runner == "kubernetes" and found.namespace == Settings().namespace
    one("ServiceAccount", found.service_account, found.namespace)
    generated = {(g["namespace"], g["name"]) for g in manifests.kustomization()["configMapGenerator"]}
    assert {(found.namespace, name) for name in found.pod_config_maps} <= generated
    assert set(found.pod_secrets) <= SECRETS
    service = one("Service", "mlflow", "mlflow")["spec"]["ports"][0]["port"]
    assert found.mlflow_uri == f"http://mlflow.mlflow.svc.cluster.local:{service}"


def test_what_settings_suggest_is_in_the_extras() -> None:
    suggested, volume = manifests.suggested("settings.env"), manifests.values("airflow-volume.values.yaml")
    one("LocalQueue", suggested["LORAFLOW_KUEUE_QUEUE"], "loraflow")
    claims = of_kind("PersistentVolumeClaim")
    assert {c["metadata"]["namespace"] for c in claims} == {"loraflow", "airflow"} and len({c["metadata"]["name"] for c in claims}) == 1
    claim = claims[0]["metadata"]["name"]
    assert f"LORAFLOW_RUNS=/runs and LORAFLOW_VOLUME_CLAIM={claim}" in manifests.text("workspace-volume.yaml").replace("\n# ", " ")
    assert volume["volumes"][1]["persistentVolumeClaim"]["claimName"] == claim
    assert volume["volumeMounts"][1] == {"name": volume["volumes"][1]["name"], "mountPath": "/runs"}
    plain = manifests.values()  # helm replaces lists as a whole
    assert volume["volumes"][:1] == plain["volumes"] and volume["volumeMounts"][:1] == plain["volumeMounts"]
    for found in claims:
        bound = one("PersistentVolume", found["spec"]["volumeName"])["spec"]
        assert bound["claimRef"] == {"namespace": found["metadata"]["namespace"], "name": claim}


def test_mlflow_and_airflow_find_their_databases() -> None:
    server = environment("mlflow.env")
    auth = dict(re.findall(r"^(\w+) = (.*)$", manifests.text("mlflow-auth.ini"), re.M))
    made = dict(re.findall(r"CREATE DATABASE (\w+) OWNER (\w+);", manifests.text("databases.sql")))
    host = "postgres.postgres.svc.cluster.local"
    assert one("Service", "postgres", "postgres")["spec"]["ports"][0]["port"] == 5432
    for address in (server["MLFLOW_BACKEND_STORE_URI"], auth["database_uri"]):
        url = urlsplit(address)
        assert (url.hostname, url.port, url.password) == (host, 5432, None)
        assert made[url.path[1:]] == url.username
    assert "airflow" in made
    passwords = dict(re.findall(r"\\getenv (\w+) (\w+)", manifests.text("databases.sql")))
    assert set(passwords.values()) < set(environment("secrets/postgres.env.example"))
    roles = dict(re.findall(r"CREATE ROLE (\w+) LOGIN PASSWORD :'(\w+)';", manifests.text("databases.sql")))
    assert set(roles) == set(made.values()) and set(roles.values()) == set(passwords)


def test_mlflow_answers_to_the_names_it_is_asked_by() -> None:
    given, server = environment("settings.env"), environment("mlflow.env")
    hosts = server["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert urlsplit(given["LORAFLOW_MLFLOW_URI"]).netloc in hosts and urlsplit(given["LORAFLOW_MLFLOW_UI"]).netloc in hosts
    assert "*" not in hosts and server["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == given["LORAFLOW_MLFLOW_UI"]
    assert environment_file(CHECKOUT / "mlflow" / "server.env").items() <= server.items()
    mlflow = one("Deployment", "mlflow", "mlflow")["spec"]["template"]["spec"]
    assert mlflow["initContainers"][0]["args"] == ["mlflow", "db", "upgrade", "$(MLFLOW_BACKEND_STORE_URI)"]
    mounts = {m["name"]: m["mountPath"] for m in mlflow["containers"][0]["volumeMounts"]}
    (auth,) = [g for g in manifests.kustomization()["configMapGenerator"] if g["name"] == "mlflow-auth"]
    assert server["MLFLOW_AUTH_CONFIG_PATH"] == f"{mounts['auth']}/{auth['files'][0].partition('=')[0]}"


def test_airflow_has_the_rights_that_it_uses_and_no_other() -> None:
    provider = Path(distribution("apache-airflow-providers-cncf-kubernetes").locate_file("airflow/providers/cncf/kubernetes"))
    files = [provider / name for name in ("operators/pod.py", "utils/pod_manager.py", "hooks/kubernetes.py", "triggers/pod.py")]
    used = {right for call in manifests.calls([*files, *(CHECKOUT / "dags").glob("*.py")]) if (right := manifests.right_of(call))}
    # For the XCom sidecar and Istio's, of which the steps' pods have neither; and to mark a pod as read, where ours is deleted.
    never = {("get", "pods/exec"), ("patch", "pods")}
    assert never < used
    assert used - never == manifests.granted()
    asked = {(verb, f"{kind}/{part}".rstrip("/")) for kind, part, verbs in RIGHTS for verb in verbs}
    assert asked == manifests.granted()  # what the doctor looks for
    (rule,) = {tuple(rule["apiGroups"]) for rule in one("Role", "loraflow-runner", "loraflow")["rules"]}
    assert rule == ("",)


def test_the_rights_go_to_airflows_accounts_alone() -> None:
    (binding,) = of_kind("RoleBinding")
    assert not of_kind("ClusterRole", "ClusterRoleBinding") and len(of_kind("Role")) == 1
    assert {subject["namespace"] for subject in binding["subjects"]} == {"airflow"}
    names = {subject["name"] for subject in binding["subjects"]}
    values = manifests.values()
    assert {values[part]["serviceAccount"]["name"] for part in ("scheduler", "triggerer")} == names - {"airflow-worker"}
    assert one("ServiceAccount", "loraflow-step", "loraflow")["automountServiceAccountToken"] is False


def test_nothing_goes_in_or_out_but_what_is_named() -> None:
    policies = of_kind("NetworkPolicy")
    for namespace in ("loraflow", "mlflow", "postgres"):
        closed = [p for p in policies if p["metadata"]["namespace"] == namespace and p["spec"]["podSelector"] == {}]
        assert any(p["spec"]["policyTypes"] == ["Ingress", "Egress"] and "egress" not in p["spec"] for p in closed), namespace
    labels = {w["metadata"]["namespace"]: w["spec"]["template"]["metadata"]["labels"] for w in workloads()}
    for peer in [p for p in targets(policies) if "podSelector" in p]:
        namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        assert peer["podSelector"]["matchLabels"].items() <= labels[namespace].items()
    for block in [p["ipBlock"] for p in targets(policies) if "ipBlock" in p]:
        assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(block["except"])


def targets(policies: list[Object]) -> list[Any]:
    return [peer for policy in policies for rule in policy["spec"].get("egress", ()) for peer in rule.get("to", ())]


def test_no_file_holds_a_secret() -> None:
    assert not of_kind("Secret")
    for name in SECRETS:
        template = environment(f"secrets/{name}.env.example")
        assert template and not any(template.values()), name
    listing = ["git", "ls-files", str(manifests.FOLDER / "secrets")]
    tracked = subprocess.run(listing, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert all(line.endswith(".env.example") for line in tracked)
    ignored = ["git", "check-ignore", "--quiet", str(manifests.FOLDER / "secrets" / "loraflow.env")]
    assert subprocess.run(ignored, cwd=CHECKOUT, check=False).returncode == 0
    for path in (p for p in manifests.FOLDER.iterdir() if p.is_file()):
        assert not SECRET_VALUE.findall(path.read_text(encoding="utf-8")), path.name


def test_secrets_that_are_read_have_a_template() -> None:
    read = {s["secretRef"]["name"] for w in workloads() for c in containers(w) for s in c.get("envFrom", ()) if "secretRef" in s}
    assert read | set(environment("settings.env")["LORAFLOW_POD_SECRETS"].split(",")) == SECRETS
    assert {path.name.removesuffix(".env.example") for path in (manifests.FOLDER / "secrets").glob("*.example")} == SECRETS


def test_the_docs_name_every_file_and_make_every_secret() -> None:
    page = (CHECKOUT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    applied = set(manifests.kustomization()["resources"]) - {"rights.yaml", "mlflow.yaml"} | set(manifests.EXTRAS)
    assert all(name in page for name in applied | {"airflow.values.yaml", "airflow-volume.values.yaml", "lifecycle.json", "settings.env"})
    made = set(re.findall(r"kubectl -n (\w+) +create secret generic ([\w-]+)", page))
    values = manifests.values()
    chart = [values["data"]["metadataSecretName"], *(values[key] for key in values if key.endswith("SecretName"))]
    read = {("airflow", name) for name in chart}
    assert made == read | {("loraflow", "loraflow"), ("airflow", "loraflow"), ("mlflow", "mlflow"), ("postgres", "postgres")}
    for url in re.findall(r"postgresql[^\s`]*://", page):
        assert url == "postgresql+psycopg2://"
    assert f"--version {re.search(r'version ([0-9.]+):', manifests.text('airflow.values.yaml'))[1]}" in page  # type: ignore[index]
