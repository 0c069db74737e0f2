"""Fixtures of the tests that run through Airflow."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.pipeline.airflow_servers import Airflow, running
from tests.support import tiny
from tests.support.quick_steps import with_quick_steps


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run these tests first: they take longest, and while they wait the others have the cores."""
    items.sort(key=lambda item: "pipeline" not in item.path.parts)


@pytest.fixture(scope="module")  # its servers use a core even where nothing runs
def airflow(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_csv: Path) -> Iterator[Airflow]:
    """A real Airflow, its steps quick ones, with the recipe `tiny`, which has a grid, and `hasty`, where a reviewer has a minute."""
    folder = tmp_path_factory.mktemp("pipeline")
    recipes, home = folder / "recipes", folder / "home"
    recipes.mkdir()
    home.mkdir()
    grid = {"rows": [12, 24], "epochs": [1, 2], "metrics": ["macro_f1", "roc_auc"], "repeat_rows": 12, "repeat_seeds": [4]}
    for name, changes in (("tiny", {"sweep": grid}), ("hasty", {"run": {"promotion": "manual", "approval_hours": 0.015}})):
        document = tiny.recipe_document(tiny_base, tiny_csv, name) | changes
        (recipes / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    with running(home, recipes, with_quick_steps({})) as started:
        yield started
