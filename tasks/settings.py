"""Where this installation keeps things and which services it talks to: the `LORAFLOW_` environment variables.

`docs/settings.md` shows this class as a table; a test holds the two together. Secrets are not settings: they come from
Airflow connections, Kubernetes secrets or the environment of the library that needs them (`HF_TOKEN`, say).
"""

import os
import re
import unicodedata
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, unquote, urlsplit

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tasks.errors import SettingsError
from tasks.secrets.redaction import in_one_line

CHECKOUT = Path(__file__).resolve().parent.parent

TELEMETRY_OFF = {
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "SCARF_ANALYTICS": "false",
}
"""Environment under which no library reports its use to anybody."""

UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories of characters that no setting may hold: control characters, line breaks, and bytes that are no text.

Configuration files, logs and manifests, ours and the libraries', are text, and most of them hold a value a line.
"""

Names = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(lambda given: [name.strip() for name in given.split(",") if name.strip()] if isinstance(given, str) else given),
]
"""Several names in one variable, with commas between them."""


Place = Annotated[Path | str | None, BeforeValidator(lambda given: given if "://" in str(given) or given is None else Path(given))]
"""A folder, or the URL of a place in an object store."""


class Settings(BaseSettings):
    """One field for each variable; the field's description is its documentation."""

    model_config = SettingsConfigDict(env_prefix="LORAFLOW_", frozen=True, extra="ignore")

    home: Path = Field(CHECKOUT / ".loraflow", description="Folder of all runtime state of the embedded default.")
    profile: Literal["local", "full"] = Field(
        "local", description="Which settings of a recipe count: as published (`full`), or with its `local` keys laid over."
    )
    recipes: Path = Field(
        Path(__file__).parent / "recipes", description="Folder with the recipe files; each becomes a DAG. Default: those of this project."
    )
    mirror: Path | None = Field(None, description="Folder with copies of the recipes' source files; looked into before any download.")
    runs: Place = Field(
        None,
        description="Workspace: one folder a run. A folder, or a URL of an object store such as `s3://bucket/prefix`. "
        "Default: `runs` in the home folder.",
    )
    scratch: Path | None = Field(
        None, description="Folder that steps work in where the workspace is an object store. Default: `scratch` in the home folder."
    )
    data_repo: str | None = Field(
        None, description="Git URL of the data repository. Default: a bare repository `data-repo.git` in the home folder."
    )
    dvc_remote: str | None = Field(None, description="URL of the DVC remote. Default: the folder `dvc-remote` in the home folder.")
    hub: str | None = Field(
        None,
        description="Where `push` publishes: `folder:PATH`, or `hub:NAMESPACE` for the Hugging Face Hub (`HF_ENDPOINT`, "
        "`HF_TOKEN`). Default: the folder `hub` in the home folder.",
    )
    mlflow_uri: str | None = Field(None, description="MLflow tracking URI. Default: an SQLite file in the home folder.")
    country_iso_code: str | None = Field(
        None,
        pattern=r"^[A-Z]{3}$",
        description="Three-letter code (ISO 3166) of the country whose electricity trainings use, for their CO2 equivalent. "
        "Default: the world's average.",
    )
    sweep_trainings: int = Field(1, ge=1, le=1000, description="How many trainings of one sweep run at the same time.")
    allowed_hosts: Names = Field(
        (),
        description="Hosts that data, models and packages may be fetched from, commas between them; `*.example.org` is all hosts below "
        "that one. Default: any, by https.",
    )
    runner: Literal["local", "kubernetes"] = Field("local", description="Where steps run: as processes beside Airflow, or as pods.")
    image: str | None = Field(None, description="With the runner `kubernetes`: image of the steps.")
    gpu_image: str | None = Field(None, description="Image of steps that ask for a GPU. Default: LORAFLOW_IMAGE.")
    image_pull_secrets: Names = Field((), description="Kubernetes secrets that open the images' registry, commas between them.")
    namespace: str = Field("loraflow", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="Kubernetes namespace of the pods.")
    service_account: str = Field("loraflow-step", description="Service account of the pods.")
    kubernetes_conn: str | None = Field(
        None, description="Airflow connection to the cluster. Default: the one that Airflow itself runs in."
    )
    pod_secrets: Names = Field((), description="Kubernetes secrets whose keys become the pods' environment, commas between them.")
    pod_config_maps: Names = Field((), description="ConfigMaps likewise.")
    volume_claim: str | None = Field(
        None, description="PersistentVolumeClaim that pods mount at the folder LORAFLOW_RUNS, where that is the workspace."
    )
    kueue_queue: str | None = Field(None, description="Kueue's local queue for the pods of recipes that name none.")
    airflow_port: int = Field(8080, ge=1, le=65535, description="Loopback port of Airflow's UI on the embedded default.")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="Loopback port of MLflow's UI on the embedded default.")
    mlflow_ui: str | None = Field(
        None, description="Address of MLflow's UI as users reach it, for links. Default: the loopback port above."
    )

    @cached_property
    def runs_folder(self) -> Path | str:
        """Folder or URL that holds one folder for each run."""
        return self.runs or self.home / "runs"

    @cached_property
    def scratch_folder(self) -> Path:
        """Folder that steps work in where the runs are in an object store."""
        return self.scratch or self.home / "scratch"

    @cached_property
    def model_cache(self) -> Path:
        """Folder of base models, each complete when its name is there."""
        return self.home / "models"

    @cached_property
    def data_repo_url(self) -> str:
        """Git URL of the data repository."""
        return self.data_repo or str(self.home / "data-repo.git")

    @cached_property
    def dvc_remote_url(self) -> str:
        """URL of the DVC remote."""
        return str(local_folder(self.dvc_remote) or self.dvc_remote) if self.dvc_remote else str(self.home / "dvc-remote")

    @cached_property
    def hub_url(self) -> str:
        """`folder:PATH` or `hub:NAMESPACE`."""
        return self.hub or f"folder:{self.home / 'hub'}"

    @cached_property
    def mlflow_tracking_uri(self) -> str:
        """Tracking URI that MLflow's client is given."""
        # With its driver's name: MLflow makes the parent folder of a plain sqlite:/// from the URI as it is written, % and all.
        return self.mlflow_uri or sqlite_uri(self.mlflow_database or self.home, "sqlite+pysqlite")

    @cached_property
    def mlflow_database(self) -> Path | None:
        """The SQLite file behind the tracking URI, which artifacts lie beside; None where the URI names a server.

        Raises:
            SettingsError: the URI does not name a file by its absolute path, or MLflow cannot load a model from beside it.
        """
        if self.mlflow_uri is None:
            variable, path = "LORAFLOW_HOME", self.home / "mlflow" / "mlflow.db"
        elif self.mlflow_uri.startswith("sqlite"):
            variable, path = "LORAFLOW_MLFLOW_URI", sqlite_path(self.mlflow_uri)
        else:
            return None
        if found := re.search("%[0-9A-Fa-f]{2}", str(path.parent)):
            raise SettingsError(
                variable,
                f"{path.parent} holds {found[0]!r}, which MLflow takes for {unquote(found[0])!r} when it loads a model from there",
                "a path without % before two hexadecimal digits",
                "rename the folder",
            )
        return path

    @cached_property
    def mlflow_ui_url(self) -> str:
        """Address of MLflow's UI, without a slash at the end."""
        return (self.mlflow_ui or f"http://127.0.0.1:{self.mlflow_port}").rstrip("/")


