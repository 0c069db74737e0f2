"""The small Kubernetes API as real clients see it: a pod's life. Its objects and its faults have files of their own.

With LORAFLOW_TEST_KUBECONFIG set, the same tests ask a real cluster whether it behaves so, too.
"""

import asyncio
import base64
import json
import time
from pathlib import Path

import pytest

from tests.support.kubernetes_api.answers import Object
from tests.support.kubernetes_api.fake import KubernetesApi
from tests.support.kubernetes_api.fixture import REAL, AnyCluster, ended, refused
from tests.support.kubernetes_api.images import Image
from tests.support.kubernetes_api.manifests import IMAGE, PATIENT, pod
from tests.support.processes import until

pytestmark = pytest.mark.guards(
    "tests/support/kubernetes_api", "tests/support/http_server.py", "tasks/process/child.py", "requirements.lock"
)


@pytest.fixture
def cluster(any_cluster: AnyCluster) -> AnyCluster:
    return any_cluster


def test_a_pod_lives_from_pending_to_succeeded(cluster: AnyCluster) -> None:
    created = cluster.create(pod("one", "print('hello')", activeDeadlineSeconds=60))
    assert (created.status.phase, created.spec.dns_policy, created.spec.service_account_name) == ("Pending", "ClusterFirst", "default")
    over = cluster.finished("one")
    state = over.status.container_statuses[0].state.terminated
    assert (over.status.phase, ended(over)) == ("Succeeded", ("Completed", 0))
    assert over.spec.node_name and over.status.pod_ip and state.started_at <= state.finished_at
    assert {one.type: one.status for one in over.status.conditions}["PodScheduled"] == "True"
    events = cluster.core.list_namespaced_event(cluster.namespace, field_selector="involvedObject.name=one").items
    order = [event.reason for event in sorted(events, key=lambda event: int(event.metadata.resource_version))]
    assert [reason for reason in order if reason not in ("Pulling", "Pulled")] == ["Scheduled", "Created", "Started"]
    assert cluster.log("one") == "hello\n"


