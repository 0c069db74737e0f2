"""The pictures of an evaluation, among them learning curve, confusion matrix, ROC and precision-recall curves; and of a sweep.

Colours are Okabe and Ito's, told apart with any kind of colour sight; lines differ by their dashes as well.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks.metrics.characters import written_out

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LINES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"))
"""Colour and dashes of the first, second, … model."""

KOREAN = "NanumGothic"
"""The font that comes with the package koreanize-matplotlib."""

FONTS = ("DejaVu Sans", "Noto Sans CJK KR", KOREAN)
"""Tried in this order for each letter, where they are there."""

DOTS_PER_INCH = 144


def draw_confusion(
    path: Path, counts: "NDArray[np.intp]", names: Sequence[str], model: str, *, predicted: Sequence[str] | None = None
) -> None:
    """The confusion matrix: rows of each true class by predicted class, shaded by their share of the true class.

    Args:
        path: PNG file to write.
        counts: (n_classes, n_predicted), true by predicted.
        names: the classes.
        model: whose it is.
        predicted: what may be predicted, where that is more than the classes.
    """
    plt = _pyplot()
    names, said = drawable(names), drawable(predicted or names)
    classes = len(said)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    side = max(3.6, 0.9 * classes + 1.8)
    figure, axes = plt.subplots(figsize=(side + 0.8, side), layout="constrained")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for true in range(len(names)):
        for column in range(classes):
            share = shares[true, column]
            text = f"{counts[true, column]}\n{share:.0%}"
            axes.text(column, true, text, ha="center", va="center", color="white" if share > 0.7 else "black")
    slanted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if classes > 3 else {}
    axes.set_xticks(range(classes), said, **slanted)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true", title=f"Confusion matrix, {model} model")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)


def draw_shares(path: Path, values: Mapping[str, Sequence[float]], what: str) -> None:
    """How a figure of the rows is spread: for every model the share of rows at or below each value.

    Args:
        path: PNG file to write.
        values: model to (n_rows,) values.
        what: the figure's name.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    for (model, of_model), (colour, dashes) in zip(values.items(), LINES, strict=False):
        axes.ecdf(of_model, color=colour, linestyle=dashes, linewidth=2, label=model)
    axes.set(xlabel=what, ylabel="share of rows at or below", ylim=(0, 1.02))
    axes.grid(color="0.92")
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)


def draw_curves(
    path: Path,
    which: Literal["roc", "precision-recall"],
    truth: "NDArray[np.intp] | NDArray[np.bool_]",
    scores: "Mapping[str, NDArray[np.float64]]",
    names: Sequence[str],
    shown: Sequence[int],
) -> None:
    """Curves of every model, one panel for each shown class against the rest.

    Args:
        path: PNG file to write.
        which: ROC curves with their area, or precision-recall curves with the average precision.
        truth: (n_rows,) the true classes, or where a row may have several (n_rows, n_classes), true or false.
        scores: model to scores, (n_rows, n_classes).
        names: the classes.
        shown: the classes that get a panel.
    """
    plt, names = _pyplot(), drawable(names)
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure, grid = plt.subplots(lines, columns, figsize=(4.3 * columns, 4.2 * lines), layout="constrained", squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, index in zip(grid.flat, shown, strict=False):
        found = truth == index if truth.ndim == 1 else truth[:, index].astype(bool)
        if which == "roc":
            axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=(0, (1, 3)), label="chance 0.500")
        else:
            axes.axhline(found.mean(), color="0.6", linewidth=1, linestyle=(0, (1, 3)), label=f"chance {found.mean():.3f}")
        for (model, of_model), (colour, dashes) in zip(scores.items(), LINES, strict=False):
            x, y, area = _curve(which, found, of_model[:, index])
            step = {"drawstyle": "steps-post"} if which == "precision-recall" else {}
            axes.plot(x, y, color=colour, linestyle=dashes, linewidth=2, label=f"{model} {area:.3f}", **step)
        labels = ("false positive rate", "true positive rate") if which == "roc" else ("recall", "precision")
        axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), title=names[index], aspect="equal")
        axes.grid(color="0.92")
        title = "area under the curve" if which == "roc" else "average precision"
        axes.legend(loc="lower right" if which == "roc" else "lower left", title=title, fontsize="small", title_fontsize="small")
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)


