"""Where this installation keeps things and which services it talks to: the `LORAFLOW_` environment variables.

`docs/settings.md` shows this class as a table; a test holds the two together. Secrets are not settings: they come from
Airflow connections, Kubernetes secrets or the environment of the library that needs them (`HF_TOKEN`, say).
"""

import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tasks.errors import SettingsError

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
        return self.dvc_remote or str(self.home / "dvc-remote")

    @cached_property
    def hub_url(self) -> str:
        """`folder:PATH` or `hub:NAMESPACE`."""
        return self.hub or f"folder:{self.home / 'hub'}"

    @cached_property
    def mlflow_tracking_uri(self) -> str:
        """Tracking URI that MLflow's client is given."""
        return self.mlflow_uri or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @cached_property
    def mlflow_ui_url(self) -> str:
        """Address of MLflow's UI, without a slash at the end."""
        return (self.mlflow_ui or f"http://127.0.0.1:{self.mlflow_port}").rstrip("/")


def settings() -> Settings:
    """The settings of this process, read from its environment now; paths absolute."""
    try:
        found = Settings()
    except ValidationError as error:
        faults = [f"{_variable(fault['loc'])} is {fault['input']!r:.80} ({fault['msg']})" for fault in error.errors()]
        raise SettingsError("settings", "; ".join(faults), remedy="see docs/settings.md") from None
    absolute = {name: value.expanduser().absolute() for name, value in found if isinstance(value, Path)}
    return found.model_copy(update=absolute)


def _variable(place: tuple[int | str, ...]) -> str:
    return f"LORAFLOW_{str(place[0]).removeprefix('LORAFLOW_').upper()}"


def quiet_environment() -> dict[str, str]:
    """The environment of this process with every library's telemetry off, for a child process."""
    return {**os.environ, **TELEMETRY_OFF}
