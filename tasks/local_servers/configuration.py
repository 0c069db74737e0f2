"""How the embedded servers are set up: their folders, Airflow's configuration file, their environment and command lines.

Everything listens on loopback only, where Airflow asks for no password: whoever has an account on this machine can use it.
"""

import configparser
import io
import os
import secrets
import sys
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tasks.errors import SettingsError
from tasks.settings import CHECKOUT, Settings, quiet_environment, sqlite_uri
from tasks.workspace.files import write_atomically

HOST = "127.0.0.1"
MARK = "EMBEDDED_LORAFLOW_SERVERS"
"""Environment variable of every process of the embedded servers, down to a step: what carries it is ended with them.

Not `LORAFLOW_…`: that is how settings begin, and this is none.
"""


@dataclass(frozen=True)
class Places:
    """Files and folders of the embedded servers below LORAFLOW_HOME."""

    home: Path

    @property
    def airflow(self) -> Path:
        """AIRFLOW_HOME: configuration, database, task logs."""
        return self.home / "airflow"

    @property
    def mlflow(self) -> Path:
        """MLflow's database and artifacts."""
        return self.home / "mlflow"

    @property
    def logs(self) -> Path:
        """One log for each server."""
        return self.home / "logs"

    @property
    def servers(self) -> Path:
        """Locks and state of the process that keeps the servers."""
        return self.home / "servers"


@dataclass(frozen=True)
class Server:
    """A process to keep running."""

    name: str
    command: tuple[str, ...]


def airflow_url(settings: Settings) -> str:
    """Address of Airflow's UI and API."""
    return f"http://{HOST}:{settings.airflow_port}"


def servers(settings: Settings) -> list[Server]:
    """What runs: Airflow's processes, and MLflow's UI unless another tracking server is named.

    Not `airflow standalone`: its log servers listen on every interface, and it leaves its children when it is ended. A triggerer
    only where steps are pods: nothing else here defers, and a waiting approval does without one since Airflow 3.3.
    """
    airflow = (sys.executable, "-m", "airflow")
    running = [
        Server("api-server", (*airflow, "api-server")),
        Server("scheduler", (*airflow, "scheduler", "--skip-serve-logs")),
        Server("dag-processor", (*airflow, "dag-processor")),
    ]
    if settings.runner == "kubernetes":
        running.append(Server("triggerer", (*airflow, "triggerer", "--skip-serve-logs")))
    return [*running, mlflow_server(settings)] if settings.mlflow_uri is None else running


def mlflow_server(settings: Settings) -> Server:
    """MLflow's UI over the SQLite file that the steps write to."""
    artifacts = Places(settings.home).mlflow / "artifacts"
    command = (sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(settings.mlflow_port), "--workers", "1")
    store = ("--backend-store-uri", settings.mlflow_tracking_uri, "--default-artifact-root", artifacts.as_uri(), "--no-serve-artifacts")
    return Server("mlflow", (*command, *store))


def environment(settings: Settings, mark: str) -> dict[str, str]:
    """Environment of every server: this process's own, without another Airflow's settings, and marked."""
    foreign = ("AIRFLOW__", "AIRFLOW_HOME", "AIRFLOW_CONFIG")
    kept = {name: value for name, value in quiet_environment().items() if not name.startswith(foreign)}
    proxies_off = ",".join(filter(None, [os.environ.get("NO_PROXY", os.environ.get("no_proxy", "")), HOST, "localhost"]))
    return {
        **kept,
        **environment_file(CHECKOUT / "mlflow" / "server.env"),
        MARK: mark,
        "AIRFLOW_HOME": str(Places(settings.home).airflow),
        "LORAFLOW_HOME": str(settings.home),
        "NO_PROXY": proxies_off,
        "no_proxy": proxies_off,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)]),
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONUNBUFFERED": "1",
        # Airflow's processes change their titles; without this that overwrites the environment that others read the mark in.
        "SPT_NOENV": "1",
    }


