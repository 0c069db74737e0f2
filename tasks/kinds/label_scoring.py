"""Classification by scoring label tokens: softmax over the labels' next-token logits after the prompt.

After Mozes et al. 2023, "Towards Agile Text Classifiers for Everyone" (arXiv 2302.06541).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks import single_label
from tasks.batches import IGNORED, pad_left
from tasks.errors import RecipeError
from tasks.framing import check_room, framed, template
from tasks.generation import by_length
from tasks.kinds import Advance, Columns, Encoder, Example, LossFunction, Row, Wording, silent
from tasks.schema import Recipe
from tasks.single_label import figures, majority, metrics, response

if TYPE_CHECKING:
    import torch

__all__ = [
    "HEAD", "assess", "check_tokens", "example", "figures", "loss", "majority", "metrics", "respond", "response", "snippet", "wording",
]  # fmt: skip

HEAD = "causal"

LOSS_ON = {
    "labels": "label, where its token competes with the other labels' alone, and on the end token",
    "answer": "label and the end token",
    "sequence": "prompt, the label and the end token",
}
"""What `train.loss_on` means, in a sentence that begins: loss on the."""


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
    check_room(recipe, tokens, answer=2)  # the label and the end token


def example(recipe: Recipe, tokens: Encoder, row: Row) -> Example:
    """Prompt and answer as tokens; a text that does not fit max_tokens loses its end, never the prompt its frame.

    Raises:
        DataError: the text is empty.
    """
    answer = [*tokens.encode(recipe.prompt.answer.format(label=row["label"])), tokens.eos_id]
    prompt, cut = framed(recipe, tokens, row["text"], recipe.prompt.max_tokens - len(answer))
    return Example(prompt, answer, cut)


def respond(recipe: Recipe, model: Any, tokens: Encoder, texts: Sequence[str], advance: Advance = silent) -> Columns:
    """The most probable label of every text, and the probability of each, renormalised over the labels.

    Args:
        recipe: says prompt, labels and batch size.
        model: causal language model, on its device, in any state (set to evaluation here).
        tokens: tokenizer of the model.
        texts: (n_rows,) the texts.
        advance: told how many rows each batch did.

    Returns:
        The columns of `tasks.single_label`.
    """
    import numpy as np
    import torch

    ids = torch.tensor(label_ids(recipe, tokens), device=model.device)
    prompts = [example(recipe, tokens, {"text": text, "label": recipe.labels.names[0]}).prompt for text in texts]
    scores = np.zeros((len(prompts), len(ids)))
    model.eval()
    with torch.inference_mode():
        for rows in by_length(prompts, recipe.evaluate.batch_size):
            input_ids, attention_mask = pad_left([prompts[row] for row in rows], tokens.pad_id)
            logits = model(input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device), logits_to_keep=1).logits[
                :, -1
            ]  # (B, V)
            scores[rows] = logits[:, ids].double().softmax(dim=-1).cpu().numpy()  # (B, L)
            advance(len(rows))
    return single_label.columns_of(recipe, scores)


def assess(recipe: Recipe, model: Any, tokens: Encoder, rows: Sequence[Row], advance: Advance = silent) -> Columns:
    """What the model answers to the rows' texts, as `respond`."""
    return respond(recipe, model, tokens, [row["text"] for row in rows], advance)


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


def snippet(recipe: Recipe) -> str:
    """Python that scores a text as `respond` does."""
    prompt = template(recipe)
    answers = [recipe.prompt.answer.format(label=name) for name in recipe.labels.names]
    return f"""labels = {list(recipe.labels.names)!r}
answers = [tokenizer.encode(answer, add_special_tokens=False)[0] for answer in {answers!r}]
prompt = {prompt!r}.replace("{{text}}", "A text to label.")
with torch.inference_mode():
    logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]  # (vocabulary,)
scores = logits[answers].double().softmax(dim=-1).tolist()
print(dict(zip(labels, scores)))"""


def wording(recipe: Recipe) -> Wording:
    """What the model card and the evaluation's report say of it."""
    return single_label.wording(recipe, f"The prompt, then the label and the end token; loss on the {LOSS_ON[recipe.train.loss_on]}.")
