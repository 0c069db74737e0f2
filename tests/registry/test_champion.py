"""Which version is the champion, and its files: where they lie, or fetched from a server."""

from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ContractError, ServiceError
from tasks.registry import tracking
from tasks.registry.champion import champion_version, version_model, version_recipe
from tasks.schema import load as recipes


def register(folder: Path, document: dict[str, Any]) -> Path:
    """A version of the layout that `register` makes, logged as any artifacts are."""
    (folder / "artifacts/model").mkdir(parents=True)
    (folder / "artifacts/model/config.json").write_text("{}")
    (folder / "artifacts/recipe.yaml").write_text(recipes.resolve(document).dump())
    client = tracking.client()
    experiment = client.create_experiment(
        "tiny", artifact_location=None if "http" in tracking.settings().mlflow_tracking_uri else str(folder)
    )
    run = client.create_run(experiment)
    client.log_artifacts(run.info.run_id, str(folder / "artifacts"), "made/artifacts")
    client.create_registered_model("tiny")
    client.create_model_version("tiny", f"{run.info.artifact_uri}/made", run.info.run_id)
    return Path(run.info.artifact_uri) / "made/artifacts"


def test_there_is_a_champion_once_a_version_has_the_alias(home: Path, tmp_path: Path, tiny_document: dict[str, Any]) -> None:
    client = tracking.client()
    assert champion_version(client, "tiny") is None, "no model of this name"
    register(tmp_path / "made", tiny_document)
    assert champion_version(client, "tiny") is None, "a model without the alias"
    client.set_registered_model_alias("tiny", "champion", "1")
    assert champion_version(client, "tiny") == 1


def test_files_of_a_local_store_are_read_where_they_lie(home: Path, tmp_path: Path, tiny_document: dict[str, Any]) -> None:
    artifacts = register(tmp_path / "made", tiny_document)
    (tmp_path / "empty").mkdir()
    assert version_model("tiny", 1, tmp_path / "empty") == artifacts / "model"
    assert version_recipe("tiny", 1, tmp_path / "empty").name == "tiny"
    assert not list((tmp_path / "empty").iterdir())
    (artifacts / "recipe.yaml").unlink()
    with pytest.raises(ContractError, match=r"models:/tiny/1: no artifacts/recipe.yaml \(expected: a version that `register` made\)"):
        version_recipe("tiny", 1, tmp_path / "empty")


def test_files_of_a_server_are_fetched_into_the_folder(
    home: Path,
    tmp_path: Path,
    tiny_document: dict[str, Any],
    mlflow_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", mlflow_server)
    register(tmp_path / "made", tiny_document)
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    assert (version_model("tiny", 1, fetched) / "config.json").read_text() == "{}"
    assert version_recipe("tiny", 1, fetched) == recipes.resolve(tiny_document)
    assert sorted(path.name for path in fetched.rglob("*") if path.is_file()) == ["config.json", "recipe.yaml"]
    next((tmp_path / "served").rglob("recipe.yaml")).unlink()
    with pytest.raises(ContractError, match="no artifacts/recipe.yaml"):
        version_recipe("tiny", 1, tmp_path / "fetched")


def test_a_registry_that_stops_answering_is_a_fault_that_a_retry_may_mend(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow

    client = tracking.client()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    mlflow.set_registry_uri("http://127.0.0.1:9")
    with pytest.raises(ServiceError, match="model tiny: MLflow at sqlite.*refused or did not answer"):
        champion_version(mlflow.MlflowClient(), "tiny")
    with pytest.raises(
        ServiceError, match=r"models:/tiny/1: artifacts/model not to be had .* \(expected: a model version's files\)\. Fix: look at the"
    ):
        version_model("tiny", 1, tmp_path)
    tracking.client()
    assert champion_version(client, "tiny") is None