def environment_file(path: Path) -> dict[str, str]:
    """Variables of a file with a `NAME=value` a line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def write_airflow_configuration(settings: Settings) -> Path:
    """Write airflow.cfg anew, for nobody else to read; its keys are drawn once and kept."""
    places = Places(settings.home)
    path = places.airflow / "airflow.cfg"
    keys = _keys(path)
    wanted = {
        "core": {
            "dags_folder": str(CHECKOUT / "dags"),
            "executor": "LocalExecutor",
            "parallelism": "4",
            "load_examples": "False",
            "dags_are_paused_at_creation": "False",
            "simple_auth_manager_all_admins": "True",
            "hostname_callable": "socket.gethostname",
            "execution_api_server_url": f"{airflow_url(settings)}/execution/",
            "fernet_key": keys["fernet_key"],
        },
        "database": {"sql_alchemy_conn": sqlite_uri(places.airflow / "airflow.db")},
        "api": {
            "host": HOST,
            "port": str(settings.airflow_port),
            "base_url": airflow_url(settings),
            "workers": "1",
            "instance_name": "loraflow",
            "secret_key": keys["secret_key"],
        },
        "api_auth": {"jwt_secret": keys["jwt_secret"]},
        "scheduler": {
            # a worker's death is noticed, and the work of dead servers taken up again, within a minute instead of five
            "task_instance_heartbeat_timeout": "60",
            "orphaned_tasks_check_interval": "30",
        },
        "dag_processor": {"refresh_interval": "30", "parsing_processes": "1", "print_stats_interval": "0"},
        # a training takes every core: the API server may need longer than five seconds to answer a task's process
        "workers": {"execution_api_timeout": "60"},
        "logging": {
            "base_log_folder": str(places.airflow / "logs"),
            "dag_processor_child_process_log_directory": str(places.airflow / "logs" / "dag_processor"),
            "colored_console_log": "False",
            "uvicorn_logging_level": "WARNING",
            "namespace_levels": "http.access=WARNING",
        },
        "usage_data_collection": {"enabled": "False"},
    }
    parser = configparser.RawConfigParser()
    parser.read_dict({name: {key: value.replace("%", "%%") for key, value in section.items()} for name, section in wanted.items()})
    text = io.StringIO()
    parser.write(text)
    places.airflow.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".airflow.cfg.{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text.getvalue())
    fresh.replace(path)
    return path


def check_paths(settings: Settings) -> None:
    """Check that Airflow will read its paths from its configuration as they are written there.

    Raises:
        SettingsError: it takes a part of one for an environment variable; there is no way to write that part otherwise.
    """
    for what, path in (("LORAFLOW_HOME", settings.home), ("the checkout", CHECKOUT)):
        if os.path.expandvars(path) != str(path):
            expected = "no $ before the name of an environment variable, which Airflow would replace,"
            raise SettingsError(what, f"is {path}", expected, "rename the folder")


def database_is_current(settings: Settings) -> bool:
    """Whether Airflow's database was made by the Airflow that is installed."""
    places = Places(settings.home)
    stamp = places.airflow / "airflow.db.version"
    return (places.airflow / "airflow.db").exists() and stamp.exists() and stamp.read_text() == version("apache-airflow")


def stamp_database(settings: Settings) -> None:
    """Remember that Airflow's database fits the Airflow that is installed."""
    write_atomically(Places(settings.home).airflow / "airflow.db.version", version("apache-airflow"))


def _keys(path: Path) -> dict[str, str]:
    """Keys that sign and encrypt: those in the configuration file, or new ones."""
    parser = configparser.RawConfigParser()
    parser.read(path)
    places = {"fernet_key": "core", "secret_key": "api", "jwt_secret": "api_auth"}
    drawn = {
        "fernet_key": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "secret_key": secrets.token_hex(),
        "jwt_secret": secrets.token_hex(64),
    }
    return {key: parser.get(section, key, fallback=drawn[key]) for key, section in places.items()}
