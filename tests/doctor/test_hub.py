"""The Hub: who the token is of, and a base model that is gated, private, or not there; the index and addresses of data files."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from tasks.contracts import Finding
from tasks.doctor import hub, inputs
from tasks.doctor.findings import Check, examine
from tasks.doctor.scope import Scope
from tasks.schema.load import resolve
from tasks.schema.recipe import Recipe
from tasks.settings import settings
from tests.support.file_server import COMMIT, FileServer, Served

NAME = "team/tiny"


@pytest.fixture
def server(home: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A Hub, which this process's client takes for its own, and a token."""
    with FileServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_planted_token")
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("LORAFLOW_HUB", "hub:team")
        monkeypatch.delenv("LORAFLOW_MIRROR", raising=False)
        yield server


def rights(recipe: Any = None) -> list[Finding]:
    scope = Scope(settings(), recipe, "/nowhere")
    return list(examine([Check("Hub token", lambda: hub.hub_rights(scope))]))


def says(server: FileServer, token: dict[str, Any] | None, orgs: dict[str, str | None], name: str = "somebody") -> None:
    listed = [{"name": org, **({"roleInOrg": role} if role else {})} for org, role in orgs.items()]
    who = {"type": "user", "name": name, "orgs": listed, "auth": {"type": "access_token", "accessToken": token} if token else {}}
    server.files["/api/whoami-v2"] = Served(json.dumps(who).encode())


def fine(name: str, *permissions: str) -> dict[str, Any]:
    return {"role": "fineGrained", "fineGrained": {"scoped": [{"entity": {"type": "org", "name": name}, "permissions": permissions}]}}


@pytest.mark.parametrize(
    ("token", "orgs", "level", "found"),
    [
        ({"role": "write"}, {"team": "write"}, "ok", "of somebody, may write to team"),
        ({"role": "write"}, {"team": None}, "ok", "of somebody, may write to team"),
        ({"role": "write"}, {"team": "read"}, "fault", "somebody has the role read in team (expected: one of admin, write, contributor)"),
        ({"role": "write"}, {"others": "admin"}, "fault", "it is of somebody, who is no member of team"),
        ({"role": "read"}, {"team": "admin"}, "fault", "it may only read"),
        (fine("team", "repo.content.read", "repo.write"), {"team": "admin"}, "ok", "fine-grained, may write to the repositories of team"),
        (fine("team", "repo.content.read"), {"team": "admin"}, "fault", "without the right to write to the repositories of team"),
        (fine("others", "repo.write"), {"team": "admin"}, "fault", "without the right to write to the repositories of team"),
        (None, {"team": "write"}, "warning", "the Hub does not say what it may do"),
    ],
)
def test_what_a_token_may_do(server: FileServer, token: Any, orgs: Any, level: str, found: str) -> None:
    says(server, token, orgs)
    (finding,) = rights()
    assert (finding.level, finding.passing) == (level, False) and found in finding.found
    assert bool(finding.remedy) == (level != "ok")
    assert server.tokens == ["Bearer hf_planted_token"]


def test_ones_own_namespace(server: FileServer) -> None:
    says(server, {"role": "write"}, {}, name="team")
    assert rights()[0].level == "ok"


