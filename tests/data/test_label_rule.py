"""The label rules: one good and one bad field for each, and the recipe's order."""

from typing import Any

import pytest

from tasks.data.label_rule import Misfit, labels_of
from tasks.schema.labels import Labels

REJECT = "reject such rows with expect_column_values_to_{} under validate.expectations"


def rule(**keys: Any) -> Labels:
    return Labels.model_validate({"names": ["a", "b", "c"], "rule": keys})


def test_the_label_itself() -> None:
    plain = Labels(names=("negative", "neutral", "positive"))
    assert labels_of({"label": "neutral"}, plain) == ("neutral",)
    for field in ("Neutral", "neutral ", "", "?"):
        assert isinstance(labels_of({"label": field}, plain), Misfit)
    fault = labels_of({"label": "neutrl"}, plain, "mood")
    assert isinstance(fault, Misfit) and (fault.column, fault.value) == ("mood", "neutrl")
    assert fault.remedy.startswith("did you mean neutral?")


def test_a_threshold() -> None:
    keys = {"by": "threshold", "threshold": 0.333, "at_or_above": "yes", "below": "no"}
    labels = Labels.model_validate({"names": ["no", "yes"], "positive": "yes", "rule": keys})
    assert [labels_of({"label": field}, labels) for field in ("0.333", "0.3329", "1")] == [("yes",), ("no",), ("yes",)]
    for field in ("", "nan"):
        assert labels_of({"label": field}, labels, "x") == Misfit("x", field, "a number", REJECT.format("be_between"))


def test_a_column_each() -> None:
    labels = rule(by="columns", columns={"b": "B", "a": "A"}, none="c")
    assert labels_of({"rule:A": "1", "rule:B": "1"}, labels) == ("a", "b"), "in the recipe's order"
    assert labels_of({"rule:A": "0", "rule:B": "1.0"}, labels) == ("b",)
    assert labels_of({"rule:A": "0", "rule:B": "0"}, labels) == ("c",)
    for field in ("2", "", "yes"):
        assert labels_of({"rule:A": "0", "rule:B": field}, labels) == Misfit("B", field, "1 or 0", REJECT.format("be_in_set"))
    without = Labels.model_validate({"names": ["a", "b"], "positive": "a", "rule": {"by": "columns", "columns": {"a": "A", "b": "B"}}})
    assert labels_of({"rule:A": "0", "rule:B": "0"}, without) == ()


def test_a_list_of_indexes() -> None:
    labels = rule(by="indexes", indexes={"a": 24, "b": 5, "c": 42}, separator=";")
    assert labels_of({"label": "0;5; 6"}, labels) == ("b",)
    assert labels_of({"label": "42;24"}, labels) == ("a", "c")
    assert labels_of({"label": "2;4"}, labels) == labels_of({"label": ""}, labels) == ()
    for field in ("5,6", "5;", "five", "-5", "5.0"):
        assert labels_of({"label": field}, labels, "x") == Misfit(
            "x", field, "whole numbers with ';' between them", REJECT.format("match_regex")
        )


def test_the_opening_words() -> None:
    words = {"a": ["positivo", "muy bien"], "b": ["negativo"]}
    labels = rule(by="opening", opening=words, otherwise={"column": "guess", "values": {"P": "a", "U": "c"}})
    for text, expected in (
        ("Positivo. Y más", "a"), ("\u00a0 MUY BIEN, gracias", "a"), ("negativo", "b"),
        ("Positivos", "c"), (": Positivo", "c"), ("Nada. Positivo", "c"), ("", "c"),
    ):  # fmt: skip
        assert labels_of({"label": text, "rule:guess": "U"}, labels) == (expected,), text
    assert labels_of({"label": "", "rule:guess": "N"}, labels) == Misfit("guess", "N", "one of ['P', 'U']", REJECT.format("be_in_set"))
    alone = Labels.model_validate({"names": ["a", "b"], "positive": "a", "rule": {"by": "opening", "opening": words}})
    assert labels_of({"label": "Nada"}, alone) == ()


@pytest.mark.parametrize(
    ("labels", "columns"),
    [
        (rule(by="columns", columns={"a": "A", "b": "B"}, none="c"), ("A", "B")),
        (rule(by="indexes", indexes={"a": 1, "b": 2, "c": 3}), ()),
        (rule(by="opening", opening={"a": ["x"], "b": ["y"], "c": ["z"]}), ()),
    ],
)
def test_columns_that_a_rule_reads(labels: Labels, columns: tuple[str, ...]) -> None:
    assert labels.columns() == columns
