"""`loraflow demo` at the shell: the real base model and the real tweets, on few rows."""

import re
from pathlib import Path

import pytest

from tasks.local_servers import supervisor
from tasks.schema import load as recipes
from tasks.settings import Settings
from tasks.workspace.files import link_or_copy
from tests.pipeline.shell import Shell

pytestmark = [pytest.mark.trains, pytest.mark.timeout(1800)]


def test_the_demo_on_few_rows(tmp_path: Path) -> None:
    """Both come out of packages, from the caches of this checkout where they are.

    Fewer rows are scored than the demo scores, of which the base model alone takes minutes on two cores; that the demo's own parts are
    those of data.dvc, and that a run says so, is in tests/data/test_demo_data.py.
    """
    recipe = recipes.load(recipes.RECIPES / "tweets.yaml")
    recipe["split"] |= {"test": 30, "validation": 12}
    recipe["evaluate"] = {"parity_rows": 8}
    shell = Shell(tmp_path, {"tweets": recipe})
    here = Settings().home
    for cache in ("models", "sources"):
        if (here / cache).is_dir():
            link_or_copy(here / cache, shell.places.home / cache)
    code, said = shell.type("prefetch", "tweets")
    if code == 75:
        pytest.skip(f"the demo's packages are not to be had here: {said.splitlines()[-1]}")
    assert code == 0, said
    code, said = shell.type("demo", "--param", "rows=16", "--param", "promotion=never")
    assert code == 0, said
    assert "data/tweets/v1 (new, not what data.dvc pins)" in said
    assert re.search(r"Rows read +38,\d{3}\n", said) and re.search(r"Rows rejected +\d,\d{3}: ", said)
    assert "The same 30 test rows, 95% intervals" in said and re.search(r"Model in MLflow +tweets version 1", said)
    assert not shell.processes() and not supervisor.is_running(shell.places)
