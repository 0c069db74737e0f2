"""Classification by scoring label tokens: softmax over the labels' next-token logits after the prompt.

After Mozes et al. 2023, "Towards Agile Text Classifiers for Everyone" (arXiv 2302.06541).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import classification, plots
from tasks.batches import IGNORED, pad_left
from tasks.errors import DataError, RecipeError
from tasks.kinds import Encoder, Example, LossFunction
from tasks.schema import Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


def label_ids(recipe: Recipe, tokens: Encoder) -> list[int]:
    """The one token id of each label's answer, in the order of the recipe's names.

    Raises:
        RecipeError: a label's answer is not one token, or two labels share it.
    """
    where, found = f"{recipe.name}.yaml: labels.names", []
    for name in recipe.labels.names:
        answer = recipe.prompt.answer.format(label=name)
        ids = tokens.encode(answer)
        if len(ids) != 1:
            pieces = [tokens.decode([i]) for i in ids]
            raise RecipeError(
                where, f"answer {answer!r} is {len(ids)} tokens {pieces} of this base model", "one token expected", "choose another word"
            )
        found.append(ids[0])
    if len(set(found)) != len(found):
        raise RecipeError(where, f"labels share a token: {found}", "one token of its own for each label expected", "choose other words")
    return found


def check_tokens(recipe: Recipe, tokens: Encoder) -> None:
    """Raise RecipeError where a label is not one token, or the prompt without its text leaves no room for one."""
    label_ids(recipe, tokens)
    room = recipe.prompt.max_tokens - len(_frame(recipe, tokens)[0]) - len(_frame(recipe, tokens)[1]) - 2
    if room < 1:
        raise RecipeError(
            f"{recipe.name}.yaml: prompt.max_tokens",
            f"{recipe.prompt.max_tokens} tokens leave no room for the text",
            f"at least {recipe.prompt.max_tokens + 1 - room} expected",
            "raise it or shorten the template",
        )


def example(recipe: Recipe, tokens: Encoder, text: str, label: str) -> Example:
    """Prompt and answer as tokens; a text that does not fit max_tokens loses its end, never the prompt its frame.

    Raises:
        DataError: the text is empty.
    """
    if not text.strip():
        raise DataError(recipe.name, "a row's text is empty", "a text expected", "add an expectation that rejects such rows")
    before, after = _frame(recipe, tokens)
    answer = [*tokens.encode(recipe.prompt.answer.format(label=label)), tokens.eos_id]
    whole = _prompt(recipe, tokens, text)
    room = recipe.prompt.max_tokens - len(answer)
    if len(whole) <= room:
        return Example(whole, answer, cut=False)
    body = tokens.encode(text)[: room - len(before) - len(after)]
    return Example([*before, *body, *after], answer, cut=True)


def predict(
    recipe: Recipe, model: Any, tokens: Encoder, texts: Sequence[str], advance: Callable[[int], None] = lambda _: None
) -> "NDArray[np.float64]":
    """Probability of each label, renormalised over the labels.

    Args:
        recipe: says prompt, labels and batch size.
        model: causal language model, on its device, in any state (set to evaluation here).
        tokens: tokenizer of the model.
        texts: (n_rows,) the rows' texts.
        advance: told how many rows each batch did.

    Returns:
        (n_rows, n_labels), each row sums to 1.
    """
    import numpy as np
    import torch

    ids = torch.tensor(label_ids(recipe, tokens), device=model.device)
    prompts = [example(recipe, tokens, text, recipe.labels.names[0]).prompt for text in texts]
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))  # like lengths together: little padding
    scores = np.zeros((len(prompts), len(ids)))
    model.eval()
    with torch.inference_mode():
        for first in range(0, len(order), recipe.evaluate.batch_size):
            rows = order[first : first + recipe.evaluate.batch_size]
            input_ids, attention_mask = pad_left([prompts[row] for row in rows], tokens.pad_id)
            logits = model(input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device), logits_to_keep=1).logits[
                :, -1
            ]  # (B, V)
            scores[rows] = logits[:, ids].double().softmax(dim=-1).cpu().numpy()  # (B, L)
            advance(len(rows))
    return scores


def loss(recipe: Recipe, tokens: Encoder) -> LossFunction:
    """Mean cross-entropy, nats a token, over the tokens that `train.loss_on` names.

    `labels` lets the label's token compete with the other labels' tokens alone, as it does when the model is scored; the end
    token competes with the whole vocabulary.
    """
    import torch
    from torch.nn.functional import cross_entropy

    ids = torch.tensor(label_ids(recipe, tokens))

    def compute(outputs: Any, labels: "torch.Tensor", num_items_in_batch: "torch.Tensor | int | None" = None) -> "torch.Tensor":
        logits = outputs.logits[:, :-1].float()  # (B, K, V); the last position predicts nothing
        if recipe.train.loss_on == "labels":
            other = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
            other[ids.to(logits.device)] = False
            at_label = torch.isin(labels, ids.to(labels.device))  # (B, K)
            logits = logits.masked_fill(at_label[..., None] & other, float("-inf"))
        total = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum())

    return compute


def labels_of(recipe: Recipe, scores: "NDArray[np.float64]") -> list[str]:
    """The most probable label of every row; scores is (n_rows, n_labels)."""
    return [recipe.labels.names[index] for index in scores.argmax(axis=1)]


def metrics(recipe: Recipe, truth: Sequence[str], scores: "NDArray[np.float64]") -> dict[str, float]:
    """Macro F1, accuracy, ROC-AUC (one class against the rest, mean over classes) and, for two classes, F1 of the positive one.

    Args:
        recipe: says the labels.
        truth: (n_rows,) the true labels.
        scores: (n_rows, n_labels).

    Returns:
        Metric to value in [0, 1], higher is better; the names are the recipe's METRICS of this kind. Macro F1 is the mean over
        the classes that are true or predicted of some row. roc_auc is NaN where truth lacks a class.
    """
    import numpy as np

    actual = _indices(recipe, truth)
    counts = classification.confusion_counts(actual, scores.argmax(axis=1), len(recipe.labels.names))
    f1, areas = classification.f1_scores(counts), classification.roc_aucs(actual, scores)
    found = {"macro_f1": float(np.nanmean(f1)), "accuracy": float(counts.trace() / counts.sum()), "roc_auc": float(areas.mean())}
    if recipe.labels.positive is not None:
        positive = recipe.labels.names.index(recipe.labels.positive)
        found["roc_auc"] = float(areas[positive])
        found["f1"] = float(np.nan_to_num(f1[positive]))
    return found


def figures(recipe: Recipe, truth: Sequence[str], scores: "Mapping[str, NDArray[np.float64]]", folder: Path) -> dict[str, str]:
    """Draw the confusion matrix of the first model, and ROC and precision-recall curves of all of them.

    With two classes the curves are those of the positive one, otherwise there is a panel for each class.

    Args:
        recipe: says the labels.
        truth: (n_rows,) the true labels, each class at least once.
        scores: model to scores, (n_rows, n_labels); the first is the model that the evaluation is about.
        folder: where the PNG files go.

    Returns:
        Title to file name.
    """
    names = recipe.labels.names
    actual = _indices(recipe, truth)
    shown = range(len(names)) if recipe.labels.positive is None else [names.index(recipe.labels.positive)]
    first = next(iter(scores))
    counts = classification.confusion_counts(actual, scores[first].argmax(axis=1), len(names))
    drawn = {"Confusion matrix": "confusion.png", "ROC curves": "roc.png", "Precision-recall curves": "precision_recall.png"}
    plots.draw_confusion(folder / drawn["Confusion matrix"], counts, names, first)
    plots.draw_curves(folder / drawn["ROC curves"], "roc", actual, scores, names, shown)
    plots.draw_curves(folder / drawn["Precision-recall curves"], "precision-recall", actual, scores, names, shown)
    return drawn


def _indices(recipe: Recipe, truth: Sequence[str]) -> "NDArray[np.intp]":
    """Place of every label among the recipe's names, (n_rows,)."""
    import numpy as np

    place = {name: index for index, name in enumerate(recipe.labels.names)}
    return np.array([place[label] for label in truth], dtype=np.intp)


def _prompt(recipe: Recipe, tokens: Encoder, text: str) -> list[int]:
    filled = recipe.prompt.template.replace("{labels}", ", ".join(recipe.labels.names)).replace("{text}", text)
    start = [] if tokens.bos_id is None else [tokens.bos_id]
    return [*start, *tokens.encode(filled)]


def _frame(recipe: Recipe, tokens: Encoder) -> tuple[list[int], list[int]]:
    """Tokens of the template before and after the text."""
    before, after = recipe.prompt.template.replace("{labels}", ", ".join(recipe.labels.names)).split("{text}")
    start = [] if tokens.bos_id is None else [tokens.bos_id]
    return [*start, *tokens.encode(before)], tokens.encode(after)
