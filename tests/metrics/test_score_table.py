"""The table of scores, in which the reviewer, the model card, the report and the end of a run show the same figures."""

import math

from tasks.contracts import Evaluation, Parity, Score, Scores, Verdict
from tasks.metrics import markdown
from tasks.metrics.score_table import score_table


def evaluation(tuned: Scores, majority: Scores | None = None, champion: Scores | None = None) -> Evaluation:
    version = 3 if champion else None
    base = {"macro_f1": Score(0.25, 0.2, 0.3)}
    return Evaluation(60, tuned, base, majority, champion, version, Parity(16, 16, 0.0), Verdict(True, ()), "p", {}, "r")


def test_each_model_has_a_column_and_each_metric_of_the_tuned_one_a_row() -> None:
    tuned = {"macro_f1": Score(0.613, 0.55, 0.66), "log_likelihood": Score(-2.5, -2.75, -2.25)}
    always, before = {"macro_f1": Score(0.1, 0.1, 0.1)}, {"macro_f1": Score(0.5, 0.4, 0.6), "accuracy": Score(1, 1, 1)}
    assert score_table(evaluation(tuned, always, before)).markdown().splitlines() == [
        "| metric | tuned | base model | majority class | champion (version 3) |",
        "|---|---|---|---|---|",
        "| macro_f1 | 0.613 (0.550 to 0.660) | 0.250 (0.200 to 0.300) | 0.100 (0.100 to 0.100) | 0.500 (0.400 to 0.600) |",
        "| log_likelihood | -2.500 (-2.750 to -2.250) | - | - | - |",
    ]


def test_models_that_were_not_scored_have_no_column_and_the_page_names_its_own_model() -> None:
    found = score_table(evaluation({"macro_f1": Score(0.5, 0.4, 0.6)}), "this model", "predecessor")
    assert found.head == ["metric", "this model", "base model"]
    before = {"macro_f1": Score(0.5, 0.4, 0.6)}
    assert score_table(evaluation(before, champion=before), "this model", "predecessor").head[-1] == "predecessor (version 3)"


def test_a_score_that_is_not_a_number_is_a_dash() -> None:
    ((_, cells),) = score_table(evaluation({"roc_auc": Score(math.nan, math.nan, math.nan)})).rows
    assert [(cell.value, cell.interval, str(cell)) for cell in cells] == [("-", "", "-")] * 2


def test_no_cell_breaks_a_markdown_table() -> None:
    assert markdown.table(["a|b", ""], [["one\n two", 3]]) == "| a\\|b |  |\n|---|---|\n| one two | 3 |"
