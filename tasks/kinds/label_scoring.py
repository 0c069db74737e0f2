"""Classification by scoring labels after the prompt: softmax over the labels, of what `evaluate.label_score` names.

`token`: the next-token logits, each label being one token. After Mozes et al. 2023, "Towards Agile Text Classifiers for Everyone"
(arXiv 2302.06541).

`log_probability`: the summed log-probability of each label's whole answer, any number of tokens ("rank classification"; Sanh et al.
2022, "Multitask Prompted Training Enables Zero-Shot Task Generalization", arXiv 2110.08207). It is not divided by the answer's
length: the scores are the probabilities of the answers, given that one of them is said. That asks for answers of which no two can be
said at once. So, where one begins another (`hate`, `hate speech`), the end token counts as part of all of them: without it the longer
one could never win. Where none does, the end token says nothing that parts them and is left out; labels of one token each then score
as with `token`.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

from tasks.errors import DataError, RecipeError
from tasks.kinds.answers import generation, single_label
from tasks.kinds.answers import prompt as framing
from tasks.kinds.answers.generation import answers_log_probabilities, by_length
from tasks.kinds.answers.prompt import build_prompt, check_room, template
from tasks.kinds.answers.single_label import figures, majority, metrics, response
from tasks.kinds.base import Advance, Columns, Example, LossFunction, Row, Wording, no_progress
from tasks.model.batches import IGNORED, inputs_of, pad_left
from tasks.model.tokenizer import Tokens
from tasks.schema.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

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


def label_ids(recipe: Recipe, tokens: Tokens) -> list[int]:
    """The one token id of each label's answer, in the order of the recipe's names.

    Raises:
        RecipeError: a label's answer is not one token, or two labels share it.
    """
    where, found = f"{recipe.name}.yaml: labels.names", []
    for answer, ids in zip(_answers(recipe), _encoded(recipe, tokens), strict=True):
        if len(ids) != 1:
            several = f"answer {answer!r} is {len(ids)} tokens {[tokens.decode([i]) for i in ids]} of this base model"
            raise RecipeError(where, several, "one token", "choose another word, or set evaluate.label_score: log_probability")
        found.append(ids[0])
    if len(set(found)) != len(found):
        raise RecipeError(where, f"labels share a token: {found}", "one token of its own for each label", "choose other words")
    return found


def scored_answers(recipe: Recipe, tokens: Tokens) -> list[list[int]]:
    """The token ids whose log-probabilities make each label's score, in the order of the recipe's names.

    The end token is among them where one label's answer begins another's.

    Raises:
        RecipeError: two labels are the same tokens, or the end token, which tells two of them apart, is not trained.
    """
    where, answers = f"{recipe.name}.yaml", _encoded(recipe, tokens)
    pairs = permutations(zip(recipe.labels.names, answers, strict=True), 2)
    begun = [(one, other) for one, other in pairs if other[1][: len(one[1])] == one[1]]
    for (one, ids), (other, longer) in begun:
        if ids == longer:
            found = f"{one!r} and {other!r} are the same tokens {ids} of this base model"
            raise RecipeError(f"{where}: labels.names", found, "labels that differ", "choose other words")
        if not recipe.train.loss_on_end:
            found = f"is false where the answer of {one!r} begins that of {other!r}"
            raise RecipeError(f"{where}: train.loss_on_end", found, "a trained end token", "remove it, or choose other words")
    return [[*ids, tokens.eos_id] for ids in answers] if begun else answers


def check_tokens(recipe: Recipe, tokens: Tokens) -> None:
    """Raise RecipeError where a label cannot be scored as the recipe says, or prompt and longest answer leave no room for a text."""
    if recipe.evaluate.label_score == "token":
        label_ids(recipe, tokens)
    else:
        scored_answers(recipe, tokens)
    check_room(recipe, tokens, _longest(recipe, tokens))


def example(recipe: Recipe, tokens: Tokens, row: Row) -> Example:
    """Prompt and answer as tokens; a text that does not fit max_tokens loses its end, never the prompt its frame.

    The room is that beside the longest label's answer, so that the prompt is the same whatever the row's label.

    Raises:
        DataError: the text is empty, or the label is none of the recipe's.
    """
    names = recipe.labels.names
    if row["label"] not in names:
        raise DataError(recipe.name, f"a row's label is {row['label']!r:.60}", f"one of {list(names)}", "split again")
    answer = [*tokens.encode(recipe.prompt.answer.format(label=row["label"])), tokens.eos_id]
    prompt, cut = build_prompt(recipe, tokens, row["text"], recipe.prompt.max_tokens - _longest(recipe, tokens))
    return Example(prompt, answer, cut)


def respond(recipe: Recipe, model: Any, tokens: Tokens, texts: Sequence[str], advance: Advance = no_progress) -> Columns:
    """The most probable label of every text, and the probability of each, renormalised over the labels.

    Args:
        recipe: says prompt, labels and batch size.
        model: causal language model, on its device, in any state (set to evaluation here).
        tokens: tokenizer of the model.
        texts: (n_rows,) the texts.
        advance: told how many rows each batch did.

    Returns:
        The columns of `tasks.kinds.answers.single_label`.
    """
    room = recipe.prompt.max_tokens - _longest(recipe, tokens)
    prompts = [build_prompt(recipe, tokens, text, room)[0] for text in texts]
    score = _token_scores if recipe.evaluate.label_score == "token" else _answer_scores
    return single_label.columns_of(recipe, score(recipe, model, tokens, prompts, advance))


def assess(recipe: Recipe, model: Any, tokens: Tokens, rows: Sequence[Row], advance: Advance = no_progress) -> Columns:
    """What the model answers to the rows' texts, as `respond`."""
    return respond(recipe, model, tokens, [row["text"] for row in rows], advance)


