"""The present champion of a recipe: which version of its MLflow model it is, and where its files are.

The registered model (see `register`) holds `artifacts/model`, the merged model's folder, and `artifacts/recipe.yaml`, the
frozen recipe that it was trained by.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import ContractError, ServiceError
from tasks.registry import tracking
from tasks.schema import load as recipes
from tasks.schema.recipe import Recipe
from tasks.secrets.redaction import in_one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALIAS = "champion"

MODEL, RECIPE = "artifacts/model", "artifacts/recipe.yaml"
"""Paths inside a registered model."""


def champion_version(client: "MlflowClient", name: str) -> int | None:
    """Version of the model that has the alias `champion`; None where there is no such model or alias.

    Raises:
        ServiceError: the registry does not answer.
    """
    from mlflow.exceptions import MlflowException

    with tracking.mlflow_errors(f"model {name}"):
        try:
            version = client.get_registered_model(name).aliases.get(ALIAS)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
    return None if version is None else int(version)


def version_recipe(name: str, version: int, folder: Path) -> Recipe:
    """The frozen recipe that a version was trained by; see `_artifact` for folder and errors."""
    return recipes.read(_artifact(name, version, RECIPE, folder))


def version_model(name: str, version: int, folder: Path) -> Path:
    """Folder with a version's merged model (config, safetensors, tokenizer); see `_artifact` for folder and errors."""
    return _artifact(name, version, MODEL, folder)


def _artifact(name: str, version: int, path: str, folder: Path) -> Path:
    """A file or folder of a model version: where it lies if that is a folder of this machine, otherwise copied into `folder`.

    Raises:
        ContractError: the version has no such file.
        ServiceError: the store does not answer.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository

    where = f"models:/{name}/{version}"
    try:
        if path in {file.path for file in mlflow.artifacts.list_artifacts(f"{where}/{Path(path).parent}")}:
            local = ModelsArtifactRepository.get_underlying_uri(where).startswith(("file:", "/"))
            return Path(mlflow.artifacts.download_artifacts(f"{where}/{path}", dst_path=None if local else str(folder)))
    except (MlflowException, OSError) as error:
        detail = in_one_line(error)
        raise ServiceError(where, f"{path} not to be had ({detail})", "a model version's files", "look at the store") from None
    raise ContractError(where, f"no {path}", "a version that `register` made", "register it again")