def draw_bars(path: Path, values: "Mapping[str, NDArray[np.float64]]", names: Sequence[str], what: str) -> None:
    """A group of bars for each class, a bar for each model.

    Args:
        path: PNG file to write.
        values: model to (n_classes,), in [0, 1].
        names: the classes.
        what: what the values are.
    """
    plt, names = _pyplot(), drawable(names)
    height = 0.8 / len(values)
    figure, axes = plt.subplots(figsize=(7.5, max(3.0, 0.28 * len(names) * len(values) + 1.4)), layout="constrained")
    for number, ((model, of_model), (colour, _), hatch) in enumerate(zip(values.items(), LINES, ("", "//", "..", "xx"), strict=False)):
        places = [place + number * height for place in range(len(names))]
        bars = axes.barh(places, of_model, height, color=colour, hatch=hatch, edgecolor="white", label=model)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize="small")
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(names))], names)
    axes.invert_yaxis()
    axes.set(xlabel=what, xlim=(0, 1.1))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(values), frameon=False)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)


def draw_learning(path: Path, losses: Mapping[str, Mapping[int, float]]) -> None:
    """The losses of a training over its steps.

    Args:
        path: PNG file to write.
        losses: part of the data set to step to loss, nats a token.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(5.6, 4), layout="constrained")
    for (part, of_part), (colour, dashes), marker in zip(losses.items(), LINES, ("", "s"), strict=False):
        axes.plot(list(of_part), list(of_part.values()), color=colour, linestyle=dashes, marker=marker, label=part)
    axes.set(xlabel="optimiser steps", ylabel="loss, nats a token", title="Learning curve", ylim=(0, None))
    axes.grid(color="0.92")
    if losses:
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)


def draw_epochs(path: Path, values: Mapping[int, Mapping[int, Sequence[float]]], metric: str) -> None:
    """A metric over the epochs of a training: a line for each training size, and mean and spread where a size has several seeds.

    Args:
        path: PNG file to write.
        values: training rows to number of epochs to the value of each seed, the one that all sizes share first.
        metric: its name.
    """
    import numpy as np

    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    for (rows, line), (colour, dashes), marker in zip(sorted(values.items(), reverse=True), cycle(LINES), cycle("osD^"), strict=False):
        epochs = np.array(list(line))
        axes.plot(
            epochs, [of_seeds[0] for of_seeds in line.values()], color=colour, linestyle=dashes, marker=marker, label=f"{rows:,} rows"
        )
        if (seeds := min(map(len, line.values()))) > 1:
            of_seeds = np.array([list(line[number])[:seeds] for number in epochs])  # (n_epochs, n_seeds)
            mean, spread = of_seeds.mean(axis=1), of_seeds.std(axis=1, ddof=1)
            axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
            label = f"{rows:,} rows, mean of {seeds} seeds ± standard deviation"
            axes.plot(epochs, mean, color=colour, linewidth=1, alpha=0.6, label=label)
    axes.set_xticks(sorted({number for line in values.values() for number in line}))
    axes.set(xlabel="epochs", ylabel=metric, title=f"{metric} on the test part")
    axes.grid(color="0.92")
    figure.legend(loc="outside lower center", fontsize="small")  # below: lines may be anywhere
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)


def _curve(which: str, found: "NDArray[np.bool_]", scores: "NDArray[np.float64]") -> tuple[Any, Any, float]:
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    if which == "roc":
        false_positive_rate, true_positive_rate, _ = roc_curve(found, scores)
        return false_positive_rate, true_positive_rate, float(roc_auc_score(found, scores))
    precision, recall, _ = precision_recall_curve(found, scores)
    return recall, precision, float(average_precision_score(found, scores))


def drawable(names: Sequence[str]) -> list[str]:
    """Names as they can be drawn: a character that no font here has a picture of is written out."""
    from matplotlib import font_manager

    fonts = [font_manager.get_font(font_manager.findfont(family)) for family in _pyplot().rcParams["font.family"]]
    seen = {letter: letter.isprintable() and any(font.get_char_index(ord(letter)) for font in fonts) for letter in set("".join(names))}
    return ["".join(letter if seen[letter] else written_out(letter) for letter in name) for name in names]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import font_manager, pyplot

    there = set(font_manager.get_font_names())
    if KOREAN not in there:
        package = importlib.util.find_spec("koreanize_matplotlib")  # not imported: it would set fonts of its own
        assert package is not None and package.origin is not None, "a dependency"
        font_manager.fontManager.addfont(str(Path(package.origin).parent / "fonts" / "NanumGothic.ttf"))
        there.add(KOREAN)
    pyplot.rcParams["font.family"] = [font for font in FONTS if font in there]
    pyplot.rcParams["text.parse_math"] = False  # a label may hold two dollar signs
    return pyplot
