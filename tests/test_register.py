"""`register`: one version a run, served outside the checkout, its weights neither loaded nor copied."""

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tasks
from tasks import register
from tasks.contracts import Adapter, MergedModel, RegisteredVersion, ValidRows
from tasks.errors import ServiceError
from tasks.kinds.base import kind_of
from tasks.model.load import load_model
from tasks.model.tokenizer import Tokens
from tasks.registry import tracking
from tasks.schema.load import read
from tasks.settings import CHECKOUT, quiet_environment
from tasks.workspace.files import write_atomically
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import evaluated
from tests.support.loopback import free_port

pytestmark = pytest.mark.trains

TEXTS = ["a lovely day", "the rude table again", "my street"]


@pytest.fixture
def evaluated_run(trained: Run) -> Run:
    evaluated.evaluate(trained)
    return trained


def do(run: Run, generation: int = 0) -> RegisteredVersion:
    found = perform("register", run, generation)
    assert isinstance(found, RegisteredVersion)
    return found


def test_it_is_served_by_alias_where_loraflow_is_not_installed(evaluated_run: Run, tmp_path: Path) -> None:
    do(evaluated_run)
    tracking.client().set_registered_model_alias("tiny", "champion", "1")
    uri = f"sqlite:///{evaluated_run.folder.parents[2]}/mlflow/mlflow.db"
    served = json.loads(evaluated.outside(evaluated.PREDICT % TEXTS, tmp_path, MLFLOW_TRACKING_URI=uri).splitlines()[-1])

    folder = evaluated_run.path(evaluated_run.read(MergedModel).path)
    recipe, model, tokens = evaluated_run.recipe, load_model(folder, "float32"), Tokens(folder)
    expected = kind_of(recipe).respond(recipe, model, tokens, TEXTS)
    assert served["columns"] == ["label", "score_negative", "score_neutral", "score_positive"]
    for place, name in enumerate(served["columns"]):
        column = [row[place] for row in served["rows"]]
        assert column == expected[name] if place == 0 else column == pytest.approx(list(expected[name]), abs=1e-6)


def test_the_version_says_what_it_came_from(evaluated_run: Run) -> None:
    (evaluated_run.folder / "validate").mkdir()
    evaluated_run.write(ValidRows("validate/rows.parquet", "validate/rejects", "validate/report.html", 500, 480, {"no text": 20}))
    found = do(evaluated_run)
    version = tracking.client().get_model_version("tiny", "1")
    assert found == RegisteredVersion("tiny", 1, "models:/tiny/1", "http://127.0.0.1:5000/#/models/tiny/versions/1", dict(version.tags))
    tags = version.tags
    assert tags["loraflow.run"] == "tiny/test" and tags["loraflow.recipe"] == "tiny"
    assert tags["data"] == "data/tiny/v1" and tags["data_hash"].endswith(".dir")
    assert tags["recipe_hash"] == evaluated_run.recipe.sha256() and tags["profile"] == "full" and tags["seed"] == "3"
    assert json.loads(tags["validation"]) == {"read": 500, "valid": 480, "rejected": {"no text": 20}}
    assert tags["base_model"].startswith("folder:") and tags["base_model_revision"] == "0" * 64
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True).stdout.strip()
    listed = evaluated_run.path(evaluated_run.read(Adapter).rows_file or "").read_bytes()
    assert (tags["training_rows"], tags["training_rows_sha256"]) == ("300", hashlib.sha256(listed).hexdigest())
    assert tags["code"] == (head or "no checkout") and tags["code_changed"] in ("yes", "no")
    assert tags["mlflow_run"] == evaluated_run.read(Adapter).tracked.run_id == version.run_id
    assert tags["gate"] == "passed" and "floor" in tags["gate_reasons"]
    assert json.loads(tags["scores"]) == {"macro_f1": 0.9, "accuracy": 0.9 + 0.02}
    for library in ("torch", "transformers", "peft", "mlflow", "dvc", "loraflow"):
        assert tags[library][0].isdigit()
    assert tracking.client().get_model_version_by_alias("tiny", "challenger").version == 1


