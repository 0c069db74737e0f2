"""Every metric has a name of its own in MLflow, and its value under it."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contracts import Score
from tasks.metrics import plots
from tasks.metrics.characters import spelled_out
from tasks.registry import tracking
from tasks.registry.metric_names import LONGEST, metric_names
from tasks.schema import load as recipes
from tasks.workspace.run import Run

ALIKE = [
    ["👎", "😐", "👍", "👍🏽", "👍\ufe0f"],
    ["C++", "C#", "C", "c"],
    ["a/b", "a:b", "a b", "a?b", "a//b", "a/../b", "a/"],
    ["Hate", "hate", "HATE"],
    ["\u00e9", "e\u0301", "e", "\u00c9"],
    ["\uac00", "\u1100\u1161"],
    ["x", "x.low", "x.high", "x.low.high", "x "],
    ["हिंदी", "हिंदू", "اردو"],
    ["x" * 300, "x" * 299 + "y", "👎" * 40, "👎" * 41],
    ["\u200b", "\ufeff", "\t", "\n", "_", "__", "."],
]


def test_names_that_recipes_have_today_stay(tmp_path: Path) -> None:
    names = recipes.resolve(recipes.load(recipes.RECIPES / "unsmile.yaml")).labels.names
    kept = metric_names([*(f"f1_{name}" for name in names), "micro_f1", "macro_f1", "lrap", "exact_match", "parsed"])
    assert kept.pop("f1_LGBTQ+") == "f1_LGBTQ_"
    assert all(metric == name for metric, name in kept.items()) and len(kept) == len(names) + 4
    assert metric_names(["f1_무감정", "f1_슬픔"]) == {"f1_무감정": "f1_무감정", "f1_슬픔": "f1_슬픔"}


def test_names_can_be_read() -> None:
    assert metric_names(["f1_👎", "f1_👍"]) == {"f1_👎": "f1_:thumbs down sign:", "f1_👍": "f1_:thumbs up sign:"}
    assert list(metric_names(["f1_C++", "f1_C#"]).values()) == ["f1_C:plus sign::plus sign:", "f1_C:number sign:"]
    assert list(metric_names(["f1_Hate", "f1_hate"]).values()) == ["f1_:latin capital letter h:ate", "f1_hate"]


@pytest.mark.parametrize("labels", ALIKE, ids=lambda labels: ascii(labels[0])[:12])
def test_each_metric_of_labels_that_look_alike_has_its_own_value_in_mlflow(labels: list[str], trained: Run) -> None:
    """In a real store, with the values of all of them, and with the bounds of their intervals."""
    scores = {f"f1_{label}": Score(number, number - 0.25, number + 0.25) for number, label in enumerate(labels)}
    with tracking.tracked(trained) as tracked:
        tracking.metrics(tracked, tracking.figures_of("champion", scores))
    logged = tracking.client().get_run(tracked.run_id).data.metrics
    found = {metric: [logged[f"champion.{name}{end}"] for end in ("", ".low", ".high")] for metric, name in metric_names(scores).items()}
    assert found == {metric: [score.value, score.low, score.high] for metric, score in scores.items()}
    assert len([name for name in logged if name.startswith("champion.")]) == 3 * len(labels)
    assert len({re.sub(r"\s+$", "", name).casefold() for name in logged}) == len(logged), "where case and spaces at the end do not count"


@given(st.sets(st.text(max_size=6), min_size=1, max_size=8))
def test_no_two_names_are_equal_whatever_the_labels(labels: set[str]) -> None:
    metrics = [f"f1_{label}" for label in labels if not re.search("[\ud800-\udfff]", label)]
    names = metric_names(metrics)
    assert len({f"{name}{end}" for name in names.values() for end in ("", ".low", ".high")}) == 3 * len(names)
    assert names == metric_names(reversed(metrics)), "the same in any order"
    assert all(re.fullmatch(r"[\w\-./ :]+", name) and len(name) <= LONGEST for name in names.values())


def test_a_name_says_which_characters_were_there() -> None:
    import unicodedata

    def back(name: str) -> str:
        return re.sub(":([^:]+):", lambda found: unicodedata.lookup(found[1]), name)

    for text in ("C++ # a:b", "👎🏽 no", "é é"):
        assert back(spelled_out(text, str.isalnum)) == text
    assert spelled_out("a\x07b", str.isalnum) == "a:u7:b", "a character without a name"


def test_charts_show_labels_apart_that_no_font_has_pictures_of(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    import numpy as np

    labels = ["👎", "👍🏽", "a:b", "무감정", "$_$", "tab\t"]
    assert plots.drawable(labels) == [":thumbs down sign:", ":thumbs up sign::emoji modifier fitzpatrick type-4:", *labels[2:5], "tab:u9:"]
    truth = np.arange(12) % len(labels)
    said = {"tuned": np.eye(len(labels))[truth]}
    plots.draw_confusion(tmp_path / "confusion.png", np.eye(len(labels), dtype=int), labels, "tuned")
    plots.draw_curves(tmp_path / "curves.png", "roc", truth, said, labels, range(len(labels)))
    plots.draw_bars(tmp_path / "bars.png", {"tuned": np.ones(len(labels))}, labels, "F1")
    assert [str(warning.message) for warning in recwarn if "missing from font" in str(warning.message)] == []
