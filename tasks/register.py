"""Register the merged model as a version of the recipe's model in MLflow.

Reads   Download, ValidRows, DatasetVersion, Adapter, MergedModel, Evaluation     runs/<id>/*.json
Uses    name, labels.names, run.promotion                                         of the recipe
Writes  RegisteredVersion                                                         runs/<id>/register.json

The weights are never loaded and, where the artifact store is a folder of this machine, never copied: MLflow's own
`log_model` would copy them twice (into its staging folder, from there into the store). Here the model is saved around the
merged model's configuration alone, the weights are hard-linked in, and the finished folder is linked into the store or
uploaded from its path.
"""

import os
import shutil
import warnings
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from tasks.contracts import Adapter, MergedModel, RegisteredVersion
from tasks.errors import ServiceError
from tasks.kinds.base import kind_of
from tasks.registry import lineage, tracking
from tasks.registry.champion import champion_version
from tasks.schema.recipe import Recipe
from tasks.settings import settings
from tasks.workspace.files import link_or_copy
from tasks.workspace.progress import Progress
from tasks.workspace.run import RECIPE, Run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

REQUIREMENTS = ("mlflow", "numpy", "pandas", "pydantic", "pyyaml", "safetensors", "tokenizers", "torch", "transformers")
"""What serving imports."""


def register(run: Run) -> RegisteredVersion:
    """Register the merged model in MLflow with its lineage; the new version is the challenger, unless the run never promotes."""
    client, name = tracking.client(), run.recipe.name
    with Progress(run, "register", "hashing, logging, registering", 3, "parts") as progress, tracking.mlflow_errors("register"):
        tags = lineage.lineage(run)
        progress.advance()
        found = _version_of_this_run(client, name, tags)
        if found is None:
            model = _logged_model(client, run, tags)
            progress.advance()
            found = _create_version(client, run, model, tags)
        for key, value in tags.items():  # a cleared evaluation changes what the gate said, not the model
            if found.tags.get(key) != value:
                client.set_model_version_tag(name, found.version, key, value)
        if run.recipe.run.promotion != "never" and champion_version(client, name) != int(found.version):
            client.set_registered_model_alias(name, lineage.CHALLENGER, found.version)
        progress.reach(3)
    url = f"{settings().mlflow_ui_url}/#/models/{name}/versions/{found.version}"
    return RegisteredVersion(name, int(found.version), f"models:/{name}/{found.version}", url, tags)


def _version_of_this_run(client: "MlflowClient", name: str, tags: dict[str, str]) -> "ModelVersion | None":
    """The version that an attempt before this one made of the same content, whether or not it lived to say so."""
    same_run = client.search_model_versions(f"name = '{name}' AND tags.`{tracking.RUN_TAG}` = '{tags[tracking.RUN_TAG]}'")
    return next((version for version in same_run if version.tags.get(lineage.CONTENT_TAG) == tags[lineage.CONTENT_TAG]), None)


def _logged_model(client: "MlflowClient", run: Run, tags: dict[str, str]) -> "LoggedModel":
    """The content as a whole logged model of the MLflow run, made now unless an earlier attempt finished it."""
    from mlflow.entities import LoggedModelOutput

    tracked, adapter = run.read(Adapter).tracked, run.path(run.read(Adapter).path)
    model = _earlier_logged_model(client, tracked.experiment_id, tracked.run_id, tags[lineage.CONTENT_TAG])
    if model is None:
        identity = {key: tags[key] for key in (tracking.RUN_TAG, lineage.RECIPE_TAG, lineage.CONTENT_TAG)}
        model = client.create_logged_model(tracked.experiment_id, name=run.recipe.name, source_run_id=tracked.run_id, tags=identity)
    outputs = client.get_run(tracked.run_id).outputs
    if outputs is None or model.model_id not in [output.model_id for output in outputs.model_outputs]:
        client.log_outputs(tracked.run_id, models=[LoggedModelOutput(model.model_id, step=0)])
    if model.status != "READY":
        folder = _save(run, model, tags)
        _store(client, model, folder)
        shutil.rmtree(folder)
        client.log_artifacts(tracked.run_id, str(adapter), "adapter")
        client.finalize_logged_model(model.model_id, "READY")
    return model


def _earlier_logged_model(client: "MlflowClient", experiment_id: str, run_id: str, content: str) -> "LoggedModel | None":
    same = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}' AND tags.`{lineage.CONTENT_TAG}` = '{content}'")
    return same[0] if same else None


def _save(run: Run, logged: "LoggedModel", tags: dict[str, str]) -> Path:
    """The model in MLflow's format in a folder of the attempt, its weights hard-linked."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")  # a uv project in the working directory is none of the model's business
    import mlflow.pyfunc
    from mlflow.models import Model

    merged, folder, light = run.path(run.read(MergedModel).path), run.attempt / "mlflow", run.attempt / "light" / "model"
    light.mkdir(parents=True)
    shutil.copyfile(merged / "config.json", light / "config.json")
    model = Model(
        artifact_path=logged.artifact_location,
        model_uuid=logged.model_id,
        model_id=logged.model_id,
        run_id=logged.source_run_id,
        metadata=tags,
    )
    package = Path(__file__).parent
    with warnings.catch_warnings(record=True):  # MLflow misses an input example (it would load the model to try it) and type hints
        mlflow.pyfunc.save_model(
            folder,
            python_model=package / "registry" / "serving.py",
            code_paths=[str(package)],
            artifacts={"model": light.as_uri(), "recipe": run.path(RECIPE).as_uri()},
            signature=_signature(run.recipe),
            pip_requirements=_requirements(),
            mlflow_model=model,
        )
    shutil.rmtree(light.parent)
    (folder / "artifacts" / "model" / "config.json").unlink()
    link_or_copy(merged, folder / "artifacts" / "model")
    model.model_size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    model.save(folder / "MLmodel")
    return folder


def _signature(recipe: Recipe) -> "ModelSignature":
    """Strings in; the columns of the kind's answer out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    answer = [ColSpec(kind, name) for name, kind in kind_of(recipe).response(recipe).items()]
    return ModelSignature(Schema([ColSpec("string")]), Schema(answer))


def _requirements() -> list[str]:
    """Pinned as installed; without a build's local part (2.13.0+cpu), which other machines cannot install."""
    return [f"{name}=={installed(name).partition('+')[0]}" for name in REQUIREMENTS]


def _store(client: "MlflowClient", model: "LoggedModel", folder: Path) -> None:
    """The folder as the logged model's artifacts; what a dead attempt left there is replaced."""
    place = urlparse(model.artifact_location)
    if place.scheme not in ("", "file"):
        client.log_model_artifacts(model.model_id, str(folder))
        return
    target = Path(unquote(place.path))
    try:
        shutil.rmtree(target, ignore_errors=True)
        link_or_copy(folder, target)
    except OSError as error:
        raise ServiceError(
            str(target), f"cannot be written ({error.strerror})", "a writable artifact store", "mend its permissions or make room"
        ) from error


def _create_version(client: "MlflowClient", run: Run, model: "LoggedModel", tags: dict[str, str]) -> Any:
    """A new version over the logged model, tags and all at once."""
    from mlflow.exceptions import MlflowException

    recipe = run.recipe
    try:
        client.create_registered_model(recipe.name, {lineage.RECIPE_TAG: recipe.name}, recipe.title)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    run_id = run.read(Adapter).tracked.run_id
    return client.create_model_version(recipe.name, f"models:/{model.model_id}", run_id, tags, model_id=model.model_id)
