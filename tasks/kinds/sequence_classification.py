"""Classification by a head on the model: one score for each label from the last token's hidden state.

The head is new, trained in full beside the adapter, and saved with it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.errors import DataError
from tasks.kinds.answers import prompt as framing
from tasks.kinds.answers import single_label
from tasks.kinds.answers.generation import by_length
from tasks.kinds.answers.prompt import build_prompt, check_room, template
from tasks.kinds.answers.single_label import figures, majority, response
from tasks.kinds.base import Advance, Columns, Example, LossFunction, Metrics, Row, Wording, no_progress
from tasks.model.batches import inputs_of, pad_left
from tasks.model.tokenizer import Tokens
from tasks.schema.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

__all__ = [
    "HEAD", "assess", "check_tokens", "example", "figures", "loss", "majority", "metrics", "respond", "response", "snippet", "wording",
]  # fmt: skip

HEAD = "classification"


def check_tokens(recipe: Recipe, tokens: Tokens) -> None:
    """Raise RecipeError where the prompt without its text leaves no room for one."""
    check_room(recipe, tokens, answer=0)


def example(recipe: Recipe, tokens: Tokens, row: Row) -> Example:
    """The prompt as tokens, and the class's number; a text that does not fit max_tokens loses its end.

    Raises:
        DataError: the text is empty, or the label is none of the recipe's.
    """
    names = recipe.labels.names
    prompt, cut = build_prompt(recipe, tokens, row["text"], recipe.prompt.max_tokens)
    if row["label"] not in names:
        raise DataError(recipe.name, f"a row's label is {row['label']!r:.60}", f"one of {list(names)}", "split again")
    return Example(prompt, [names.index(row["label"])], cut)


def loss(recipe: Recipe, tokens: Tokens) -> LossFunction:
    """Mean cross-entropy over rows, nats, each row's multiplied by its class's weight where the recipe weighs classes."""
    import torch
    from torch.nn.functional import cross_entropy

    weights = torch.tensor(recipe.train.class_weights) if recipe.train.class_weights else None

    def compute(outputs: Any, labels: "torch.Tensor", num_items_in_batch: "torch.Tensor | int | None" = None) -> "torch.Tensor":
        logits = outputs.logits.float()  # (B, L)
        weight = None if weights is None else weights.to(logits.device)
        total = cross_entropy(logits, labels[:, 0], weight=weight, reduction="sum")
        return total / (num_items_in_batch if num_items_in_batch is not None else len(labels))

    return compute


def respond(recipe: Recipe, model: Any, tokens: Tokens, texts: Sequence[str], advance: Advance = no_progress) -> Columns:
    """The most probable label of every text, and the probability of each.

    Args:
        recipe: says prompt, labels and batch size.
        model: with a head over the labels, on its device, in any state (set to evaluation here).
        tokens: tokenizer of the model.
        texts: (n_rows,) the texts.
        advance: told how many rows each batch did.

    Returns:
        The columns of `tasks.kinds.answers.single_label`.
    """
    import numpy as np
    import torch

    prompts = [example(recipe, tokens, {"text": text, "label": recipe.labels.names[0]}).prompt for text in texts]
    scores = np.zeros((len(prompts), len(recipe.labels.names)))
    model.eval()
    with torch.inference_mode():
        for rows in by_length(prompts, recipe.evaluate.batch_size):
            logits = model(**inputs_of(model, pad_left([prompts[row] for row in rows], tokens.pad_id))).logits  # (B, L)
            scores[rows] = logits.double().softmax(dim=-1).cpu().numpy()
            advance(len(rows))
    return single_label.columns_of(recipe, scores)


def assess(recipe: Recipe, model: Any, tokens: Tokens, rows: Sequence[Row], advance: Advance = no_progress) -> Columns:
    """What the model answers to the rows' texts, as `respond`."""
    return respond(recipe, model, tokens, [row["text"] for row in rows], advance)


def metrics(recipe: Recipe, rows: Sequence[Row], columns: Columns) -> Metrics:
    """Those of `tasks.kinds.answers.single_label`, and precision, recall and F1 weighted by the true classes' rows.

    A class that is never predicted has precision 0, as in scikit-learn.
    """
    import numpy as np

    names = recipe.labels.names
    place = {name: index for index, name in enumerate(names)}
    truth = np.array([place[row["label"]] for row in rows], dtype=np.intp)
    predicted = single_label.scores_of(recipe, columns).argmax(axis=1)
    shared = single_label.metrics(recipe, rows, columns)

    def of_draw(draw: "NDArray[np.intp]") -> dict[str, float]:
        return shared(draw) | weighted(truth[draw], predicted[draw], len(names))

    return of_draw


def weighted(truth: "NDArray[np.intp]", predicted: "NDArray[np.intp]", classes: int) -> dict[str, float]:
    """Precision, recall and F1 of each class, averaged by the classes' true rows."""
    import numpy as np

    from tasks.metrics.classification import confusion_counts

    counts = confusion_counts(truth, predicted, classes)
    right, true, said = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    share = true / true.sum()
    return {
        "weighted_f1": float(share @ (2 * right / np.maximum(true + said, 1))),
        "weighted_precision": float(share @ (right / np.maximum(said, 1))),
        "weighted_recall": float(share @ (right / np.maximum(true, 1))),
    }


def snippet(recipe: Recipe) -> str:
    """Python that scores a text as `respond` does."""
    return f"""{framing.snippet(repr(template(recipe)))}

with torch.inference_mode():
    logits = model(input_ids=torch.tensor([encode("A text to label.")])).logits[0]  # (labels,)
scores = logits.double().softmax(dim=-1).tolist()
print(dict(zip({list(recipe.labels.names)!r}, scores)))"""


def wording(recipe: Recipe) -> Wording:
    """What the model card and the evaluation's report say of it."""
    return single_label.wording(recipe, "The prompt, whose last token's hidden state the head reads; cross-entropy over the labels.")
