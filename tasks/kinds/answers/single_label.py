"""What kinds share that give every row one label: a score for each label, metrics over them, figures.

Columns of a prediction: `label`, and `score_<label>` for each label in the recipe's order; a row's scores sum to 1.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.kinds.base import Columns, Metrics, Row, Wording
from tasks.metrics import classification, plots
from tasks.schema.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LABEL, SCORE = "label", "score_"


def columns_of(recipe: Recipe, scores: "NDArray[np.float64]") -> Columns:
    """The columns of scores, (n_rows, n_labels); the most probable label is the row's."""
    names = recipe.labels.names
    said: Columns = {LABEL: [names[index] for index in scores.argmax(axis=1)]}
    return said | {SCORE + name: scores[:, index] for index, name in enumerate(names)}


def scores_of(recipe: Recipe, columns: Columns) -> "NDArray[np.float64]":
    """The scores of columns, (n_rows, n_labels), labels in the order of this recipe."""
    import numpy as np

    return np.stack([np.asarray(columns[SCORE + name], dtype=np.float64) for name in recipe.labels.names], axis=1)


def response(recipe: Recipe) -> dict[str, Literal["string", "double"]]:
    """Names and types of the columns."""
    return {LABEL: "string", **{SCORE + name: "double" for name in recipe.labels.names}}


def majority(recipe: Recipe, label: str, rows: Sequence[Row]) -> Columns:
    """Columns of a model that is sure of one label whatever the text."""
    import numpy as np

    scores = np.zeros((len(rows), len(recipe.labels.names)))
    scores[:, recipe.labels.names.index(label)] = 1
    return columns_of(recipe, scores)


def metrics(recipe: Recipe, rows: Sequence[Row], columns: Columns) -> Metrics:
    """Macro F1, accuracy, ROC-AUC (one class against the rest, mean over classes) and, for two classes, F1 of the positive one.

    Args:
        recipe: says the labels.
        rows: the test rows, their `label` true.
        columns: what a model made of them.

    Returns:
        Function of row numbers to metric and value in [0, 1], higher is better. Macro F1 is the mean over the classes that are true
        or predicted of some row. roc_auc is NaN where truth lacks a class.
    """
    import numpy as np

    names, truth, scores = recipe.labels.names, _truth(recipe, rows), scores_of(recipe, columns)
    predicted = scores.argmax(axis=1)

    def of_draw(draw: "NDArray[np.intp]") -> dict[str, float]:
        counts = classification.confusion_counts(truth[draw], predicted[draw], len(names))
        f1, areas = classification.f1_scores(counts), classification.roc_aucs(truth[draw], scores[draw])
        found = {"macro_f1": float(np.nanmean(f1)), "accuracy": float(counts.trace() / counts.sum()), "roc_auc": float(areas.mean())}
        if recipe.labels.positive is not None:
            positive = names.index(recipe.labels.positive)
            found["roc_auc"] = float(areas[positive])
            found["f1"] = float(np.nan_to_num(f1[positive]))
        return found

    return of_draw


def figures(recipe: Recipe, rows: Sequence[Row], columns: Mapping[str, Columns], folder: Path) -> dict[str, str]:
    """Draw the confusion matrix of the first model, and ROC and precision-recall curves of all of them.

    With two classes the curves are those of the positive one, otherwise there is a panel for each class.

    Args:
        recipe: says the labels.
        rows: the test rows, each class at least once.
        columns: model to what it made of them; the first is the model that the evaluation is about.
        folder: where the PNG files go.

    Returns:
        Title to file name.
    """
    names, truth = recipe.labels.names, _truth(recipe, rows)
    shown = range(len(names)) if recipe.labels.positive is None else [names.index(recipe.labels.positive)]
    scores = {model: scores_of(recipe, said) for model, said in columns.items()}
    first = next(iter(scores))
    counts = classification.confusion_counts(truth, scores[first].argmax(axis=1), len(names))
    drawn = {"Confusion matrix": "confusion.png", "ROC curves": "roc.png", "Precision-recall curves": "precision_recall.png"}
    plots.draw_confusion(folder / drawn["Confusion matrix"], counts, names, first)
    plots.draw_curves(folder / drawn["ROC curves"], "roc", truth, scores, names, shown)
    plots.draw_curves(folder / drawn["Precision-recall curves"], "precision-recall", truth, scores, names, shown)
    return drawn


def wording(recipe: Recipe, training: str) -> Wording:
    """What is said of a model that sorts texts into classes.

    Args:
        recipe: says the labels.
        training: what a training row is and where its loss lies, a sentence.
    """
    positive = recipe.labels.positive
    return Wording(
        task="text-classification",
        purpose="Sorting texts in the language above into the labels above, as one signal among others: to queue content for people who "
        "moderate it, to measure shares in a collection of texts, to compare systems on the same task.",
        limits=(
            "**No statement about an author**: it labels a text, it does not find out who somebody is or what they believe.",
            "**No text generation.** The model was trained to name a label; what else it writes was neither trained nor tested.",
            "**No threshold as it stands**: the scores are probabilities over the labels that nobody has calibrated.",
        ),
        training=training,
        metrics=f"f1 and roc_auc count {positive} as found." if positive else "roc_auc is the mean of each class against the rest.",
        agreement="same label",
        difference="a score",
        text="A text to label.",
    )


def _truth(recipe: Recipe, rows: Sequence[Row]) -> "NDArray[np.intp]":
    """Place of every row's label among the recipe's names, (n_rows,)."""
    import numpy as np

    place = {name: index for index, name in enumerate(recipe.labels.names)}
    return np.array([place[row["label"]] for row in rows], dtype=np.intp)
