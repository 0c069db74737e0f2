"""Classification with several labels a row by generation: the model writes the labels after the prompt, one a line.

`tasks.kinds.answers.label_answers` reads the answer back, in any order. Each label also has a score, so that ranking metrics exist: the
probability of the answer with the label against the same answer without it, all other labels being as the model wrote them,
P(A + l) / (P(A + l) + P(A - l)), each by the summed log-probability of the whole answer. Where A - l names nothing, it is the
answer of the none-label; a recipe without one sets every other lone label against it. The none-label's score is the share of its
answer among all that were looked at. An answer that does not parse counts as one that names nothing.

Cost: the prompt is read once to write the answer and once to score, and n labels take about n + 1 answers of a few tokens each.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.errors import DataError, RecipeError
from tasks.kinds.answers import prompt as framing
from tasks.kinds.answers.generation import Decoding, answers_log_probabilities, generate, loss
from tasks.kinds.answers.label_answers import LABELS, none_label, parse, speller, write
from tasks.kinds.answers.multi_label import columns_of, figures, majority, metrics, response
from tasks.kinds.answers.prompt import build_prompt, check_room, template
from tasks.kinds.base import Advance, Columns, Example, Row, Wording, in_proportion, labels_of, no_progress
from tasks.model.tokenizer import Tokens
from tasks.schema.recipe import Recipe

__all__ = [
    "HEAD", "assess", "check_tokens", "example", "figures", "loss", "majority", "metrics", "respond", "response", "snippet", "wording",
]  # fmt: skip

HEAD = "causal"

LOSS_ON = {"answer": "labels", "sequence": "prompt, the labels"}
"""What `train.loss_on` means, in a sentence that begins: loss on the."""

Chosen = frozenset[str]
"""The labels that an answer names, the none-label left out."""


def check_tokens(recipe: Recipe, tokens: Tokens) -> None:
    """Raise RecipeError where two labels are spelt alike, or prompt and longest answer leave no room for a text."""
    where, names = f"{recipe.name}.yaml", recipe.labels.names
    spelt = {name: tuple(tokens.encode(write(recipe, [name]))) for name in names}
    if len(set(spelt.values())) < len(names):
        raise RecipeError(f"{where}: labels.names", "two labels are the same tokens", "labels that differ", "choose other words")
    check_room(recipe, tokens, len(_answer(recipe, tokens, _named(recipe))), " beside an answer of all labels")
    longest = max(len(_answer(recipe, tokens, [name])) for name in names)
    if recipe.evaluate.max_new_tokens < longest:
        found = f"{recipe.evaluate.max_new_tokens} tokens are less than the answer of one label"
        raise RecipeError(f"{where}: evaluate.max_new_tokens", found, f"at least {longest}", "raise it")


def longest(recipe: Recipe, tokens: Tokens) -> int:
    """Most tokens of a row: a prompt keeps room for the answer of one label, and the model may write, or be asked about, more."""
    one = max(len(_answer(recipe, tokens, [name])) for name in recipe.labels.names)
    every = len(_answer(recipe, tokens, _named(recipe)))
    return recipe.prompt.max_tokens - one + max(recipe.evaluate.max_new_tokens, every)


def example(recipe: Recipe, tokens: Tokens, row: Row) -> Example:
    """Prompt and answer as tokens; a text that does not fit max_tokens loses its end, never the prompt its frame or the answer.

    Raises:
        DataError: the text is empty, or a label is none of the recipe's.
    """
    labels = labels_of(row)
    if unknown := [label for label in labels if label not in recipe.labels.names]:
        raise DataError(recipe.name, f"a row's label is {unknown[0]!r:.60}", f"one of {list(recipe.labels.names)}", "split again")
    answer = _answer(recipe, tokens, labels)
    prompt, cut = build_prompt(recipe, tokens, row["text"], recipe.prompt.max_tokens - len(answer))
    return Example(prompt, answer, cut)


def respond(recipe: Recipe, model: Any, tokens: Tokens, texts: Sequence[str], advance: Advance = no_progress) -> Columns:
    """The labels that the model writes for every text, and each label's score as the module says.

    Args:
        recipe: says prompt, labels, decoding and batch size.
        model: causal language model, on its device, in any state (set to evaluation here).
        tokens: tokenizer of the model.
        texts: (n_rows,) the texts.
        advance: told how many rows each batch did; the writing is half of it, the scoring the other.

    Returns:
        The columns of `tasks.kinds.answers.multi_label`.
    """
    import numpy as np

    longest = max(len(_answer(recipe, tokens, [name])) for name in recipe.labels.names)
    prompts = [build_prompt(recipe, tokens, text, recipe.prompt.max_tokens - longest)[0] for text in texts]
    size, limit = recipe.evaluate.batch_size, recipe.evaluate.max_new_tokens
    allowed = speller(recipe, tokens) if recipe.evaluate.decoding == "constrained" else None
    half = in_proportion(advance, 2 * len(texts), len(texts))
    written = generate(model, tokens, prompts, Decoding(limit, _stop_ids(recipe, tokens), size, allowed), half)
    answers = [parse(recipe, tokens.decode(ids)) if len(ids) < limit else None for ids in written]  # at the limit its end is missing
    named = [frozenset(answer or ()) - {none_label(recipe)} for answer in answers]
    sets = [_looked_at(recipe, chosen) for chosen in named]
    ids = [[_answer(recipe, tokens, chosen) for chosen in of_row] for of_row in sets]
    found = answers_log_probabilities(model, tokens, prompts, ids, batch_size=size, advance=half)
    rows = [
        _scores(recipe, chosen, dict(zip(of_row, values, strict=True))) for chosen, of_row, values in zip(named, sets, found, strict=True)
    ]
    return columns_of(recipe, answers, np.array(rows).reshape(len(texts), len(recipe.labels.names)))


def assess(recipe: Recipe, model: Any, tokens: Tokens, rows: Sequence[Row], advance: Advance = no_progress) -> Columns:
    """What the model answers to the rows' texts, as `respond`."""
    return respond(recipe, model, tokens, [row["text"] for row in rows], advance)