def test_a_version_that_may_never_be_promoted_is_no_challenger(evaluated_run: Run) -> None:
    client = tracking.client()
    client.create_registered_model("tiny")
    client.create_model_version("tiny", "file:///elsewhere")
    client.set_registered_model_alias("tiny", "challenger", "1")
    recipe = evaluated_run.recipe.model_copy(update={"run": evaluated_run.recipe.run.model_copy(update={"promotion": "never"})})
    write_atomically(evaluated_run.folder / "recipe.yaml", recipe.dump())
    assert do(Run(evaluated_run.folder)).version == 2
    assert client.get_registered_model("tiny").aliases == {"challenger": 1}


def test_a_run_on_finished_data_names_whose_validation_counts(evaluated_run: Run) -> None:
    assert do(evaluated_run).tags["validation"] == "by the run that made data/tiny/v1"


def test_the_model_s_file_holds_signature_requirements_and_layout(evaluated_run: Run) -> None:
    import mlflow
    from mlflow.models import Model

    found = do(evaluated_run)
    folder = Path(mlflow.artifacts.download_artifacts(found.uri))
    model = Model.load(folder)
    assert [column.type.name for column in model.signature.inputs.inputs] == ["string"]
    assert model.signature.outputs.input_names() == ["label", "score_negative", "score_neutral", "score_positive"]
    assert model.metadata["data"] == "data/tiny/v1"
    requirements = (folder / "requirements.txt").read_text().split()
    assert {line.split("==")[0] for line in requirements} == set(register.REQUIREMENTS)
    assert not any("+" in line for line in requirements)
    assert read(folder / "artifacts/recipe.yaml") == evaluated_run.recipe
    assert (folder / "artifacts/model/model.safetensors").exists() and (folder / "artifacts/model/tokenizer.json").exists()
    files = sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name not in ("MLmodel", "registered_model_meta")
    )
    assert model.model_size_bytes == pytest.approx(files, abs=8000)
    artifacts = {item.path for item in tracking.client().list_artifacts(found.tags["mlflow_run"], "adapter")}
    assert "adapter/adapter_model.safetensors" in artifacts and "adapter/adapter_config.json" in artifacts


def disk(folder: Path) -> int:
    """Bytes below a folder, each file once however many names it has."""
    return sum(
        {(stat.st_dev, stat.st_ino): stat.st_size for path in folder.rglob("*") if (stat := path.stat()) and path.is_file()}.values()
    )


