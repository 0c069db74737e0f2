"""What kinds share whose rows may have several labels: columns, metrics over them, figures.

Columns of a prediction: `labels`, joined by "|" in the recipe's order and empty where the answer did not parse; `parsed`, 1 or 0;
and `score_<label>` for each label, a probability of its own. The label of rows that have none of the others (none-label) is one
of them; it has no part in micro_f1 and macro_f1, which ask how well the others are found.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.kinds.answers.label_answers import none_label
from tasks.kinds.answers.single_label import SCORE, scores_of
from tasks.kinds.base import Columns, Metrics, Row, labels_of
from tasks.metrics import plots
from tasks.schema.recipe import LABEL_SEPARATOR, Recipe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LABELS, PARSED = "labels", "parsed"


def columns_of(recipe: Recipe, answers: Sequence[Sequence[str] | None], scores: "NDArray[np.float64]") -> Columns:
    """The columns of answers, None where one did not parse, and of scores, (n_rows, n_labels)."""
    import numpy as np

    said: Columns = {LABELS: [LABEL_SEPARATOR.join(answer or ()) for answer in answers]}
    said[PARSED] = np.array([float(answer is not None) for answer in answers])
    return said | {SCORE + name: scores[:, index] for index, name in enumerate(recipe.labels.names)}


def response(recipe: Recipe) -> dict[str, Literal["string", "double"]]:
    """Names and types of the columns."""
    return {LABELS: "string", PARSED: "double", **{SCORE + name: "double" for name in recipe.labels.names}}


def majority(recipe: Recipe, label: str, rows: Sequence[Row]) -> Columns:
    """Columns of a model that is sure of one label whatever the text."""
    import numpy as np

    scores = np.zeros((len(rows), len(recipe.labels.names)))
    scores[:, recipe.labels.names.index(label)] = 1
    return columns_of(recipe, [[label]] * len(rows), scores)


def metrics(recipe: Recipe, rows: Sequence[Row], columns: Columns) -> Metrics:
    """F1, ranking and exact match of rows with several labels.

    Args:
        recipe: says the labels.
        rows: the test rows, their `label` true.
        columns: what a model made of them.

    Returns:
        Function of row numbers to metric and value in [0, 1], higher is better: micro_f1 and macro_f1 over the labels but the
        none-label (macro: the mean over those true or said of some row), `f1_<label>` for every label, lrap (label ranking average
        precision of the scores), exact_match (share of rows with all labels right), parsed (share of answers that parse).
    """
    import numpy as np

    names, none = recipe.labels.names, none_label(recipe)
    truth, said, parsed = _truth(recipe, rows), _said(recipe, columns), np.asarray(columns[PARSED], dtype=np.float64)
    hits, either = truth & said, truth.astype(int) + said.astype(int)
    ranking, exact = _average_precisions(truth, scores_of(recipe, columns)), (truth == said).all(axis=1)
    counted = [index for index, name in enumerate(names) if name != none]

    def of_draw(draw: "NDArray[np.intp]") -> dict[str, float]:
        found, total = 2 * hits[draw].sum(axis=0), either[draw].sum(axis=0)  # (L,)
        f1 = np.where(total > 0, found / np.maximum(total, 1), np.nan)
        seen = f1[counted][~np.isnan(f1[counted])]
        return {
            "micro_f1": float(found[counted].sum() / max(total[counted].sum(), 1)),
            "macro_f1": float(seen.mean()) if len(seen) else 0.0,
            "lrap": float(ranking[draw].mean()),
            "exact_match": float(exact[draw].mean()),
            "parsed": float(parsed[draw].mean()),
            **{f"f1_{name}": float(value) for name, value in zip(names, f1, strict=True)},
        }

    return of_draw


def figures(recipe: Recipe, rows: Sequence[Row], columns: Mapping[str, Columns], folder: Path) -> dict[str, str]:
    """Draw each label's F1 as bars, the majority's beside the models', and a precision-recall panel for each label.

    Args:
        recipe: says the labels.
        rows: the test rows, each label at least once.
        columns: model to what it made of them.
        folder: where the PNG files go.

    Returns:
        Title to file name.
    """
    import numpy as np

    names, truth = recipe.labels.names, _truth(recipe, rows)
    always = names[int(truth.sum(axis=0).argmax())]
    everyone = np.arange(len(rows))
    bars = {}
    for model, said in {**columns, "majority": majority(recipe, always, rows)}.items():
        found = metrics(recipe, rows, said)(everyone)
        bars[model] = np.array([found[f"f1_{name}"] for name in names])
    drawn = {"F1 of each label": "f1.png", "Precision-recall curves": "precision_recall.png"}
    plots.draw_bars(folder / drawn["F1 of each label"], bars, names, "F1")
    scores = {model: scores_of(recipe, said) for model, said in columns.items()}
    plots.draw_curves(folder / drawn["Precision-recall curves"], "precision-recall", truth, scores, names, range(len(names)))
    return drawn


def _truth(recipe: Recipe, rows: Sequence[Row]) -> "NDArray[np.bool_]":
    """Which labels each row has, (n_rows, n_labels)."""
    return _marks(recipe, [labels_of(row) for row in rows])


def _said(recipe: Recipe, columns: Columns) -> "NDArray[np.bool_]":
    """Which labels each answer names, (n_rows, n_labels); none at all where it did not parse."""
    return _marks(recipe, [str(cell).split(LABEL_SEPARATOR) for cell in columns[LABELS]])


def _marks(recipe: Recipe, labels: Sequence[Sequence[str]]) -> "NDArray[np.bool_]":
    import numpy as np

    return np.array([[name in of_row for name in recipe.labels.names] for of_row in labels], dtype=bool)


def _average_precisions(truth: "NDArray[np.bool_]", scores: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Label ranking average precision of each row, (n_rows,): of its true labels, the share of true ones among those ranked as high.

    Source: Tsoumakas, Katakis, Vlahavas 2010, "Mining Multi-label Data".
    """
    import numpy as np

    as_high = scores[:, None, :] >= scores[:, :, None]  # (n_rows, label, other)
    precision = (as_high & truth[:, None, :]).sum(axis=2) / as_high.sum(axis=2)
    return np.asarray((precision * truth).sum(axis=1) / truth.sum(axis=1))
