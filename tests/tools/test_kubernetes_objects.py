"""The small Kubernetes API as real clients see it: how objects are found, watched, changed and refused."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes import client

from tests.support.kubernetes_api.answers import Object
from tests.support.kubernetes_api.fake import KubernetesApi
from tests.support.kubernetes_api.fixture import AnyCluster, refused
from tests.support.kubernetes_api.manifests import PATIENT, pod
from tests.support.kubernetes_api.quantities import quantity
from tests.support.kubernetes_api.selectors import by_labels

pytestmark = pytest.mark.guards(
    "tests/support/kubernetes_api", "tests/support/http_server.py", "tasks/process/child.py", "requirements.lock"
)


@pytest.fixture
def cluster(any_cluster: AnyCluster) -> AnyCluster:
    return any_cluster


def test_lists_are_selected_and_paged(cluster: AnyCluster) -> None:
    for name, labels in (("a", {"step": "train"}), ("b", {"step": "merge", "x/y": ""}), ("c", {})):
        cluster.run(pod(name, "", labels))

    def names(**query: Any) -> str:
        return "".join(one.metadata.name for one in cluster.core.list_namespaced_pod(cluster.namespace, **query).items)

    selectors = {"step=train": "a", "step!=train": "bc", "step in (train, merge)": "ab", "step notin (train)": "bc", "!step": "c"}
    selectors |= {"step": "ab", "step=merge,!airflow-worker": "b", "x/y=": "b", "": "abc"}
    assert {text: names(label_selector=text) for text in selectors} == selectors
    assert names(field_selector="status.phase=Succeeded,metadata.name!=a") == "bc"
    first = cluster.core.list_namespaced_pod(cluster.namespace, limit=2)
    assert [one.metadata.name for one in first.items] == ["a", "b"]
    assert names(limit=2, _continue=first.metadata._continue) == "c"
    assert refused(lambda: names(field_selector="spec.color=red"))[0] == 400
    assert refused(lambda: names(label_selector="=a"))[0] == 400


def test_a_watch_tells_each_change_to_those_who_select_it(cluster: AnyCluster) -> None:
    version = cluster.version
    cluster.run(pod("other", labels={"step": "merge"}))
    cluster.run(pod("one", labels={"step": "train"}))
    cluster.core.patch_namespaced_pod("one", cluster.namespace, {"metadata": {"labels": {"step": "seen"}}})
    seen = cluster.watch(version, label_selector="step=train")
    assert {event["object"].metadata.name for event in seen} == {"one"}
    kinds = [event["type"] for event in seen]
    assert kinds[0] == "ADDED" and set(kinds[1:-1]) == {"MODIFIED"} and kinds[-1] == "DELETED", kinds
    phases = [event["object"].status.phase for event in seen]
    assert [phase for number, phase in enumerate(phases) if phase not in phases[:number]] == ["Pending", "Running", "Succeeded"]


def test_labels_are_patched_and_the_spec_is_not(cluster: AnyCluster) -> None:
    cluster.run(pod("one", labels={"a": "1"}))
    patch = {"labels": {"already_checked": "True", "a": None}, "annotations": {"n": "x"}}
    seen = cluster.core.patch_namespaced_pod("one", cluster.namespace, {"metadata": patch})
    assert (seen.metadata.labels, seen.metadata.annotations) == ({"already_checked": "True"}, {"n": "x"})
    seen = cluster.core.patch_namespaced_pod("one", cluster.namespace, [{"op": "add", "path": "/metadata/labels/b~1c", "value": "2"}])
    assert seen.metadata.labels["b/c"] == "2"
    status, body = refused(lambda: cluster.core.patch_namespaced_pod("one", cluster.namespace, {"spec": {"nodeSelector": {"a": "b"}}}))
    assert (status, body["reason"]) == (422, "Invalid") and "may not change fields other than" in body["message"]


def broken(change: Callable[[Object], object]) -> Object:
    manifest = pod("one", volumes=[{"name": "scratch", "emptyDir": {}}])
    change(manifest["spec"])
    return manifest


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda spec: spec["containers"][0].update(imag="x"), 400, 'unknown field "spec.containers[0].imag"'),
        (lambda spec: spec.update(activeDeadlineSeconds="soon"), 400, "spec.activeDeadlineSeconds"),
        (lambda spec: spec["containers"][0].pop("name"), 422, "spec.containers[0].name: Required value"),
        (lambda spec: spec["containers"][0].pop("image"), 422, "spec.containers[0].image: Required value"),
        (lambda spec: spec.update(containers=[]), 422, "spec.containers: Required value"),
        (lambda spec: spec.update(restartPolicy="Sometimes"), 422, 'Unsupported value: "Sometimes"'),
        (lambda spec: spec["containers"][0].update(volumeMounts=[{"name": "no", "mountPath": "/x"}]), 422, 'Not found: "no"'),
        (lambda spec: spec["containers"][0]["resources"].update(limits={"nvidia.com/gpu": "0.5"}), 422, "must be an integer"),
        (lambda spec: spec["containers"][0]["resources"]["requests"].update(cpu="2"), 422, "must be less than or equal to cpu limit"),
        (lambda spec: spec["containers"][0]["resources"]["limits"].update(memory="4 GB"), 422, "quantities must match"),
        (lambda spec: spec.update(nodeSelector={"a": "b c"}), 422, "spec.nodeSelector"),
    ],
)
def test_a_bad_pod_is_refused_with_its_causes(cluster: AnyCluster, change: Callable[[Object], object], code: int, said: str) -> None:
    status, body = refused(lambda: cluster.create(broken(change)))
    assert (status, body["kind"], body["code"]) == (code, "Status", code)
    assert said in body["message"]
    assert code == 400 or [cause["field"] for cause in body["details"]["causes"]]


def test_names_labels_and_places_are_checked(cluster: AnyCluster) -> None:
    cluster.run(pod("one"))
    assert refused(lambda: cluster.create(pod("one")))[1]["reason"] == "AlreadyExists"
    assert refused(lambda: cluster.create(pod("Two")))[0] == 422
    assert refused(lambda: cluster.create(pod("two", labels={"a": "x" * 64})))[0] == 422
    assert refused(lambda: cluster.core.create_namespaced_pod("nowhere", pod("two")))[1]["message"] == 'namespaces "nowhere" not found'
    assert refused(lambda: cluster.read("two"))[1]["message"] == 'pods "two" not found'
    status, body = refused(lambda: cluster.create(pod("two", serviceAccountName="nobody")))
    assert status == 403 and 'serviceaccount "nobody" not found' in body["message"]
    dry = cluster.core.create_namespaced_pod(cluster.namespace, pod("two"), dry_run="All")
    assert dry.spec.scheduler_name == "default-scheduler"
    assert refused(lambda: cluster.read("two"))[0] == 404, "a dry run keeps nothing"


def test_a_quota_and_a_restricted_namespace_refuse(cluster: AnyCluster, kubernetes_api: KubernetesApi) -> None:
    hard = {"requests.nvidia.com/gpu": "1", "pods": "2"}
    cluster.core.create_namespaced_resource_quota(cluster.namespace, {"metadata": {"name": "gpus"}, "spec": {"hard": hard}})
    gpu = {"resources": {"limits": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": 1}}}
    cluster.create(pod("one", PATIENT, container=gpu))
    assert cluster.until("one", lambda pod: pod.spec.node_name).spec.node_name == "node-gpu"
    status, body = refused(lambda: cluster.create(pod("two", container=gpu)))
    over = "requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=1, limited: requests.nvidia.com/gpu=1"
    assert (status, body["message"]) == (403, f'pods "two" is forbidden: exceeded quota: gpus, {over}')
    cluster.core.create_namespace({"metadata": {"name": "tight", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    cluster.core.create_namespaced_pod("tight", pod("one"))
    loose = pod("two")
    del loose["spec"]["securityContext"], loose["spec"]["containers"][0]["securityContext"]
    body = refused(lambda: cluster.core.create_namespaced_pod("tight", loose))[1]
    for found in ("allowPrivilegeEscalation", "capabilities", "runAsNonRoot", "seccompProfile"):
        assert found in body["message"]


def test_what_clients_ask_besides_pods(cluster: AnyCluster, kubernetes_api: KubernetesApi) -> None:
    api = cluster.core.api_client
    assert client.VersionApi(api).get_code().git_version.startswith("v1.")
    assert [node.metadata.name for node in cluster.core.list_node().items] == ["node-1", "node-2", "node-gpu"]
    assert {one.name for one in client.CoreV1Api(api).get_api_resources().resources} >= {"pods", "events"}
    review = {"spec": {"resourceAttributes": {"namespace": cluster.namespace, "verb": "create", "resource": "pods"}}}
    assert client.AuthorizationV1Api(api).create_self_subject_access_review(review).status.allowed is True
    kubernetes_api.forbid("create", "pods")
    assert client.AuthorizationV1Api(api).create_self_subject_access_review(review).status.allowed is False
    status, body = refused(lambda: cluster.create(pod("one")))
    assert (status, body["reason"]) == (403, "Forbidden") and 'cannot create resource "pods"' in body["message"]
    stranger = client.ApiClient(client.Configuration(host=kubernetes_api.url))
    assert refused(lambda: client.CoreV1Api(stranger).list_namespaced_pod(cluster.namespace))[0] == 401


def test_a_role_gives_its_rights_and_no_others(cluster: AnyCluster, kubernetes_api: KubernetesApi) -> None:
    cluster.run(pod("one"))
    kubernetes_api.grant([{"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list", "create"]}])
    assert (cluster.read("one").status.phase, cluster.log("one")) == ("Succeeded", "done\n")
    assert refused(lambda: cluster.core.delete_namespaced_pod("one", cluster.namespace))[0] == 403
    assert refused(lambda: cluster.core.list_namespaced_event(cluster.namespace))[0] == 403
    assert refused(lambda: client.AppsV1Api(cluster.core.api_client).list_namespaced_deployment(cluster.namespace))[0] == 403
    review = {"spec": {"resourceAttributes": {"namespace": cluster.namespace, "verb": "get", "resource": "pods", "subresource": "log"}}}
    access = client.AuthorizationV1Api(cluster.core.api_client)
    assert access.create_self_subject_access_review(review).status.allowed is True
    review["spec"]["resourceAttributes"]["verb"] = "watch"
    assert access.create_self_subject_access_review(review).status.allowed is False


def test_other_kinds_are_kept_and_checked(cluster: AnyCluster) -> None:
    apps = client.AppsV1Api(cluster.core.api_client)
    template = {"metadata": {"labels": {"app": "mlflow"}}, "spec": {"containers": [{"name": "mlflow", "image": "mlflow"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "mlflow"}}, "template": template}
    apps.create_namespaced_deployment(cluster.namespace, {"metadata": {"name": "mlflow"}, "spec": spec})
    changed = apps.patch_namespaced_deployment("mlflow", cluster.namespace, {"spec": {"paused": True}})
    assert (changed.spec.paused, changed.spec.template.spec.containers[0].image) == (True, "mlflow")
    del spec["selector"]
    status, body = refused(lambda: apps.create_namespaced_deployment(cluster.namespace, {"metadata": {"name": "two"}, "spec": spec}))
    assert status == 422 and "spec.selector" in [cause["field"] for cause in body["details"]["causes"]]
    apps.delete_namespaced_deployment("mlflow", cluster.namespace)
    assert refused(lambda: apps.read_namespaced_deployment("mlflow", cluster.namespace))[0] == 404


WORDS = st.text("ab", min_size=1, max_size=2)


@given(WORDS, st.sets(WORDS, min_size=1), st.dictionaries(WORDS, WORDS))
def test_a_selector_and_its_opposite_share_no_object(key: str, values: set[str], labels: dict[str, str]) -> None:
    listed = ", ".join(sorted(values))
    inside, outside = by_labels(f"{key} in ({listed})"), by_labels(f"{key} notin ({listed})")
    assert inside(labels) is not outside(labels)
    assert inside(labels) is any(by_labels(f"{key}={value}")(labels) for value in values)
    assert outside(labels) is by_labels(",".join(f"{key}!={value}" for value in values))(labels)
    assert by_labels(f"{key},!{key}")(labels) is False


@pytest.mark.parametrize(
    ("text", "amount"), [("500m", "0.5"), ("4Gi", str(4 * 1024**3)), ("2", "2"), ("1e3", "1000"), ("1.5k", "1500"), ("2E", str(2 * 10**18))]
)
def test_quantities(text: str, amount: str) -> None:
    assert quantity(text) == Decimal(amount)
