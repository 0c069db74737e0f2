"""Base models of the Hub's families, from a Hub on loopback that behaves as the real one."""

import hashlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tasks.errors import RecipeError
from tasks.fetch.base_checks import check_base
from tasks.fetch.base_models import Base, fetch_base
from tasks.schema import load as recipes
from tasks.workspace.progress import Progress
from tests.support import tiny
from tests.support.hub_families import FAMILIES
from tests.support.hub_models import ModelHub, model_hub, taken_for_the_hub
from tests.support.hub_repositories import NOT_FETCHED, write
from tests.support.hub_server import TOKEN

LAYERS = {"gpt2": "c_attn", "neox": "query_key_value", "phi3": "qkv_proj"}
"""A layer of each family that is not called as most have it."""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Short name of each family to a folder with its repository, weights and all."""
    folder = tmp_path_factory.mktemp("families")
    return {name: write(family, folder / name) for name, family in FAMILIES.items()}


@pytest.fixture
def hub(repositories: dict[str, Path], home: Path) -> Iterator[ModelHub]:
    """A Hub with all families, which this process's client takes for its own."""
    with model_hub() as state, taken_for_the_hub(state, home):
        for name, folder in repositories.items():
            state.add(FAMILIES[name].name, folder)
        yield state


def fetch(name: str, revision: str | None = None, target: str = "q_proj") -> Base:
    """Fetch a model as `download` does for a recipe that adapts one sort of layer."""
    document = tiny.recipe_document(Path("/none"), Path("/none.csv"))
    document["base_model"] = {"name": name, "dtype": "float32"}
    document["lora"]["target_modules"] = [target]
    document["prompt"]["max_tokens"], document["evaluate"]["label_score"] = 400, "log_probability"
    check = partial(check_base, recipes.resolve(document))
    return fetch_base(name, revision, check, lambda *what: Progress(None, "download", *what))


@pytest.mark.parametrize("short", FAMILIES)
def test_a_repository_is_found_good_and_comes_whole_and_nothing_else_of_it(hub: ModelHub, short: str) -> None:
    family = FAMILIES[short]
    base, published = fetch(family.name, target=LAYERS.get(short, "q_proj")), hub.repositories[family.name].files
    assert base.revision == hub.commit(family.name)
    got = set(os.listdir(base.folder))
    code = {name for name in published if name.endswith(".py")}
    assert not got & {*NOT_FETCHED, *code, ".gitattributes", "original"}
    weights = {name for name in published if name.endswith(".safetensors") and name not in NOT_FETCHED}
    assert {"config.json", "tokenizer_config.json", "README.md", "LICENSE", *weights} <= got
    assert all((base.folder / name).read_bytes() == published[name] for name in got)
    asked = hub.asked(family.name)
    assert max(asked.index(name) for name in asked if name.endswith(".json")) < min(asked.index(name) for name in weights)
    assert set(asked) == got


def test_a_large_file_that_is_cut_goes_on_where_it_stopped(hub: ModelHub) -> None:
    name = FAMILIES["bertin"].name
    hub.cuts = [10**9, 10**9, 200_000]  # the tokenizer and the head of the weights whole, the weights cut
    base = fetch(name)
    weights = hub.repositories[name].files["model.safetensors"]
    assert hub.ranges[-2:] == [None, "bytes=200000-"]
    assert hashlib.sha256((base.folder / "model.safetensors").read_bytes()).digest() == hashlib.sha256(weights).digest()


def test_a_gated_repository(hub: ModelHub, home: Path) -> None:
    """It tells everybody its files, and shows its README; configuration and weights are for those who were given access."""
    name = FAMILIES["llama2"].name
    hub.gated[name] = False
    terms = f"accept the terms at {hub.url}/{name}"
    with pytest.raises(RecipeError, match=rf"^{name} on the Hub: gated \(expected: access\)\. Fix: .* set HF_TOKEN: {terms}$"):
        fetch(name)
    with taken_for_the_hub(hub, home, token=TOKEN):
        with pytest.raises(RecipeError, match=f"{terms} with the account of the token, which must have the right to read gated"):
            fetch(name)
        hub.gated[name] = True
        assert (fetch(name).folder / "model.safetensors.index.json").exists()


def test_what_is_not_there_or_not_shown(hub: ModelHub, home: Path) -> None:
    known = FAMILIES["gpt2"].name
    hub.repositories[known].private = True
    hidden = r"no such model, or a private one \(expected: a model that HF_TOKEN may read\)\. Fix: correct base_model.name"
    for token, name, revision, message in (
        ("", "team/nothing", None, f"^team/nothing on the Hub: {hidden}$"),
        ("", known, None, f"^{known} on the Hub: {hidden}$"),
        (TOKEN, "team/nothing", None, f"^team/nothing on the Hub: {hidden}$"),
        (
            TOKEN,
            known,
            "v9",
            rf"^{known} on the Hub: no revision v9 \(expected: a commit, branch or tag\)\. Fix: correct "
            rf"base_model.revision$",
        ),
        ("hf_wrong", known, None, rf"^{known} on the Hub: HTTP 401 \(expected: access\)\. Fix: set HF_TOKEN to a token that may read it$"),
    ):
        with taken_for_the_hub(hub, home, token=token), pytest.raises(RecipeError, match=message):
            fetch(name, revision)
