"""Folders and URLs with characters that mean something to a library below: everything is found where it was put, or refused at once."""

import os
import shutil
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import STEPS, BaseModelFiles, DatasetParts, DatasetVersion, Download, Evaluation, MergedModel, Publication, SourceFile
from tasks.data.repository import cloned
from tasks.doctor.checks import by_hand
from tasks.doctor.findings import examine
from tasks.doctor.scope import Scope
from tasks.errors import SettingsError, Skip
from tasks.local_servers import configuration
from tasks.registry import tracking
from tasks.registry.champion import ALIAS, champion_version, version_model
from tasks.schema import load as recipes
from tasks.settings import settings, sqlite_path, sqlite_uri
from tasks.workspace.location import run_folder
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny
from tests.support.s3_server import S3

pytestmark = pytest.mark.trains

ODD = "C# a,b? 100% d;'e' \"f\" [g] {h} & i+j=$k~ 한글 " + unicodedata.normalize("NFD", "é") + " \\n <l> `m` ^@:*|! %s %%"
"""A comment, a list, a query, an interpolation, quotes, a field, a variable, …"""


@pytest.fixture
def odd_home(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "made" / ODD / "home"
    monkeypatch.setenv("LORAFLOW_HOME", str(folder))
    return folder


def test_a_run_in_an_odd_home_keeps_everything_in_it(odd_home: Path, tmp_path: Path, tiny_base: Path) -> None:
    base = shutil.copytree(tiny_base, odd_home.parent / "base #1")
    source = tiny.write_csv(odd_home.parent / "rows, 50%?.csv", tiny.tweets(300))
    document = tiny.recipe_document(base, source)
    document |= {"gate": {"metric": "accuracy", "floors": {"accuracy": 0.0}, "beats_base": False}}
    document["train"] |= {"max_steps": 3, "save_steps": 3}
    runs = {data: Run(run_folder(settings().runs_folder, "tiny", data)) for data in ("new", "latest")}
    for data, run in runs.items():
        run.freeze(recipes.resolve(document, "full", {"run.data": data}))
        for step in STEPS:
            with suppress(Skip):
                perform(step, run)
    made, again = (run.read(DatasetVersion) for run in runs.values())
    assert (made.created, again.created, again.data_hash) == (True, False, made.data_hash)
    assert len(list((odd_home / "dvc-remote" / "files" / "md5").rglob("*.dir"))) == 1
    assert Path(made.repository) == odd_home / "data-repo.git"

    client = tracking.client()
    import mlflow

    assert champion_version(client, "tiny") == 2
    model = mlflow.pyfunc.load_model(f"models:/tiny@{ALIAS}")
    assert len(model.predict(["a lovely day", "an awful day"])) == 2
    weights = (version_model("tiny", 2, tmp_path / "unused") / "model.safetensors").read_bytes()
    latest = runs["latest"]
    assert weights == (latest.path(latest.read(MergedModel).path) / "model.safetensors").read_bytes()
    (tracked,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id], "tags.`loraflow.run` = 'tiny/latest'")
    report = latest.path(latest.read(Evaluation).report).read_text()
    assert Path(client.download_artifacts(tracked.info.run_id, "evaluation/report.html")).read_text() == report
    kept = odd_home / "mlflow" / "artifacts" / "tiny" / tracked.info.run_id / "artifacts" / "evaluation" / "report.html"
    assert kept.read_text() == report and (odd_home / "mlflow" / "mlflow.db").is_file()
    published = Path(latest.read(Publication).model)
    assert published == odd_home / "hub" / "loraflow" / "tiny" and weights == (published / "model.safetensors").read_bytes()

    findings = {found.what: found for found in examine(by_hand(Scope(settings(), latest.recipe, str(settings().runs_folder))))}
    assert {found.level for found in findings.values()} <= {"ok", "warning"}
    used = {"data repository": "data-repo.git has", "DVC remote": "dvc-remote is", "MLflow": "mlflow/mlflow.db is", "workspace": "runs is"}
    for what, place in used.items():
        assert findings[what].found.startswith(f"{odd_home}/{place}"), findings[what]
    assert findings["published folder"].found == f"{odd_home}/hub is written"
    assert [path.name for path in (tmp_path / "made").iterdir()] == [ODD], "something went elsewhere"
    assert {path.name for path in odd_home.parent.iterdir()} == {"home", base.name, source.name}


