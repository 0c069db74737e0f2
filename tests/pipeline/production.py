"""A production set on loopback: Airflow and MLflow on Postgres, a bucket, a git server, a Hub, and a cluster for the steps.

With `LORAFLOW_TEST_KUBECONFIG` the cluster is a real one, and everything else is what the environment's own settings say: `LORAFLOW_RUNS`,
`LORAFLOW_MLFLOW_URI` and so on, as docs/kubernetes.md has them. Airflow runs on loopback either way.
"""

import json
import os
import socket
import subprocess
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from kubernetes import client, config

from tests.pipeline import airflow_servers
from tests.pipeline.airflow_servers import Airflow, AirflowRun
from tests.support import hub_server, mlflow_server, postgres, s3_server
from tests.support.kubernetes_api.fake import NAMESPACE, KubernetesApi, serve
from tests.support.kubernetes_api.images import STEPS
from tests.support.loopback import free_port, server
from tests.support.planted import MARK, secret

KUBECONFIG = os.environ.get("LORAFLOW_TEST_KUBECONFIG", "")
CONNECTION = "cluster"
BUCKET = "loraflow"
SECRET = CONFIG_MAP = "loraflow"


@dataclass
class Production:
    """The set, as tests use it.

    Attributes:
        airflow: its servers and API.
        pods: the cluster's public API.
        namespace: of the steps' pods.
        fake: the cluster's switches; None where it is a real one.
        s3: client of the object store; None likewise.
        hub: likewise.
        database: server of Airflow's and MLflow's databases; likewise.
        folder: everything that was kept on this machine.
    """

    airflow: Airflow
    pods: client.CoreV1Api
    namespace: str
    folder: Path
    fake: KubernetesApi | None = None
    s3: Any = None
    hub: hub_server.HubState | None = None
    database: postgres.Postgres | None = None

    def pod(self, run: AirflowRun, step: str) -> client.V1Pod | None:
        """The pod of a run's step, while there is one."""
        from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value

        wanted = f"loraflow/step={step},loraflow/run={make_safe_label_value(run.run.id.partition('/')[2])}"
        found = self.pods.list_namespaced_pod(self.namespace, label_selector=wanted).items
        return found[0] if found else None


@contextmanager
def on_loopback(folder: Path, recipes: Path) -> Iterator[Production]:
    """The whole set on this machine."""
    with ExitStack() as stack:
        database = stack.enter_context(postgres.running(f"{MARK}DATABASE"))
        s3_endpoint = stack.enter_context(s3_server.running())
        keys = {"AWS_ACCESS_KEY_ID": "key-of-the-test", "AWS_SECRET_ACCESS_KEY": secret("AWS_SECRET_ACCESS_KEY")}
        store = {"AWS_ENDPOINT_URL": s3_endpoint, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
        s3 = boto3.client("s3", endpoint_url=s3_endpoint, **{name.lower(): value for name, value in keys.items()})
        s3.create_bucket(Bucket=BUCKET)
        hub = stack.enter_context(hub_server.hub_server())
        hub.token = secret("HF_TOKEN")
        of_mlflow = {  # it keeps artifacts in the bucket, so that nobody but it needs the store's keys
            "MLFLOW_BACKEND_STORE_URI": _with_driver(database.database("mlflow"), "psycopg2"),
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
        }
        mlflow = stack.enter_context(mlflow_server.running(folder, of_mlflow | keys | store))
        git = stack.enter_context(_git_server(folder / "git"))
        fake = stack.enter_context(serve(folder / "cluster"))
        to_hub = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        plain, tokens = store | to_hub, keys | {"HF_TOKEN": hub.token}
        ours = {
            "LORAFLOW_RUNS": f"s3://{BUCKET}/runs",
            "LORAFLOW_DVC_REMOTE": f"s3://{BUCKET}/dvc",
            "LORAFLOW_DATA_REPO": git,
            "LORAFLOW_MLFLOW_URI": mlflow,
            "LORAFLOW_MLFLOW_UI": mlflow,
            "LORAFLOW_HUB": "hub:team",
            "LORAFLOW_IMAGE": STEPS,
            "LORAFLOW_NAMESPACE": NAMESPACE,
            **_environment_of_pods(fake, plain, tokens),
            **store,
            **keys,  # Airflow's side reads manifests in the bucket
            **_postgres(database.database("airflow")),
        }
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in {**store, **keys}.items():
            patch.setenv(name, value)
        airflow = stack.enter_context(_airflow(folder, recipes, fake.kubeconfig, ours))
        api = client.CoreV1Api(config.new_client_from_config(str(fake.kubeconfig)))
        yield Production(airflow, api, NAMESPACE, folder, fake, s3, hub, database)


@contextmanager
def on_a_cluster(folder: Path, recipes: Path, kubeconfig: Path) -> Iterator[Production]:
    """Airflow here, the steps in a real cluster; the settings are the environment's own."""
    ours = {name: value for name, value in os.environ.items() if name.startswith(("LORAFLOW_", "AWS_", "MLFLOW_"))}
    lacking = [name for name in ("LORAFLOW_IMAGE", "LORAFLOW_RUNS", "LORAFLOW_MLFLOW_URI") if name not in ours]
    assert not lacking, f"{', '.join(lacking)} not set; the settings of the cluster expected, see docs/kubernetes.md"
    with _airflow(folder, recipes, kubeconfig, ours) as airflow:
        api = client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))
        yield Production(airflow, api, airflow.settings.namespace, folder)