def test_a_local_store_shares_the_weights_with_the_run(evaluated_run: Run) -> None:
    import mlflow

    home, merged = evaluated_run.folder.parents[2], evaluated_run.path(evaluated_run.read(MergedModel).path)
    before = disk(home)
    found = do(evaluated_run)
    weights, stored = (
        merged / "model.safetensors",
        Path(mlflow.artifacts.download_artifacts(found.uri)) / "artifacts/model/model.safetensors",
    )
    assert stored.samefile(weights)
    model_bytes = sum(path.stat().st_size for path in merged.iterdir())
    adapter_bytes = sum(path.stat().st_size for path in evaluated_run.path(evaluated_run.read(Adapter).path).iterdir())
    package = [path for path in Path(tasks.__file__).parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    code_bytes, little = sum(path.stat().st_size for path in package), 200_000
    assert little < model_bytes and disk(home) - before < adapter_bytes + code_bytes + little
    assert not list(evaluated_run.folder.glob("register/*/*"))


def test_a_second_register_of_the_same_content_is_the_same_version(evaluated_run: Run) -> None:
    first = do(evaluated_run)
    evaluated.evaluate(evaluated_run, 0.4, verdict=evaluated.refused())
    again = do(evaluated_run, generation=1)
    assert (again.version, again.tags["gate"], json.loads(again.tags["scores"])["macro_f1"]) == (1, "refused", 0.4)
    assert tracking.client().get_model_version("tiny", "1").tags["gate_reasons"].startswith("refused: macro_f1 0.400 < 0.500")
    assert again.tags["loraflow.content"] == first.tags["loraflow.content"]


def test_changed_content_of_a_run_is_a_new_version(evaluated_run: Run) -> None:
    do(evaluated_run)
    config = evaluated_run.path(evaluated_run.read(MergedModel).path) / "config.json"
    text = config.read_text()
    config.unlink()
    config.write_text(text + "\n")
    assert do(evaluated_run, generation=1).version == 2
    assert tracking.client().get_model_version_by_alias("tiny", "challenger").version == 2


KILL = """
import os, signal, sys
from pathlib import Path
from tasks import register
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
import mlflow
owner = mlflow.MlflowClient if hasattr(mlflow.MlflowClient, sys.argv[2]) else register
real = getattr(owner, sys.argv[2])
def killed(*arguments, **options):
    if sys.argv[3] == "after":
        real(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, sys.argv[2], killed)
perform("register", Run(Path(sys.argv[1])))
"""


@pytest.mark.parametrize(
    ("call", "moment"),
    [
        ("create_logged_model", "after"),
        ("_store", "after"),
        ("finalize_logged_model", "before"),
        ("finalize_logged_model", "after"),
        ("create_model_version", "after"),
        ("set_registered_model_alias", "after"),
    ],
)
def test_a_killed_register_ends_as_an_undisturbed_one(evaluated_run: Run, call: str, moment: str) -> None:
    command = [sys.executable, "-c", KILL, str(evaluated_run.folder), call, moment]
    done = subprocess.run(command, cwd=CHECKOUT, env={**quiet_environment(), "PYTHONPATH": str(CHECKOUT)}, capture_output=True, timeout=300)
    assert done.returncode == -9, done.stderr.decode()
    found, client = do(evaluated_run), tracking.client()
    assert [version.version for version in client.search_model_versions("name = 'tiny'")] == [1] and found.version == 1
    tracked = evaluated_run.read(Adapter).tracked
    models = client.search_logged_models([tracked.experiment_id])
    assert [str(model.status) for model in models] == ["READY"]
    assert [output.model_id for output in client.get_run(tracked.run_id).outputs.model_outputs] == [models[0].model_id]
    assert client.get_model_version_by_alias("tiny", "challenger").version == 1


def test_a_half_written_model_in_the_store_is_replaced(evaluated_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    def cut_short(client: object, model: object, folder: Path) -> None:
        place = Path(model.artifact_location.removeprefix("file://"))  # type: ignore[attr-defined]
        place.mkdir(parents=True)
        (place / "left_over").write_text("half")
        raise ServiceError("store", "cut", "", "")

    with monkeypatch.context() as patch, pytest.raises(ServiceError):
        patch.setattr(register, "_store", cut_short)
        do(evaluated_run)
    folder = Path(mlflow.artifacts.download_artifacts(do(evaluated_run).uri))
    assert not (folder / "left_over").exists() and (folder / "MLmodel").exists()


def test_an_unwritable_store_is_a_fault_that_a_retry_may_mend(evaluated_run: Run) -> None:
    models = evaluated_run.folder.parents[2] / "mlflow" / "artifacts" / "tiny" / "models"
    models.mkdir(parents=True, exist_ok=True)
    models.rmdir()
    models.write_text("a file where a folder should be")
    with pytest.raises(ServiceError, match=r"cannot be written \(.*\) \(expected: a writable artifact store\)\. Fix: mend its permissions"):
        do(evaluated_run)
    assert not (evaluated_run.folder / "register.json").exists()


def test_no_mlflow_is_a_fault_that_a_retry_may_mend(evaluated_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ServiceError, match=rf"MLflow at http://127.0.0.1:{port}: no answer"):
        do(evaluated_run)


def test_mlflow_s_own_faults_are_told_in_our_words(evaluated_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    def broken(*_: object, **__: object) -> None:
        raise mlflow.MlflowException("database is locked")

    monkeypatch.setattr(mlflow.MlflowClient, "create_model_version", broken)
    with pytest.raises(
        ServiceError, match=r"register: MLflow at sqlite.*refused or did not answer \(database is locked\) \(expected: an answer\)"
    ):
        do(evaluated_run)


def test_register_does_not_load_the_model(evaluated_run: Run) -> None:
    code = f"""
import sys
from pathlib import Path
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
perform("register", Run(Path({str(evaluated_run.folder)!r})))
print(sorted(name for name in ("torch", "transformers", "peft") if name in sys.modules))
"""
    assert evaluated.outside(code, CHECKOUT).splitlines()[-1] == "[]"


def test_one_version_number_in_package_and_project() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert project["version"] == tasks.__version__
