"""`register` over a tracking server as the cluster has it: artifacts in an object store whose keys the server alone has.

Small files pass through the server. Large ones go to the store itself, in parts, each to an address that the server signed.
"""

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.contracts import Adapter, RegisteredVersion
from tasks.registry import tracking
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import evaluated, manifests, mlflow_server, s3_server
from tests.support.s3_server import S3

pytestmark = pytest.mark.trains

PART = 128 * 1024
LARGE = 2 * PART
TEXTS = ["a lovely day", "the rude table again"]
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
IN_CLUSTER = "mlflow.mlflow.svc.cluster.local:5000"


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """An S3 API that takes parts as small as ours, where others want 5 MiB."""
    with s3_server.running(S3_UPLOAD_PART_MIN_SIZE=str(PART)) as endpoint:
        yield endpoint


@pytest.fixture
def server(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server with the cluster's own variables, but for the addresses; the test itself has no keys any more."""
    shipped = {name: value for name, value in manifests.environment("mlflow.env").items() if not name.startswith(("AWS_", "MLFLOW_AUTH_"))}
    ours = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/server.db", "MLFLOW_ARTIFACTS_DESTINATION": f"{s3.url}/mlflow"}
    environment = shipped | ours | {name: os.environ[name] for name in KEYS}
    for name in KEYS:
        monkeypatch.delenv(name)
    with mlflow_server.running(tmp_path, environment) as address:
        yield address


@pytest.fixture
def registered(trained: Run, server: str, monkeypatch: pytest.MonkeyPatch) -> RegisteredVersion:
    """The tiny model, registered over that server with sizes at which its weights are large."""
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", server)
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(LARGE))
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", str(PART))
    with tracking.tracked(trained) as tracked:
        trained.write(dataclasses.replace(trained.read(Adapter), tracked=tracked))
    evaluated.evaluate(trained)
    found = perform("register", trained)
    assert isinstance(found, RegisteredVersion)
    return found


def test_large_files_go_to_the_store_in_signed_parts_and_load_back(
    registered: RegisteredVersion, s3: S3, server: str, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, stored = s3.asked(), s3.objects("mlflow")
    (weights,) = [key for key in stored if key.endswith("model.safetensors") and "/models/" in key]
    size = stored[weights]
    assert size >= LARGE
    signed = [line for line in asked if line.startswith("PUT") and weights in line and "X-Amz-Signature" in line]
    assert {int(re.search(r"partNumber=(\d+)", line)[1]) for line in signed} == set(range(1, -(-size // PART) + 1))  # type: ignore[index]
    puts = [line.split("?")[0] for line in asked if line.startswith("PUT") and "X-Amz-Signature" not in line]
    assert not [line for line in puts if line.endswith(".safetensors") and "/models/" in line]
    assert [line for line in puts if line.endswith("/MLmodel")]  # small: through the server
    s3.heal()
    monkeypatch.delenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE")
    served = _predict(server, tmp_path)
    assert served["columns"][0] == "label" and len(served["rows"]) == len(TEXTS)
    fetched = [line for line in s3.asked() if line.startswith("GET") and weights in line]
    assert fetched and all("X-Amz-Signature" in line for line in fetched)  # and back the same way


def _predict(server: str, folder: Path) -> Any:
    tracking.client().set_registered_model_alias("tiny", "champion", "1")
    return json.loads(evaluated.outside(evaluated.PREDICT % TEXTS, folder, MLFLOW_TRACKING_URI=server).splitlines()[-1])


def test_a_server_is_asked_by_its_names_in_the_cluster_and_by_no_other(server: str) -> None:
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    answers = {host: httpx.get(server + path, headers={"Host": host}) for host in (IN_CLUSTER, "mlflow.example.com", "evil.example.org")}
    assert [answer.status_code for answer in answers.values()] == [200, 200, 403]
    assert "Invalid Host header" in answers["evil.example.org"].text
    assert httpx.get(f"{server}/health", headers={"Host": "10.1.2.3:5000"}).status_code == 200  # as a node's health check asks
    crossing = {"Host": IN_CLUSTER, "Origin": "https://evil.example.org"}
    assert httpx.post(f"{server}/api/2.0/mlflow/experiments/create", json={"name": "x"}, headers=crossing).status_code == 403