def local_folder(place: str) -> Path | None:
    """The folder that a path or a `file:` URL names; None of any other URL.

    Raises:
        SettingsError: a `file:` URL that would name another folder than it seems to.
    """
    if "://" not in place:
        return Path(place).expanduser().absolute()
    parts = urlsplit(place)
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost") or {"#", "?"} & set(place):
        raise SettingsError(place, "no folder of this machine", "file:/// and a path, with %23 for # and %3F for ?", "correct it")
    return Path(unquote(parts.path))


def sqlite_uri(path: Path, scheme: str = "sqlite") -> str:
    """The URI under which SQLAlchemy opens an SQLite file, whatever characters its path holds."""
    return f"{scheme}:///{quote(str(path))}"


def sqlite_path(uri: str) -> Path:
    """The file that SQLAlchemy opens under an SQLite URI.

    Raises:
        SettingsError: none by its absolute path, or another than the URI seems to name.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        database = make_url(uri).database or ""
    except ArgumentError:
        database = ""
    if not database.startswith("/") or "/" in uri.partition("?")[2]:
        raise SettingsError(
            "LORAFLOW_MLFLOW_URI",
            f"is {uri!r:.120}",
            "sqlite:/// and the absolute path of a file, with %3F for ? and %25 for %,",
            "correct it",
        )
    return Path(database)


def settings() -> Settings:
    """The settings of this process, read from its environment now; paths absolute."""
    try:
        found = Settings()
    except ValidationError as error:
        faults = [f"{_variable(fault['loc'])} is {in_one_line(repr(fault['input']), 80)} ({fault['msg']})" for fault in error.errors()]
        raise SettingsError("settings", "; ".join(faults), remedy="see docs/settings.md") from None
    for name, value in found:
        if strange := next((letter for letter in str(value) if unicodedata.category(letter) in UNPRINTABLE), None):
            raise SettingsError(_variable((name,)), f"holds {strange!r}", "text without control characters and line breaks", "remove it")
    absolute = {name: value.expanduser().absolute() for name, value in found if isinstance(value, Path)}
    return found.model_copy(update=absolute)


def header_value(name: str) -> str:
    """A secret that a library of ours sends in an HTTP header, out of its own variable; empty where that is not set.

    Raises:
        SettingsError: no header can hold it.
    """
    value = os.environ.get(name, "").strip()
    if strange := re.search(r"[^\x20-\x7e]", value):
        kind = "line end inside" if strange[0] in "\r\n" else "control character" if strange[0].isascii() else "character beyond ASCII"
        raise SettingsError(name, f"holds a {kind}", "what an HTTP header can hold", "copy the value again")
    return value


def _variable(place: tuple[int | str, ...]) -> str:
    return f"LORAFLOW_{str(place[0]).removeprefix('LORAFLOW_').upper()}"


def quiet_environment() -> dict[str, str]:
    """The environment of this process with every library's telemetry off, for a child process."""
    return {**os.environ, **TELEMETRY_OFF}