@pytest.mark.parametrize(("code", "exit_code"), [("raise SystemExit(71)", 71), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_a_failed_container_fails_its_pod(cluster: AnyCluster, code: str, exit_code: int) -> None:
    over = cluster.run(pod("one", code))
    assert (over.status.phase, ended(over)) == ("Failed", ("Error", exit_code))


def test_a_command_that_is_not_there(cluster: AnyCluster) -> None:
    over = cluster.run(pod("one", container={"command": ["no-such-command"]}))
    assert (over.status.phase, ended(over)) == ("Failed", ("StartError", 128))
    said = 'exec: "no-such-command": executable file not found in $PATH'
    assert said in over.status.container_statuses[0].state.terminated.message


def test_init_containers_run_first_and_in_order(cluster: AnyCluster) -> None:
    def part(name: str, code: str) -> Object:
        return {"name": name, "image": IMAGE, "command": ["python", "-c", code], "volumeMounts": [mount]}

    mount = {"name": "shared", "mountPath": "/shared"}
    code = "text = open('/shared/note').read(); open('/shared/note', 'w').write(text + 'b')"
    init = [part("first", "open('/shared/note', 'w').write('a')"), part("second", code)]
    volumes = [{"name": "shared", "emptyDir": {}}]
    shared = {"container": {"volumeMounts": [mount]}, "volumes": volumes}
    over = cluster.run(pod("one", "print(open('/shared/note').read())", initContainers=init, **shared))
    assert cluster.log("one") == "ab\n", over.status
    assert [one.state.terminated.exit_code for one in over.status.init_container_statuses] == [0, 0]
    over = cluster.run(pod("two", initContainers=[part("first", "raise SystemExit(3)"), part("second", "")], volumes=volumes))
    assert over.status.phase == "Failed"
    assert over.status.init_container_statuses[1].state.waiting
    assert over.status.container_statuses[0].state.waiting.reason == "PodInitializing"


def test_secrets_config_maps_and_volumes_reach_the_process(cluster: AnyCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_TEST", "must not be seen")
    data = {"TOKEN": base64.b64encode(b"s3cret").decode()}
    cluster.core.create_namespaced_secret(cluster.namespace, {"metadata": {"name": "tokens"}, "data": data, "stringData": {"PLAIN": "p"}})
    places = {"S3": "http://s3", "file.yaml": "a: 1"}
    cluster.core.create_namespaced_config_map(cluster.namespace, {"metadata": {"name": "places"}, "data": places})
    claim = {"metadata": {"name": "runs"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
    cluster.core.create_namespaced_persistent_volume_claim(cluster.namespace, claim)
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
    cluster.run(pod("one", code, container=container, volumes=volumes))
    seen, text, folder = json.loads(cluster.log("one"))
    assert (seen["TOKEN"], seen["PLAIN"], seen["S3"], seen["POD"], seen["ONE"]) == ("s3cret", "p", "http://s3", "one", "s3cret")
    assert (seen["HOME"], seen["STORE"], seen["OTHER"]) == (f"{folder}/home", f"file://{folder}/store", "s3://bucket/scratch")
    assert (seen["BOTH"], text) == (f"{folder}/home:$(NONE)", "a: 1")
    assert "OF_THE_TEST" not in seen
    assert REAL or not Path(folder).exists(), "an emptyDir goes with its pod"
    cluster.run(pod("two", "print(open('/runs/kept').read())", container={"volumeMounts": mounts[2:]}, volumes=volumes[2:]))
    assert cluster.log("two") == "x\n"


def test_a_claim_may_be_a_folder_of_the_test(cluster: AnyCluster, kubernetes_api: KubernetesApi, tmp_path: Path) -> None:
    kubernetes_api.add_claim("runs", tmp_path / "runs")
    mounts = {"volumeMounts": [{"name": "runs", "mountPath": str(tmp_path / "runs")}]}
    volumes = [{"name": "runs", "persistentVolumeClaim": {"claimName": "runs"}}]
    cluster.run(pod("one", f"print(open('{tmp_path}/runs/a', 'w').name)", container=mounts, volumes=volumes))
    assert (cluster.log("one"), (tmp_path / "runs/a").exists()) == (f"{tmp_path}/runs/a\n", True)


def test_a_pod_waits_for_what_it_names(cluster: AnyCluster) -> None:
    cluster.create(pod("one", container={"envFrom": [{"secretRef": {"name": "late"}}]}))
    waiting = cluster.until("one", lambda pod: pod.status.container_statuses and pod.status.container_statuses[0].state.waiting.message)
    state = waiting.status.container_statuses[0].state.waiting
    assert (waiting.status.phase, state.reason, state.message) == ("Pending", "CreateContainerConfigError", 'secret "late" not found')
    cluster.core.create_namespaced_secret(cluster.namespace, {"metadata": {"name": "late"}})
    assert cluster.finished("one").status.phase == "Succeeded"


def test_a_log_is_followed_and_cut_to_what_is_asked(cluster: AnyCluster) -> None:
    code = "import time\nfor n in range(3): print('line', n, flush=True); time.sleep(0.3)"
    cluster.create(pod("one", code))
    cluster.printed("one", "line 0")
    followed = cluster.log("one", follow=True, timestamps=True).splitlines(keepends=True)
    assert [line.split(" ", 1)[1] for line in followed] == ["line 0\n", "line 1\n", "line 2\n"]
    assert all(line[10] == "T" and line.split()[0].endswith("Z") for line in followed)
    cluster.finished("one")
    assert cluster.log("one", tail_lines=1) == "line 2\n"
    assert cluster.log("one", limit_bytes=5) == "line "
    until(lambda: cluster.log("one", since_seconds=1) == "")
    status, body = refused(lambda: cluster.core.read_namespaced_pod_log("one", cluster.namespace, container="other"))
    assert (status, body["message"]) == (400, "container other is not valid for pod one")


def test_a_pod_that_no_node_takes_waits(cluster: AnyCluster) -> None:
    cluster.create(pod("one", container={"resources": {"limits": {"nvidia.com/gpu": "999"}}}))
    cluster.create(pod("two", nodeSelector={"pool": "gpu"}))
    for name, why in (("one", "Insufficient nvidia.com/gpu"), ("two", "didn't match Pod's node affinity/selector")):
        seen = cluster.until(name, lambda pod: pod.status.conditions)
        condition = seen.status.conditions[0]
        assert seen.status.phase == "Pending"
        assert (condition.type, condition.status, condition.reason) == ("PodScheduled", "False", "Unschedulable")
        assert " nodes are available: " in condition.message and why in condition.message
        assert seen.status.container_statuses is None
    deleted = cluster.core.delete_namespaced_pod("one", cluster.namespace)
    assert deleted.metadata.deletion_grace_period_seconds == 0
    assert refused(lambda: cluster.read("one"))[0] == 404, "what never ran goes at once"


def test_a_tainted_node_takes_those_alone_that_tolerate_it(cluster: AnyCluster, kubernetes_api: KubernetesApi) -> None:
    taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    kubernetes_api.cluster.add_node("node-pool", labels={"pool": "train"}, taints=(taint,))
    cluster.create(pod("one", nodeSelector={"pool": "train"}))
    seen = cluster.until("one", lambda pod: pod.status.conditions)
    assert "1 node(s) had untolerated taint {nvidia.com/gpu: present}" in seen.status.conditions[0].message
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert cluster.run(pod("two", nodeSelector={"pool": "train"}, tolerations=tolerations)).spec.node_name == "node-pool"


def test_a_deleted_pod_gets_its_grace(cluster: AnyCluster) -> None:
    cluster.create(pod("one", PATIENT))
    cluster.printed("one", "ready")
    version = cluster.version
    deleted = cluster.core.delete_namespaced_pod("one", cluster.namespace, grace_period_seconds=30)
    assert deleted.metadata.deletion_grace_period_seconds == 30
    cluster.gone("one")
    *seen, last = cluster.watch(version)
    told = [event["object"] for event in seen if event["object"].metadata.deletion_timestamp]
    assert told and told[0].status.container_statuses[0].state.running, "it is seen until it has ended"
    assert (last["type"], ended(last["object"])) == ("DELETED", ("Error", 143))
    assert refused(lambda: cluster.read("one"))[0] == 404


def test_process_1_that_does_not_heed_sigterm_is_killed_after_the_grace(cluster: AnyCluster) -> None:
    cluster.create(pod("one", "import time; print('ready'); time.sleep(60)"))
    cluster.printed("one", "ready")
    version, begun = cluster.version, time.monotonic()
    cluster.core.delete_namespaced_pod("one", cluster.namespace, grace_period_seconds=1)
    cluster.gone("one")
    assert time.monotonic() - begun > 0.9
    assert ended(cluster.watch(version)[-1]["object"]) == ("Error", 137)


def test_a_deadline_ends_a_pod(cluster: AnyCluster) -> None:
    over = cluster.run(pod("one", PATIENT, activeDeadlineSeconds=4))
    assert (over.status.phase, over.status.reason) == ("Failed", "DeadlineExceeded")
    assert ended(over) == ("Error", 143)


def test_a_container_is_restarted_as_its_policy_says(cluster: AnyCluster) -> None:
    volumes = [{"name": "v", "emptyDir": {}}]
    code = "import pathlib; f = pathlib.Path('/v/n'); n = len(f.read_text()) if f.exists() else 0; print('run', n)"
    code += "; f.write_text('x' * (n + 1)); raise SystemExit(n < 1)"
    mounts = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    over = cluster.run(pod("one", code, container=mounts, volumes=volumes, restartPolicy="OnFailure"))
    status = over.status.container_statuses[0]
    assert (over.status.phase, status.restart_count, status.last_state.terminated.exit_code) == ("Succeeded", 1, 1)
    assert (cluster.log("one"), cluster.log("one", previous=True)) == ("run 1\n", "run 0\n")


def test_a_last_message_is_kept_in_the_status(cluster: AnyCluster) -> None:
    told = cluster.run(pod("one", "open('/dev/termination-log', 'w').write('by file'); raise SystemExit(1)"))
    log = cluster.run(pod("two", "print('by log'); raise SystemExit(1)", container={"terminationMessagePolicy": "FallbackToLogsOnError"}))
    assert [one.status.container_statuses[0].state.terminated.message for one in (told, log)] == ["by file", "by log\n"]


def test_an_image_of_root_does_not_run_as_non_root(cluster: AnyCluster) -> None:
    manifest = pod("one", securityContext={"runAsNonRoot": True})
    cluster.create(manifest)
    seen = cluster.until("one", lambda pod: pod.status.container_statuses and pod.status.container_statuses[0].state.waiting.message)
    assert seen.status.container_statuses[0].state.waiting.reason == "CreateContainerConfigError"
    assert "image will run as root" in seen.status.container_statuses[0].state.waiting.message


def test_images_bring_an_environment_and_an_entrypoint(cluster: AnyCluster, kubernetes_api: KubernetesApi) -> None:
    kubernetes_api.add_image("registry.example/*", Image(env={"COLOUR": "red"}, entrypoint=("sh", "-c")))
    container = {"image": "registry.example/x:1", "command": None, "args": ["echo $COLOUR $PATH"]}
    manifest = pod("one", container={**container, "env": [{"name": "PATH", "value": "/bin"}]})
    del manifest["spec"]["containers"][0]["command"]
    cluster.run(manifest)
    assert cluster.log("one") == "red /bin\n"


def test_the_async_client_works_as_well(cluster: AnyCluster) -> None:
    from kubernetes_asyncio import client as aclient
    from kubernetes_asyncio import config as aconfig
    from kubernetes_asyncio import watch as awatch

    async def scenario() -> list[str]:
        settings = aclient.Configuration()
        await aconfig.load_kube_config(str(cluster.kubeconfig), client_configuration=settings)
        async with aclient.ApiClient(settings) as api:
            core, phases = aclient.CoreV1Api(api), []
            version = (await core.list_namespaced_pod(cluster.namespace)).metadata.resource_version
            await core.create_namespaced_pod(cluster.namespace, pod("one", "print('hello')"))
            async with awatch.Watch() as seen:
                query = {"resource_version": version, "timeout_seconds": 120}
                async for event in seen.stream(core.list_namespaced_pod, cluster.namespace, **query):
                    phases.append(event["object"].status.phase)
                    if phases[-1] == "Succeeded":
                        break
            phases.append(await core.read_namespaced_pod_log("one", cluster.namespace))
            await core.patch_namespaced_pod("one", cluster.namespace, {"metadata": {"labels": {"a": "b"}}})
            return phases

    phases = asyncio.run(scenario())
    assert phases[-2:] == ["Succeeded", "hello\n"] and {"Pending", "Running"} <= set(phases)
    assert cluster.read("one").metadata.labels["a"] == "b"
