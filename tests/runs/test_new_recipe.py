"""docs/new_recipe.md does what it says: its recipe, word by word, from a data file to the published model."""

import random
import re
from pathlib import Path

import pytest

from tasks.contracts import STEPS, DatasetVersion, Evaluation, Promotion, Publication, ValidRows
from tasks.schema import load as recipes
from tasks.settings import CHECKOUT
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny

pytestmark = pytest.mark.trains


def write_reviews(path: Path) -> None:
    """300 made-up reviews, a quote in some, and three rows that the expectations reject."""
    draw = random.Random(1)
    lines = []
    for number, (text, label) in enumerate([row for row in tiny.tweets(450) if row[1] != "neutral"]):
        score = draw.uniform(0.5, 1) if label == "positive" else draw.uniform(0, 0.49)
        quote = '"' if number % 7 == 0 else ""
        lines.append(f"{8000 + number}\t{quote}{text}\t{score:.2f}")
    lines += ["9001\t\t0.30", "9002\tthe table\t1.70", "9003\ttoo few columns"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.timeout(600)
def test_the_recipe_of_the_page_runs(home: Path, tiny_base: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (CHECKOUT / "docs/new_recipe.md").read_text(encoding="utf-8"), flags=re.S)
    (home / "recipes").mkdir(parents=True)
    (home / "recipes/reviews.yaml").write_text(block, encoding="utf-8")
    document = recipes.load(home / "recipes/reviews.yaml")
    assert recipes.resolve(document, "local").train.rows == 200
    write_reviews(home / "reviews.tsv")
    places = {"data.source.file": str(home / "reviews.tsv"), "base_model.name": f"folder:{tiny_base}", "base_model.dtype": "float32"}
    tiny_model = {"train.learning_rate": 5e-3, "evaluate.parity_rows": 16, "evaluate.resamples": 200}
    run = Run(home / "runs/reviews/first")
    run.folder.mkdir(parents=True)
    run.freeze(recipes.resolve(document, "full", places | tiny_model))
    for step in STEPS:
        perform(step, run)
    rows = run.read(ValidRows)
    assert (rows.read, rows.valid) == (303, 300)
    assert rows.rejected == {"no text": 1, "score out of range": 1, "wrong number of fields": 1}
    assert run.read(DatasetVersion).tag == "data/reviews/v1"
    assert run.read(Evaluation).tuned["macro_f1"].value > 0.9
    assert run.read(Promotion).promoted and Path(run.read(Publication).model_card).exists()
