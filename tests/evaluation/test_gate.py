"""The gate: a pure function of the evidence that fails closed."""

import math
from dataclasses import replace

import pytest

from tasks.contracts import Parity, Score, Scores
from tasks.evaluation.gate import Champion, Evidence, verdict
from tasks.schema.recipe import Gate

GATE = Gate(metric="macro_f1", floors={"macro_f1": 0.5, "roc_auc": 0.75}, margin=0.01)


def scores(macro_f1: float, roc_auc: float = 0.8) -> Scores:
    return {"macro_f1": Score(macro_f1, 0, 1), "roc_auc": Score(roc_auc, 0, 1)}


GOOD = Evidence(scores(0.661), scores(0.163), scores(0.2), Parity(64, 64, 0.000213), Champion(3, scores(0.655)))


def refused(evidence: Evidence, gate: Gate = GATE) -> list[str]:
    found = verdict(gate, evidence)
    lines = [line for line in found.reasons if line.startswith("refused: ")]
    assert found.passed == (not lines)
    return lines


def test_every_check_held_has_its_line() -> None:
    found = verdict(GATE, GOOD)
    assert found.passed
    assert found.reasons == (
        "macro_f1 0.661 >= 0.500 (floor)",
        "roc_auc 0.800 >= 0.750 (floor)",
        "merged model and adapter: the same on 64 of 64 rows, largest difference 0.00021",
        "macro_f1 0.661 > 0.163 (base model)",
        "macro_f1 0.661 > 0.200 (majority class)",
        "macro_f1 0.661 >= 0.655 - 0.010 (champion, version 3)",
    )


def test_the_first_challenger_has_no_champion() -> None:
    found = verdict(GATE, replace(GOOD, champion=None))
    assert found.passed and found.reasons[-1] == "no champion yet to compare with"


@pytest.mark.parametrize(
    ("quantized", "warned"),
    [
        (Parity(64, 64, 0.2), False),
        (Parity(64, 61, 0.2), False),  # 3 of 64 are 4.7 %
        (Parity(20, 19, 0.2), False),  # 5 %
        (Parity(64, 60, 0.2), True),
        (Parity(64, 0, 0.2), True),
        (Parity(64, 64, math.nan), True),
    ],
)
def test_the_gap_to_the_quantised_base_is_warned_of_and_refuses_nothing(quantized: Parity, warned: bool) -> None:
    found, without = verdict(GATE, replace(GOOD, quantized=quantized)), verdict(GATE, GOOD)
    assert found.passed
    line = f"the same on {quantized.same_labels} of {quantized.rows} rows, largest difference {quantized.largest_difference:.2g}"
    expected = [f"warning: merged model and adapter on the quantised base: {line}"] if warned else []
    assert list(found.reasons) == [*without.reasons[:3], *expected, *without.reasons[3:]]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"tuned": scores(0.661, 0.7)}, "refused: roc_auc 0.700 < 0.750 (floor)"),
        ({"parity": Parity(64, 63, 0.3)}, "refused: merged model and adapter: the same on 63 of 64 rows, largest difference 0.3"),
        ({"parity": Parity(0, 0, 0.0)}, "refused: merged model and adapter: the same on 0 of 0 rows, largest difference 0"),
        (
            {"parity": Parity(64, 64, math.nan)},
            "refused: merged model and adapter: the same on 64 of 64 rows, largest difference nan",
        ),
        ({"base": scores(0.661)}, "refused: macro_f1 0.661 <= 0.661 (base model)"),
        ({"majority": scores(0.7)}, "refused: macro_f1 0.661 <= 0.700 (majority class)"),
        ({"champion": Champion(3, scores(0.672))}, "refused: macro_f1 0.661 < 0.672 - 0.010 (champion, version 3)"),
        ({"champion": Champion(3, None, "other labels")}, "refused: no comparison with the champion, version 3: other labels"),
        ({"champion": Champion(3, None)}, "refused: no comparison with the champion, version 3: it has no scores"),
        ({"champion": Champion(3, scores(math.nan))}, "refused: macro_f1 0.661, not >= unknown - 0.010 (champion, version 3)"),
        ({"base": {}}, "refused: macro_f1 0.661, not > unknown (base model)"),
        ({"majority": scores(math.nan)}, "refused: macro_f1 0.661, not > unknown (majority class)"),
    ],
)
def test_one_broken_check_refuses(change: dict[str, object], line: str) -> None:
    assert refused(replace(GOOD, **change)) == [line]  # type: ignore[arg-type]


def test_a_figure_that_is_missing_or_no_number_refuses_each_check_that_needs_it() -> None:
    for tuned in (scores(math.nan), scores(math.inf), {"roc_auc": Score(0.8, 0, 1)}):
        assert refused(replace(GOOD, tuned=tuned)) == [
            "refused: macro_f1 unknown, not >= 0.500 (floor)",
            "refused: macro_f1 unknown, not > 0.163 (base model)",
            "refused: macro_f1 unknown, not > 0.200 (majority class)",
            "refused: macro_f1 unknown, not >= 0.655 - 0.010 (champion, version 3)",
        ]


def test_a_floor_of_a_metric_that_nobody_measured_refuses() -> None:
    gate = Gate(metric="macro_f1", floors={"chrf": 0.1})
    assert refused(GOOD, gate) == ["refused: chrf unknown, not >= 0.100 (floor)"]
    assert refused(GOOD, Gate(metric="macro_f1", floors={"macro_f1": math.nan})) == ["refused: macro_f1 0.661, not >= unknown (floor)"]


def test_the_margin_is_met_exactly_whatever_the_bits() -> None:
    gate = Gate(metric="macro_f1", margin=0.03)
    for value, champion in ((0.29, 0.32), (0.41, 0.44), (0.43, 0.46)):
        assert value < champion - gate.margin, "by less than a float's grain: 0.32 - 0.03 is 0.29000000000000004"
        assert not refused(replace(GOOD, tuned=scores(value), champion=Champion(1, scores(champion))), gate)


def test_figures_are_told_apart_by_as_many_digits_as_it_takes() -> None:
    assert refused(replace(GOOD, tuned=scores(0.49996)))[0] == "refused: macro_f1 0.49996 < 0.50000 (floor)"


def test_base_and_majority_count_only_where_the_recipe_says_so() -> None:
    gate = Gate(metric="macro_f1", beats_base=False)
    assert not refused(replace(GOOD, base=scores(0.9), majority=scores(0.9)), gate)
