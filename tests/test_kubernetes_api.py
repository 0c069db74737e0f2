"""The small Kubernetes API as real clients see it: what a cluster does of itself. What goes wrong: test_kubernetes_faults.py."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config, watch

from tests.kubernetes_api.answers import Object
from tests.kubernetes_api.fake import NAMESPACE, KubernetesApi
from tests.kubernetes_api.manifests import PATIENT, pod

Core = client.CoreV1Api


@pytest.fixture
def core(kubernetes_api: KubernetesApi) -> Core:
    return Core(config.new_client_from_config(str(kubernetes_api.kubeconfig)))


def until(core: Core, name: str, wanted: Callable[[Any], object], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not wanted(seen := core.read_namespaced_pod(name, NAMESPACE)):
        assert time.monotonic() < deadline, seen.status
        time.sleep(0.05)
    return seen


def log_of(core: Core, name: str, **query: Any) -> str:
    """As bytes came: kubernetes 36 turns a log that it decodes itself into the text of a bytes literal."""
    return core.read_namespaced_pod_log(name, NAMESPACE, _preload_content=False, **query).data.decode()


def finished(core: Core, name: str) -> Any:
    return until(core, name, lambda pod: pod.status.phase in ("Succeeded", "Failed"))


def printed(core: Core, name: str, text: str) -> None:
    until(core, name, lambda pod: pod.status.phase == "Running" and text in log_of(core, name))


def run(core: Core, manifest: Object) -> Any:
    core.create_namespaced_pod(NAMESPACE, manifest)
    return finished(core, manifest["metadata"]["name"])


def refused(call: Callable[[], object]) -> tuple[int, Object]:
    with pytest.raises(client.ApiException) as caught:
        call()
    return caught.value.status, json.loads(caught.value.body)


def test_a_pod_lives_from_pending_to_succeeded(core: Core) -> None:
    created = core.create_namespaced_pod(NAMESPACE, pod("one", "print('hello')", activeDeadlineSeconds=60))
    assert (created.status.phase, created.spec.dns_policy, created.spec.service_account_name) == ("Pending", "ClusterFirst", "default")
    over = finished(core, "one")
    ended = over.status.container_statuses[0].state.terminated
    assert (over.status.phase, ended.reason, ended.exit_code) == ("Succeeded", "Completed", 0)
    assert over.spec.node_name == "node-1" and over.status.pod_ip and ended.started_at <= ended.finished_at
    assert {one.type: one.status for one in over.status.conditions}["PodScheduled"] == "True"
    events = core.list_namespaced_event(NAMESPACE, field_selector="involvedObject.name=one").items
    order = [event.reason for event in sorted(events, key=lambda event: int(event.metadata.resource_version))]
    assert order == ["Scheduled", "Pulling", "Pulled", "Created", "Started"]
    assert log_of(core, "one") == "hello\n"


@pytest.mark.parametrize(("code", "exit_code"), [("raise SystemExit(71)", 71), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_a_failed_container_fails_its_pod(core: Core, code: str, exit_code: int) -> None:
    over = run(core, pod("one", code))
    ended = over.status.container_statuses[0].state.terminated
    assert (over.status.phase, ended.reason, ended.exit_code) == ("Failed", "Error", exit_code)


def test_a_command_that_is_not_there(core: Core) -> None:
    over = run(core, pod("one", container={"command": ["no-such-command"]}))
    ended = over.status.container_statuses[0].state.terminated
    assert (over.status.phase, ended.reason, ended.exit_code) == ("Failed", "StartError", 128)
    assert 'exec: "no-such-command": No such file or directory' in ended.message


def test_init_containers_run_first_and_in_order(core: Core) -> None:
    def part(name: str, code: str) -> Object:
        return {"name": name, "image": "python:3.11-slim", "command": ["python", "-c", code], "volumeMounts": [mount]}

    mount = {"name": "shared", "mountPath": "/shared"}
    code = "text = open('/shared/note').read(); open('/shared/note', 'w').write(text + 'b')"
    init = [part("first", "open('/shared/note', 'w').write('a')"), part("second", code)]
    volumes = [{"name": "shared", "emptyDir": {}}]
    over = run(
        core, pod("one", "print(open('/shared/note').read())", container={"volumeMounts": [mount]}, initContainers=init, volumes=volumes)
    )
    assert log_of(core, "one") == "ab\n", over.status
    assert [one.state.terminated.exit_code for one in over.status.init_container_statuses] == [0, 0]
    over = run(core, pod("two", initContainers=[part("first", "raise SystemExit(3)"), part("second", "")], volumes=volumes))
    assert over.status.phase == "Failed"
    assert (
        over.status.init_container_statuses[1].state.waiting and over.status.container_statuses[0].state.waiting.reason == "PodInitializing"
    )


def test_secrets_config_maps_and_volumes_reach_the_process(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_TEST", "must not be seen")
    data = {"TOKEN": base64.b64encode(b"s3cret").decode()}
    core.create_namespaced_secret(NAMESPACE, {"metadata": {"name": "tokens"}, "data": data, "stringData": {"PLAIN": "p"}})
    core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "places"}, "data": {"S3": "http://s3", "file.yaml": "a: 1"}})
    claim = {"metadata": {"name": "runs"}, "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}}
    core.create_namespaced_persistent_volume_claim(NAMESPACE, claim)
    code = "import os, json, pathlib; print(json.dumps([dict(os.environ), pathlib.Path('/config/file.yaml').read_text(), os.getcwd()]))"
    code += "; pathlib.Path('/runs/kept').write_text('x')"
    env = [
        *({"name": "HOME", "value": "/scratch/home"}, {"name": "STORE", "value": "file:///scratch/store"}),
        *({"name": "OTHER", "value": "s3://bucket/scratch"}, {"name": "BOTH", "value": "$(HOME):$(NONE)"}),
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "ONE", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "TOKEN"}}},
    ]
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("scratch", "config", "runs")]
    volumes = [{"name": "scratch", "emptyDir": {}}, {"name": "config", "configMap": {"name": "places"}}]
    volumes += [{"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}]
    env_from = [{"secretRef": {"name": "tokens"}}, {"configMapRef": {"name": "places"}}]
    container = {"env": env, "envFrom": env_from, "volumeMounts": mounts, "workingDir": "/scratch"}
    run(core, pod("one", code, container=container, volumes=volumes))
    seen, text, folder = json.loads(log_of(core, "one"))
    assert (seen["TOKEN"], seen["PLAIN"], seen["S3"], seen["POD"], seen["ONE"]) == ("s3cret", "p", "http://s3", "one", "s3cret")
    assert (seen["HOME"], seen["STORE"], seen["OTHER"]) == (f"{folder}/home", f"file://{folder}/store", "s3://bucket/scratch")
    assert (seen["BOTH"], text) == (f"{folder}/home:$(NONE)", "a: 1")
    assert "OF_THE_TEST" not in seen
    assert not Path(folder).exists(), "an emptyDir goes with its pod"
    run(core, pod("two", "print(open('/runs/kept').read())", container={"volumeMounts": mounts[2:]}, volumes=volumes[2:]))
    assert log_of(core, "two") == "x\n"


def test_a_pod_waits_for_what_it_names(core: Core) -> None:
    core.create_namespaced_pod(NAMESPACE, pod("one", container={"envFrom": [{"secretRef": {"name": "late"}}]}))
    waiting = until(core, "one", lambda pod: pod.status.container_statuses and pod.status.container_statuses[0].state.waiting.message)
    state = waiting.status.container_statuses[0].state.waiting
    assert (waiting.status.phase, state.reason, state.message) == ("Pending", "CreateContainerConfigError", 'secret "late" not found')
    core.create_namespaced_secret(NAMESPACE, {"metadata": {"name": "late"}})
    assert finished(core, "one").status.phase == "Succeeded"


def test_a_log_is_followed_and_cut_to_what_is_asked(core: Core) -> None:
    code = "import time\nfor n in range(3): print('line', n, flush=True); time.sleep(0.3)"
    core.create_namespaced_pod(NAMESPACE, pod("one", code))
    printed(core, "one", "line 0")
    followed = [
        line.decode() for line in core.read_namespaced_pod_log("one", NAMESPACE, follow=True, timestamps=True, _preload_content=False)
    ]
    assert [line.split(" ", 1)[1] for line in followed] == ["line 0\n", "line 1\n", "line 2\n"]
    assert all(line[10] == "T" and line[29] == "Z" for line in followed)
    finished(core, "one")
    assert log_of(core, "one", tail_lines=1) == "line 2\n"
    assert log_of(core, "one", limit_bytes=5) == "line "
    time.sleep(1)
    assert log_of(core, "one", since_seconds=1) == ""
    status, body = refused(lambda: core.read_namespaced_pod_log("one", NAMESPACE, container="other"))
    assert (status, body["message"]) == (400, "container other is not valid for pod one")


def test_lists_are_selected_and_paged(core: Core) -> None:
    for name, labels in (("a", {"step": "train"}), ("b", {"step": "merge", "x/y": ""}), ("c", {})):
        run(core, pod(name, "", labels))

    def names(**query: Any) -> str:
        return "".join(one.metadata.name for one in core.list_namespaced_pod(NAMESPACE, **query).items)

    selectors = {
        "step=train": "a",
        "step!=train": "bc",
        "step in (train, merge)": "ab",
        "step notin (train)": "bc",
        "!step": "c",
        "step": "ab",
    }
    selectors |= {"step=merge,!airflow-worker": "b", "x/y=": "b", "": "abc"}
    assert {text: names(label_selector=text) for text in selectors} == selectors
    assert names(field_selector="status.phase=Succeeded,metadata.name!=a") == "bc"
    first = core.list_namespaced_pod(NAMESPACE, limit=2)
    assert [one.metadata.name for one in first.items] == ["a", "b"]
    assert names(limit=2, _continue=first.metadata._continue) == "c"
    assert refused(lambda: names(field_selector="spec.color=red"))[0] == 400
    assert refused(lambda: names(label_selector="=a"))[0] == 400


def test_a_watch_tells_each_change_to_those_who_select_it(core: Core) -> None:
    version = core.list_namespaced_pod(NAMESPACE).metadata.resource_version
    run(core, pod("other", labels={"step": "merge"}))
    run(core, pod("one", labels={"step": "train"}))
    core.patch_namespaced_pod("one", NAMESPACE, {"metadata": {"labels": {"step": "seen"}}})
    query = {"label_selector": "step=train", "resource_version": version, "timeout_seconds": 1}
    seen = list(watch.Watch().stream(core.list_namespaced_pod, NAMESPACE, **query))
    assert {event["object"].metadata.name for event in seen} == {"one"}
    kinds = [event["type"] for event in seen]
    assert kinds[0] == "ADDED" and set(kinds[1:-1]) == {"MODIFIED"} and kinds[-1] == "DELETED", kinds
    phases = [event["object"].status.phase for event in seen]
    assert [phase for number, phase in enumerate(phases) if phase not in phases[:number]] == ["Pending", "Running", "Succeeded"]


def test_labels_are_patched_and_the_spec_is_not(core: Core) -> None:
    run(core, pod("one", labels={"a": "1"}))
    seen = core.patch_namespaced_pod(
        "one", NAMESPACE, {"metadata": {"labels": {"already_checked": "True", "a": None}, "annotations": {"n": "x"}}}
    )
    assert (seen.metadata.labels, seen.metadata.annotations) == ({"already_checked": "True"}, {"n": "x"})
    seen = core.patch_namespaced_pod("one", NAMESPACE, [{"op": "add", "path": "/metadata/labels/b~1c", "value": "2"}])
    assert seen.metadata.labels["b/c"] == "2"
    status, body = refused(lambda: core.patch_namespaced_pod("one", NAMESPACE, {"spec": {"nodeSelector": {"a": "b"}}}))
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
        (
            lambda spec: spec["containers"][0].update(volumeMounts=[{"name": "no", "mountPath": "/x"}]),
            422,
            'volumeMounts[0].name: Not found: "no"',
        ),
        (lambda spec: spec["containers"][0]["resources"].update(limits={"nvidia.com/gpu": "0.5"}), 422, "must be an integer"),
        (lambda spec: spec["containers"][0]["resources"]["requests"].update(cpu="2"), 422, "must be less than or equal to cpu limit"),
        (lambda spec: spec["containers"][0]["resources"]["limits"].update(memory="4 GB"), 422, "quantities must match"),
        (lambda spec: spec.update(nodeSelector={"a": "b c"}), 422, "spec.nodeSelector"),
    ],
)
def test_a_bad_pod_is_refused_with_its_causes(core: Core, change: Callable[[Object], object], code: int, said: str) -> None:
    status, body = refused(lambda: core.create_namespaced_pod(NAMESPACE, broken(change)))
    assert (status, body["kind"], body["code"]) == (code, "Status", code)
    assert said in body["message"]
    assert code == 400 or [cause["field"] for cause in body["details"]["causes"]]


def test_names_labels_and_places_are_checked(core: Core) -> None:
    run(core, pod("one"))
    assert refused(lambda: core.create_namespaced_pod(NAMESPACE, pod("one")))[1]["reason"] == "AlreadyExists"
    assert refused(lambda: core.create_namespaced_pod(NAMESPACE, pod("Two")))[0] == 422
    assert refused(lambda: core.create_namespaced_pod(NAMESPACE, pod("two", labels={"a": "x" * 64})))[0] == 422
    assert refused(lambda: core.create_namespaced_pod("nowhere", pod("two")))[1]["message"] == 'namespaces "nowhere" not found'
    assert refused(lambda: core.read_namespaced_pod("two", NAMESPACE))[1]["message"] == 'pods "two" not found'
    status, body = refused(lambda: core.create_namespaced_pod(NAMESPACE, pod("two", serviceAccountName="nobody")))
    assert status == 403 and 'serviceaccount "nobody" not found' in body["message"]
    assert core.create_namespaced_pod(NAMESPACE, pod("two"), dry_run="All").spec.scheduler_name == "default-scheduler"
    assert refused(lambda: core.read_namespaced_pod("two", NAMESPACE))[0] == 404, "a dry run keeps nothing"


def test_a_quota_and_a_restricted_namespace_refuse(core: Core, kubernetes_api: KubernetesApi) -> None:
    core.create_namespaced_resource_quota(
        NAMESPACE, {"metadata": {"name": "gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "1", "pods": "2"}}}
    )
    gpu = {"resources": {"limits": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": 1}}}
    core.create_namespaced_pod(NAMESPACE, pod("one", PATIENT, container=gpu))
    assert until(core, "one", lambda pod: pod.spec.node_name).spec.node_name == "node-gpu"
    status, body = refused(lambda: core.create_namespaced_pod(NAMESPACE, pod("two", container=gpu)))
    over = "requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=1, limited: requests.nvidia.com/gpu=1"
    assert (status, body["message"]) == (403, f'pods "two" is forbidden: exceeded quota: gpus, {over}')
    core.create_namespace({"metadata": {"name": "tight", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    core.create_namespaced_pod("tight", pod("one"))
    loose = pod("two")
    del loose["spec"]["securityContext"], loose["spec"]["containers"][0]["securityContext"]
    body = refused(lambda: core.create_namespaced_pod("tight", loose))[1]
    for found in ("allowPrivilegeEscalation", "capabilities", "runAsNonRoot", "seccompProfile"):
        assert found in body["message"]


def test_a_pod_that_no_node_takes_waits(core: Core) -> None:
    core.create_namespaced_pod(NAMESPACE, pod("one", container={"resources": {"limits": {"nvidia.com/gpu": "9"}}}))
    core.create_namespaced_pod(NAMESPACE, pod("two", nodeSelector={"pool": "gpu"}))
    for name, why in (("one", "Insufficient nvidia.com/gpu"), ("two", "didn't match Pod's node affinity/selector")):
        seen = until(core, name, lambda pod: pod.status.conditions)
        condition = seen.status.conditions[0]
        assert (seen.status.phase, condition.type, condition.status, condition.reason) == (
            "Pending",
            "PodScheduled",
            "False",
            "Unschedulable",
        )
        assert condition.message.startswith(f"0/3 nodes are available: 3 {'node(s) ' if name == 'two' else ''}{why}")
        assert seen.status.container_statuses is None
    core.delete_namespaced_pod("one", NAMESPACE)
    assert refused(lambda: core.read_namespaced_pod("one", NAMESPACE))[0] == 404, "what never ran goes at once"


def test_a_deleted_pod_gets_its_grace(core: Core) -> None:
    core.create_namespaced_pod(NAMESPACE, pod("one", PATIENT.replace("sys.exit", "time.sleep(0.5), sys.exit")))
    printed(core, "one", "ready")
    version = core.list_namespaced_pod(NAMESPACE).metadata.resource_version
    assert core.delete_namespaced_pod("one", NAMESPACE, grace_period_seconds=5).metadata.deletion_grace_period_seconds == 5
    assert core.read_namespaced_pod("one", NAMESPACE).metadata.deletion_timestamp, "it is seen until it has ended"
    seen = list(watch.Watch().stream(core.list_namespaced_pod, NAMESPACE, resource_version=version, timeout_seconds=3))
    assert seen[-1]["type"] == "DELETED"
    assert seen[-1]["object"].status.container_statuses[0].state.terminated.exit_code == 143
    assert refused(lambda: core.read_namespaced_pod("one", NAMESPACE))[0] == 404


def test_process_1_that_does_not_heed_sigterm_is_killed_after_the_grace(core: Core, kubernetes_api: KubernetesApi) -> None:
    core.create_namespaced_pod(NAMESPACE, pod("one", "import time; print('ready'); time.sleep(60)"))
    printed(core, "one", "ready")
    begun = time.monotonic()
    core.delete_namespaced_pod("one", NAMESPACE, grace_period_seconds=1)
    while any(one["metadata"]["name"] == "one" for one in kubernetes_api.cluster.store.all("pods")[0]):
        time.sleep(0.05)
    assert 0.9 < time.monotonic() - begun < 5
    assert kubernetes_api.pod("one")["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137


def test_a_deadline_ends_a_pod(core: Core) -> None:
    over = run(core, pod("one", PATIENT, activeDeadlineSeconds=1))
    assert (over.status.phase, over.status.reason) == ("Failed", "DeadlineExceeded")
    assert over.status.container_statuses[0].state.terminated.exit_code == 143


def test_what_clients_ask_besides_pods(core: Core, kubernetes_api: KubernetesApi) -> None:
    api = core.api_client
    assert client.VersionApi(api).get_code().git_version.startswith("v1.")
    assert [node.metadata.name for node in core.list_node().items] == ["node-1", "node-2", "node-gpu"]
    assert {one.name for one in client.CoreV1Api(api).get_api_resources().resources} >= {"pods", "events"}
    review = {"spec": {"resourceAttributes": {"namespace": NAMESPACE, "verb": "create", "resource": "pods"}}}
    assert client.AuthorizationV1Api(api).create_self_subject_access_review(review).status.allowed is True
    kubernetes_api.forbid("create", "pods")
    assert client.AuthorizationV1Api(api).create_self_subject_access_review(review).status.allowed is False
    status, body = refused(lambda: core.create_namespaced_pod(NAMESPACE, pod("one")))
    assert (status, body["reason"]) == (403, "Forbidden") and 'cannot create resource "pods"' in body["message"]
    stranger = client.ApiClient(client.Configuration(host=kubernetes_api.url))
    assert refused(lambda: Core(stranger).list_namespaced_pod(NAMESPACE))[0] == 401


def test_the_async_client_works_as_well(kubernetes_api: KubernetesApi) -> None:
    from kubernetes_asyncio import client as aclient
    from kubernetes_asyncio import config as aconfig
    from kubernetes_asyncio import watch as awatch

    async def scenario() -> list[str]:
        settings = aclient.Configuration()
        await aconfig.load_kube_config(str(kubernetes_api.kubeconfig), client_configuration=settings)
        async with aclient.ApiClient(settings) as api:
            core, phases = aclient.CoreV1Api(api), []
            await core.create_namespaced_pod(NAMESPACE, pod("one", "print('hello')"))
            async with awatch.Watch() as seen:
                async for event in seen.stream(core.list_namespaced_pod, NAMESPACE, timeout_seconds=20):
                    phases.append(event["object"].status.phase)
                    if phases[-1] == "Succeeded":
                        break
            phases.append(await core.read_namespaced_pod_log("one", NAMESPACE))
            await core.patch_namespaced_pod("one", NAMESPACE, {"metadata": {"labels": {"a": "b"}}})
            return phases

    phases = asyncio.run(scenario())
    assert phases[-2:] == ["Succeeded", "hello\n"] and {"Pending", "Running"} <= set(phases)
    assert kubernetes_api.pods(a="b")