@contextmanager
def _airflow(folder: Path, recipes: Path, kubeconfig: Path, ours: Mapping[str, str]) -> Iterator[Airflow]:
    connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(kubeconfig), "namespace": ours.get("LORAFLOW_NAMESPACE")}}
    wanted = {
        **ours,
        "LORAFLOW_RUNNER": "kubernetes",
        "LORAFLOW_KUBERNETES_CONN": CONNECTION,
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",  # its recipes stay as they are, and parsing is dear
        f"AIRFLOW_CONN_{CONNECTION.upper()}": json.dumps(connection),
    }
    home = folder / "home"
    home.mkdir()
    with airflow_servers.running(home, recipes, wanted) as airflow:
        yield airflow


def _environment_of_pods(fake: KubernetesApi, plain: Mapping[str, str], tokens: Mapping[str, str]) -> dict[str, str]:
    """ConfigMap and secret in the cluster as a platform engineer makes them; the settings that name them."""
    api = client.CoreV1Api(config.new_client_from_config(str(fake.kubeconfig)))
    api.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": CONFIG_MAP}, "data": dict(plain)})
    coded = {name: b64encode(value.encode()).decode() for name, value in tokens.items()}
    api.create_namespaced_secret(NAMESPACE, {"metadata": {"name": SECRET}, "type": "Opaque", "data": coded})
    return {"LORAFLOW_POD_CONFIG_MAPS": CONFIG_MAP, "LORAFLOW_POD_SECRETS": SECRET}


def _postgres(address: str) -> dict[str, str]:
    """Airflow's metadata database, which its servers also talk to asynchronously."""
    return {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": _with_driver(address, "psycopg2"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": _with_driver(address, "asyncpg"),
    }


def _with_driver(address: str, driver: str) -> str:
    return address.replace("postgresql://", f"postgresql+{driver}://")


@contextmanager
def _git_server(folder: Path) -> Iterator[str]:
    """The team's data repository behind git's own protocol."""
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(folder / "data.git")], check=True)
    port = free_port()
    command = ["git", "daemon", "--reuseaddr", "--export-all", "--enable=receive-pack", "--listen=127.0.0.1", f"--port={port}"]
    command += [f"--base-path={folder}", str(folder)]
    with server(command, os.environ, folder / "log", lambda: socket.create_connection(("127.0.0.1", port), 1).close() is None):
        yield f"git://127.0.0.1:{port}/data.git"