def loss(recipe: Recipe, tokens: Tokens) -> LossFunction:
    """Mean cross-entropy, nats a token, over the tokens that `train.loss_on` names.

    `labels` lets the label's token compete with the other labels' tokens alone, as it does when the model is scored; the end
    token competes with the whole vocabulary.
    """
    if recipe.train.loss_on != "labels":
        return generation.loss(recipe, tokens)
    import torch
    from torch.nn.functional import cross_entropy

    ids = torch.tensor(label_ids(recipe, tokens))

    def compute(outputs: Any, labels: "torch.Tensor", num_items_in_batch: "torch.Tensor | int | None" = None) -> "torch.Tensor":
        logits = outputs.logits[:, :-1].float()  # (B, K, V); the last position predicts nothing
        other = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
        other[ids.to(logits.device)] = False
        at_label = torch.isin(labels, ids.to(labels.device))  # (B, K)
        logits = logits.masked_fill(at_label[..., None] & other, float("-inf"))
        total = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum())

    return compute


def snippet(recipe: Recipe) -> str:
    """Python that scores a text as `respond` does."""
    opening = f"""{framing.snippet(repr(template(recipe)))}

labels, asked = {list(recipe.labels.names)!r}, encode({wording(recipe).text!r})
answers = [tokenizer.encode(answer, add_special_tokens=False) for answer in {_answers(recipe)!r}]
"""
    if recipe.evaluate.label_score == "token":
        return f"""{opening}with torch.inference_mode():
    logits = model(input_ids=torch.tensor([asked])).logits[0, -1]  # (vocabulary,)
scores = logits[[answer[0] for answer in answers]].double().softmax(dim=-1).tolist()
print(dict(zip(labels, scores)))"""
    return f"""{opening}if any(one is not other and other[:len(one)] == one for one in answers for other in answers):
    answers = [[*answer, tokenizer.eos_token_id] for answer in answers]  # one begins another: their ends tell them apart
found = []
with torch.inference_mode():
    for answer in answers:
        logits = model(input_ids=torch.tensor([asked + answer])).logits[0, len(asked) - 1 : -1]  # (answer, vocabulary)
        found.append(logits.double().log_softmax(dim=-1)[range(len(answer)), answer].sum())
print(dict(zip(labels, torch.stack(found).softmax(dim=-1).tolist())))"""


def wording(recipe: Recipe) -> Wording:
    """What the model card and the evaluation's report say of it."""
    said = single_label.wording(recipe, f"The prompt, then the label and the end token; loss on the {LOSS_ON[recipe.train.loss_on]}.")
    if recipe.evaluate.label_score == "token":
        return said
    return replace(said, metrics=f"{said.metrics} A score is the probability of a label's whole answer, renormalised over the labels.")


def _token_scores(recipe: Recipe, model: Any, tokens: Tokens, prompts: Sequence[Sequence[int]], advance: Advance) -> "NDArray[np.float64]":
    """Softmax over the labels' next-token logits after each prompt, (n_rows, n_labels)."""
    import numpy as np
    import torch

    ids = torch.tensor(label_ids(recipe, tokens), device=model.device)
    scores = np.zeros((len(prompts), len(ids)))
    model.eval()
    with torch.inference_mode():
        for rows in by_length(prompts, recipe.evaluate.batch_size):
            inputs = inputs_of(model, pad_left([prompts[row] for row in rows], tokens.pad_id))
            logits = model(**inputs, logits_to_keep=1).logits[:, -1]  # (B, V)
            scores[rows] = logits[:, ids].double().softmax(dim=-1).cpu().numpy()  # (B, L)
            advance(len(rows))
    return scores


def _answer_scores(recipe: Recipe, model: Any, tokens: Tokens, prompts: Sequence[Sequence[int]], advance: Advance) -> "NDArray[np.float64]":
    """Softmax over the summed log-probabilities of the labels' answers after each prompt, (n_rows, n_labels)."""
    import numpy as np

    answers, size = scored_answers(recipe, tokens), recipe.evaluate.batch_size
    found = answers_log_probabilities(model, tokens, prompts, [answers] * len(prompts), batch_size=size, advance=advance)
    totals = np.array(found).reshape(len(prompts), len(answers))
    return np.exp(totals - np.logaddexp.reduce(totals, axis=1, keepdims=True))


def _answers(recipe: Recipe) -> list[str]:
    """Each label's answer, in the order of the recipe's names."""
    return [recipe.prompt.answer.format(label=name) for name in recipe.labels.names]


def _encoded(recipe: Recipe, tokens: Tokens) -> list[list[int]]:
    """Each label's answer as tokens, without the end token."""
    return [tokens.encode(answer) for answer in _answers(recipe)]


def _longest(recipe: Recipe, tokens: Tokens) -> int:
    """Tokens of the longest label's answer with its end token."""
    return max(map(len, _encoded(recipe, tokens))) + 1