def test_a_token_that_is_no_longer_good_and_a_hub_that_is_away(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.refuse("/api/whoami-v2", 401, "")
    (finding,) = rights()
    assert (finding.level, finding.passing) == ("fault", False)
    assert finding.found == "the Hub refuses it (HTTP 401): it is wrong, expired or revoked"
    assert finding.remedy == f"make a new one at {server.url}/settings/tokens"
    server.refuse("/api/whoami-v2", 502, "")
    (finding,) = rights()
    assert (finding.level, finding.passing) == ("fault", True) and finding.found == "the Hub was not reached (HTTP 502)"
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    (finding,) = rights()
    assert (finding.level, finding.passing) == ("fault", True) and "planted" not in str(finding)


def test_nobody_is_asked_where_nothing_is_published(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for push, promotion in ((False, "auto"), (True, "never")):
        assert rights(SimpleNamespace(run=SimpleNamespace(push=push, promotion=promotion))) == []
    monkeypatch.setenv("LORAFLOW_HUB", "folder:/somewhere")
    assert rights() == [] and server.log == []


def base_model(recipe: Recipe) -> Finding:
    scope = Scope(settings(), recipe, "/nowhere")
    return next(finding for finding in examine([Check("base model", lambda: inputs.base_model(scope))]) if finding.what == "base model")


@pytest.fixture
def recipe(server: FileServer) -> Any:
    """As much of a recipe as the checks of what is fetched look at."""
    pods = SimpleNamespace(steps="all")
    train, run = SimpleNamespace(fp16=False), SimpleNamespace(data="new")
    return SimpleNamespace(base_model=SimpleNamespace(name=NAME, revision=None), train=train, run=run, pods=pods)


def test_a_model_that_may_be_read_and_one_that_does_not_suit(
    server: FileServer, tiny_document: dict[str, Any], tiny_base: Path, home: Path
) -> None:
    """The doctor says of a model on the Hub what `download` would, from its small files."""
    files = {path.name: path.read_bytes() for path in tiny_base.iterdir()}
    server.add_model(NAME, files | {"onnx/model.safetensors": b"y" * 9000})
    document = {**tiny_document, "base_model": {"name": NAME, "dtype": "float32"}}
    found = base_model(resolve(document))
    assert found == Finding("base model", "ok", f"{NAME} may be read, 0.0 GB of weights, revision {COMMIT[:12]}")
    assert not server.asked("safetensors") and not (home / "models" / f"hub--team--tiny--{COMMIT}").exists()
    cached = home / "models" / f"hub--team--tiny--{COMMIT}"
    shutil.copytree(tiny_base, cached)
    before = len(server.log)
    assert base_model(resolve(document)).level == "ok"
    assert len(server.log) == before + 1, "of a model in the cache the commit is asked for, no file"
    shutil.rmtree(cached)
    lora = {**document["lora"], "target_modules": ["q_proj", "query_key_value"]}
    found = base_model(resolve({**document, "lora": lora}))
    assert (found.level, found.passing) == ("fault", False) and "'query_key_value' is no layer of this base model" in found.found
    assert [asked for _, path, asked in server.log if "safetensors" in path] == ["bytes=0-100000"], "the head of the weights alone"
    long = resolve({**document, "prompt": {**document["prompt"], "max_tokens": 600}})
    faults = [each.found for each in examine([Check("base model", lambda: inputs.base_model(Scope(settings(), long, "/nowhere")))])]
    assert "tiny.yaml: prompt.max_tokens: is 600, the base model has 512 positions (expected: at most 512)" in faults


def test_a_gated_model_lists_its_files_all_the_same(server: FileServer, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add_model(NAME, {"config.json": b"{}", "model.safetensors": b"x"})
    server.refuse(f"/{NAME}/resolve/{COMMIT}/config.json", 403, "GatedRepo")
    found = base_model(recipe)
    assert (found.level, found.passing, found.found) == ("fault", False, f"{NAME} on the Hub: gated (expected: access)")
    page = f"accept the terms at {server.url}/{NAME}"
    assert found.remedy.endswith(f"{page} with the account of the token, which must have the right to read gated repositories")
    monkeypatch.delenv("HF_TOKEN")
    server.refuse(f"/{NAME}/resolve/{COMMIT}/config.json", 401, "GatedRepo")
    assert base_model(recipe).remedy == f"ask for it on the model's page and set HF_TOKEN: {page}"


def test_a_model_that_is_not_there_and_one_whose_hub_is_away(server: FileServer, recipe: Any) -> None:
    server.refuse(f"/api/models/{NAME}", 401, "RepoNotFound")
    found = base_model(recipe)
    assert (found.level, found.passing) == ("fault", False) and found.found.startswith(
        f"{NAME} on the Hub: no such model, or a private one"
    )
    server.refuse(f"/api/models/{NAME}", 503, "")
    assert base_model(recipe).passing


def test_a_commit_that_is_none_becomes_no_folder(server: FileServer, recipe: Any) -> None:
    info = {"id": NAME, "sha": "../../../etc", "siblings": []}
    server.files[f"/api/models/{NAME}"] = Served(json.dumps(info).encode())
    found = base_model(recipe)
    assert found.level == "fault" and "names '../../../etc' as its commit (expected: a hash)" in found.found


def data_file(recipe: Any, **source: Any) -> Finding:
    from tasks.schema.data import Source

    recipe.data = SimpleNamespace(tables=lambda: (SimpleNamespace(source=Source(**source)),))
    scope = Scope(settings(), recipe, "/nowhere")
    (finding,) = examine([Check("data file", lambda: inputs.data_files(scope))])
    return finding


SHA = "0" * 64


def test_a_file_at_an_address_is_asked_for_one_byte(server: FileServer, recipe: Any) -> None:
    server.files["/data.csv"] = Served(b"x" * 100_000)
    server.files["/empty.csv"] = Served(b"")
    url = f"{server.url}/data.csv"
    assert data_file(recipe, url=url, sha256=SHA).found == f"url: {url}: may be fetched"
    assert server.log == [("GET", "/data.csv", "bytes=0-0")]
    assert data_file(recipe, url=f"{server.url}/empty.csv", sha256=SHA).level == "ok"
    gone = data_file(recipe, url=f"{server.url}/gone.csv", sha256=SHA)
    assert (gone.level, gone.passing) == ("fault", False) and "HTTP 404" in gone.found
    server.files["/data.csv"].statuses = [503]
    assert data_file(recipe, url=url, sha256=SHA).passing
    refused = data_file(recipe, url="http://127.0.0.1:9/x", sha256=SHA)
    assert refused.passing and "(expected: the file)" in refused.found


def test_a_data_set_on_the_hub(server: FileServer, recipe: Any) -> None:
    server.add_dataset("team/rows", {"all/rows.csv": b"text"})
    source = {"hub": "team/rows", "revision": COMMIT, "sha256": SHA}
    assert data_file(recipe, member="all/rows.csv", **source).found == f"hub: team/rows@{COMMIT}, all/rows.csv: may be fetched"
    server.refuse(f"/datasets/team/rows/resolve/{COMMIT}/all/none.csv", 404, "EntryNotFound")
    missing = data_file(recipe, member="all/none.csv", **source)
    assert (missing.level, missing.passing) == ("fault", False)


def test_a_package_of_the_index(server: FileServer, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = [f"some_rows-{version}-py3-none-any.whl" for version in ("1.0", "2.0")]
    for wheel in wheels:
        server.files[f"/simple/some-rows/{wheel}"] = Served(b"no wheel, and nobody fetches it")
    names = "".join(f'<a href="{wheel}">{wheel}</a>' for wheel in wheels)
    server.files["/simple/some-rows/"] = Served(names.encode(), headers={"Content-Type": "text/html"})
    for name in ("PIP_CONFIG_FILE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": f"{server.url}/simple"}.get(name, ""))
    rows = {"member": "rows.csv", "sha256": SHA}
    assert data_file(recipe, pypi="some-rows==1.0", **rows).level == "ok"
    assert not server.asked(".whl")
    other = data_file(recipe, pypi="some-rows==3.0", **rows)
    assert (other.level, other.passing) == (
        "fault",
        False,
    ) and "no such version (expected: one of the index's versions: 2.0, 1.0)" in other.found
    assert data_file(recipe, pypi="no-rows==1.0", **rows).level == "fault"


def test_data_that_the_run_does_not_make_are_not_looked_for(server: FileServer, recipe: Any) -> None:
    recipe.run.data = "latest"
    scope = Scope(settings(), recipe, "/nowhere")
    assert examine([Check("data file", lambda: inputs.data_files(scope))]) == ()
