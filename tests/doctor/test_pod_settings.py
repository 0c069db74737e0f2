"""What an installation with pods has to be told, all of it at once."""

import pytest

from tasks.doctor.pod_settings import missing_for_pods
from tasks.settings import settings

GOOD = {
    "IMAGE": "registry.example/steps:1",
    "RUNS": "s3://bucket/runs",
    "DATA_REPO": "ssh://git@host/team/data.git",
    "DVC_REMOTE": "s3://bucket/dvc",
    "HUB": "hub:team",
    "MLFLOW_URI": "http://mlflow:5000",
}


@pytest.fixture(autouse=True)
def cluster(home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(f"LORAFLOW_{name}", value)


def missing(*steps: str) -> list[str]:
    return [str(fault) for fault in (missing_for_pods(settings(), steps) if steps else missing_for_pods(settings()))]


def test_an_installation_that_is_told_everything_misses_nothing() -> None:
    assert missing() == []


def test_everything_that_is_missing_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GOOD:
        monkeypatch.delenv(f"LORAFLOW_{name}")
    found = missing()
    assert [fault.partition(":")[0] for fault in found] == [
        f"LORAFLOW_{name}" for name in ("IMAGE", "RUNS", "MLFLOW_URI", "DATA_REPO", "DVC_REMOTE", "HUB")
    ]
    assert found[0] == "LORAFLOW_IMAGE: not set (expected: the image of the steps). Fix: set it"
    assert found[1] == (
        "LORAFLOW_RUNS: is not set, which pods cannot reach (expected: a workspace of Airflow's and of the pods). Fix: "
        "set an s3:// URL, or a "
        "folder and the claim of its volume in LORAFLOW_VOLUME_CLAIM"
    )
    assert found[-1] == "LORAFLOW_HUB: not set (expected: hub:NAMESPACE). Fix: set it: push would keep what they do in their pods"


def test_only_what_the_steps_in_pods_use_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA_REPO", "DVC_REMOTE", "HUB"):
        monkeypatch.delenv(f"LORAFLOW_{name}")
    assert missing("train", "evaluate") == []
    assert len(missing("version")) == 2 and len(missing("push")) == 1
    monkeypatch.delenv("LORAFLOW_MLFLOW_URI")
    assert missing("split") == [] and len(missing("sweep_trial")) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNS", "/mnt/runs"), ("MLFLOW_URI", "sqlite:////mnt/mlflow.db"), ("MLFLOW_URI", "/mnt/mlruns"), ("DATA_REPO", "/mnt/data.git"),
        ("DATA_REPO", "file:///mnt/data.git"), ("DVC_REMOTE", "/mnt/dvc"), ("HUB", "folder:/mnt/hub"), ("DATA_REPO", "../data.git"),
    ],
)  # fmt: skip
def test_a_place_on_one_machine_is_none_for_pods(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"LORAFLOW_{name}", value)
    (fault,) = missing()
    assert fault.startswith(f"LORAFLOW_{name}: is {value}, ")


def test_places_on_the_volume_that_pods_mount_are_places_for_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_RUNS", "/mnt/runs")
    assert len(missing()) == 1
    monkeypatch.setenv("LORAFLOW_VOLUME_CLAIM", "runs")
    monkeypatch.setenv("LORAFLOW_RUNS", "file:///mnt/runs")
    assert missing() and missing()[0].startswith("LORAFLOW_RUNS: is file:///mnt/runs, "), "a volume is mounted at a folder alone"
    monkeypatch.setenv("LORAFLOW_RUNS", "/mnt/runs")
    monkeypatch.setenv("LORAFLOW_HUB", "folder:/mnt/runs/hub")
    monkeypatch.setenv("LORAFLOW_DVC_REMOTE", "/mnt/runs/dvc")
    monkeypatch.setenv("LORAFLOW_DATA_REPO", "git@host:team/data.git")
    assert missing() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_URI", "https://user:s3cret-x@mlflow"), ("DATA_REPO", "https://s3cret-x@host/data.git"),
        ("DVC_REMOTE", "webdavs://user:s3cret-x@host/dvc"), ("RUNS", "s3://key:s3cret-x@bucket/runs"),
    ],
)  # fmt: skip
def test_a_password_has_no_place_in_a_pod_s_spec(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"LORAFLOW_{name}", value)
    (fault,) = missing()
    assert fault.startswith(f"LORAFLOW_{name}: holds a password (expected: none, since it stands") and "s3cret" not in fault