def snippet(recipe: Recipe) -> str:
    """Python that writes a text's labels as `respond` does with free decoding."""
    return f"""{framing.snippet(repr(template(recipe)))}

asked = torch.tensor([encode({wording(recipe).text!r})])
with torch.inference_mode():
    written = model.generate(
        input_ids=asked, attention_mask=torch.ones_like(asked), max_new_tokens={recipe.evaluate.max_new_tokens}, do_sample=False
    )[0, asked.shape[1] :]
lines = tokenizer.decode(written, skip_special_tokens=True).strip().removeprefix({_opening(recipe).strip()!r}).splitlines()
print([label for label in {list(recipe.labels.names)!r} if label in map(str.strip, lines)])"""


def wording(recipe: Recipe) -> Wording:
    """What the model card and the evaluation's report say of it."""
    none, end = none_label(recipe), " and the end token" if recipe.train.loss_on_end else ", not on the end token"
    apart = f" {none} has no part in micro_f1 and macro_f1." if none is not None else ""
    return Wording(
        task="text-classification",
        purpose="Naming which of the labels above a text in the language above has, none, one or several of them, as one signal among "
        "others: to queue content for people who moderate it, to measure shares in a collection of texts, to compare systems.",
        limits=(
            "**No statement about an author**: it labels a text, it does not find out who somebody is or what they believe.",
            "**No other text generation.** The model was trained to name labels; what else it writes was neither trained nor tested.",
            "**No threshold as it stands**: a label's score is how probable the model finds its answer with the label against the same "
            "answer without it, and nobody has calibrated it.",
        ),
        training=f"The prompt, then the labels one a line and the end token; loss on the {LOSS_ON[recipe.train.loss_on]}{end}.",
        metrics="lrap ranks each row's labels by their scores; exact_match asks for all labels of a row; parsed is the share of answers "
        f"that are labels in the answer's form, and an answer that is not counts as without labels.{apart}",
        agreement="same labels",
        difference="a score",
        text="A text to label.",
    )


def _looked_at(recipe: Recipe, written: Chosen) -> list[Chosen]:
    """The answers that a row's scores need: the one written, the one that names nothing, and those that differ in one label."""
    names = _named(recipe)
    found = {written, *(written ^ {name} for name in names)}
    if none_label(recipe) is not None:
        found.add(frozenset())
    elif frozenset() in found:
        found = (found | {frozenset({name}) for name in names}) - {frozenset()}
    return sorted(found, key=sorted)


def _scores(recipe: Recipe, written: Chosen, of_set: Mapping[Chosen, float]) -> list[float]:
    """Each label's score of a row, of what was written and the log-probabilities of the answers that `_looked_at` names."""
    import numpy as np

    nothing, scores = frozenset[str](), []
    for name in recipe.labels.names:
        if name == none_label(recipe):
            yes, no = [of_set[nothing]], [value for chosen, value in of_set.items() if chosen]
        else:
            with_it, without = written | {name}, written - {name}
            lone = [value for chosen, value in of_set.items() if len(chosen) == 1 and name not in chosen]
            yes, no = [of_set[with_it]], [of_set[without]] if without in of_set else lone
        scores.append(float(np.exp(yes[0] - np.logaddexp.reduce([*yes, *no]))))
    return scores


def _named(recipe: Recipe) -> list[str]:
    """The labels but the none-label."""
    return [name for name in recipe.labels.names if name != none_label(recipe)]


def _stop_ids(recipe: Recipe, tokens: Tokens) -> list[int]:
    """The model's end tokens, and the special token that closes the answer's text where there is one."""
    closing = tokens.encode(recipe.prompt.answer.partition(LABELS)[2])[-1:]
    return [*tokens.end_ids, *(token for token in closing if token in tokens.special_ids)]


def _answer(recipe: Recipe, tokens: Tokens, labels: "Sequence[str] | Chosen") -> list[int]:
    return [*tokens.encode(write(recipe, labels)), tokens.eos_id]


def _opening(recipe: Recipe) -> str:
    return recipe.prompt.answer.partition(LABELS)[0]