def test_every_place_is_where_its_setting_says(odd_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNS", "MIRROR", "RECIPES", "SCRATCH"):
        monkeypatch.setenv(f"LORAFLOW_{name}", f"{odd_home}/{name}")
    ours = settings()
    places = [ours.runs_folder, ours.mirror, ours.recipes, ours.scratch]
    assert places == [odd_home / name for name in ("RUNS", "MIRROR", "RECIPES", "SCRATCH")]
    assert Run(run_folder(ours.runs_folder, "tiny", "one")).folder == odd_home / "RUNS" / "tiny" / "one"
    monkeypatch.setenv("LORAFLOW_RUNS", (odd_home / "by URL").as_uri())
    assert Run(run_folder(settings().runs_folder, "tiny", "one")).folder == odd_home / "by URL" / "tiny" / "one"
    with pytest.raises(
        SettingsError, match="file:///x/C# y/tiny/one: no folder of this machine .expected: file:/// and a path, with %23 for #"
    ):
        Run(run_folder("file:///x/C# y", "tiny", "one"))


def versioned(make_run: Any, tiny_document: dict[str, Any], run_id: str, data: str = "new") -> DatasetVersion:
    run = make_run(tiny_document, run_id, run__data=data)
    if data == "new":
        parts = {name: tiny.write_part(run, name, rows) for name, rows in (("train", tiny.tweets(9)), ("test", tiny.tweets(6, seed=1)))}
        run.write(Download(BaseModelFiles("base", "1", "/base"), SourceFile("file:/x", "x", "5" * 64, 1)))
        run.write(DatasetParts("split", parts, {}))
    made = perform("version", run)
    assert isinstance(made, DatasetVersion)
    return made


@pytest.mark.parametrize("as_url", [False, True])
def test_dvcs_remote_is_an_odd_folder(as_url: bool, home: Path, tmp_path: Path, make_run: Any, tiny_document: Any) -> None:
    remote = tmp_path / "store" / ODD / "files"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAFLOW_DVC_REMOTE", remote.as_uri() if as_url else str(remote))
        made = versioned(make_run, tiny_document, "one")
        assert versioned(make_run, tiny_document, "two", "v1").data_hash == made.data_hash
    assert len(list(remote.rglob("*.dir"))) == 1 and [path.name for path in (tmp_path / "store").iterdir()] == [ODD]
    with pytest.MonkeyPatch.context() as patch:  # a team's repository: its committed configuration alone says where the files are
        patch.setenv("LORAFLOW_DATA_REPO", str(home / "data-repo.git"))
        assert versioned(make_run, tiny_document, "three", "v1").data_hash == made.data_hash
        with cloned(tmp_path) as clone:
            assert clone.remote_url == str(remote)


def test_dvcs_remote_is_an_odd_prefix_of_a_bucket(home: Path, s3: S3, make_run: Any, tiny_document: Any) -> None:
    prefix = "C a,b 100% %20 d;'e' \"f\" [g] & i+j=$k 한글"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAFLOW_DVC_REMOTE", f"{s3.url}/{prefix}")
        made = versioned(make_run, tiny_document, "one")
        assert versioned(make_run, tiny_document, "two", "v1").data_hash == made.data_hash
    assert len(s3.objects()) == 3 and all(f"/{prefix}/files/md5/" in f"/{name}" for name in s3.objects()), s3.objects()
    for letter in "{}#?":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LORAFLOW_DVC_REMOTE", f"{s3.url}/a{letter}b")
            with pytest.raises(
                SettingsError, match=rf"holds '\{letter}' \(expected: a URL without \{{ \}} # \?\)\. Fix: name another prefix"
            ):
                versioned(make_run, tiny_document, "one")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("HOME", "/a\nb", r"LORAFLOW_HOME: holds '\\n' \(expected: text without control characters and line breaks\)"),
        ("RUNS", "/a\x85b", r"LORAFLOW_RUNS: holds '\\x85'"),
        ("DVC_REMOTE", "/a\u2028b", r"LORAFLOW_DVC_REMOTE: holds '\\u2028'"),
        ("MIRROR", os.fsdecode(b"/caf\xe9"), r"LORAFLOW_MIRROR: holds '\\udce9'"),
    ],
)
def test_text_that_is_none_is_refused_with_the_settings(variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"LORAFLOW_{variable}", value)
    with pytest.raises(SettingsError, match=message):
        settings()


@pytest.mark.parametrize("name", ["100%(home)s", "'''\"\"\""])
def test_what_dvcs_configuration_cannot_hold_is_refused_before_anything_is_written(name: str, home: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("LORAFLOW_HOME", str(home / name))
    needs = Scope(settings(), None, str(settings().runs_folder))
    (found,) = (found for found in examine(by_hand(needs)) if "DVC's configuration" in found.found)
    assert (found.level, found.passing) == ("fault", False)
    home.mkdir()
    with pytest.raises(SettingsError, match="DVC remote.*rename the folder, or set LORAFLOW_DVC_REMOTE"), cloned(home):
        pass


def test_a_folder_whose_models_mlflow_would_not_find_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_HOME", str(home / "a%20b"))
    with pytest.raises(
        SettingsError, match="LORAFLOW_HOME: .*a%20b/mlflow holds '%20', which MLflow takes for ' '.*. Fix: rename the folder"
    ):
        tracking.client()
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", "http://127.0.0.1:1")
    assert settings().mlflow_database is None, "a server keeps its models itself"


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "sqlite://", "sqlite:////a?b/mlflow.db", "sqlite:///file:/a?uri=true", "sqlite:x"])
def test_an_sqlite_uri_that_names_no_file_or_another_is_refused(uri: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_MLFLOW_URI", uri)
    with pytest.raises(SettingsError, match="LORAFLOW_MLFLOW_URI: is 'sqlite:.*the absolute path of a file, with %3F for"):
        _ = settings().mlflow_database


def test_an_sqlite_uri_is_read_as_sqlalchemy_reads_it() -> None:
    path = Path("/") / ODD / "mlflow.db"
    assert sqlite_path(sqlite_uri(path)) == path
    assert sqlite_path("sqlite:////a b#c/m.db?timeout=5") == Path("/a b#c/m.db")


def test_airflow_would_replace_a_variable_in_its_paths(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAFLOW_HOME", str(home / ODD))
    configuration.check_paths(settings())
    for name in ("cash $USER_NAME", "${USER_NAME}"):
        monkeypatch.setenv("USER_NAME", "me")
        monkeypatch.setenv("LORAFLOW_HOME", str(home / name))
        with pytest.raises(SettingsError, match=r"LORAFLOW_HOME: is .*USER_NAME.*no \$ before the name of an environment variable"):
            configuration.check_paths(settings())
