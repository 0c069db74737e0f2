"""Structured generation: the model writes named fields between markers, one of them the class, and a stop token ends its answer.

The fields are the columns of the data set's parts. An answer that lacks a marker, a field or a known class is unparsable: it is
counted and counts as wrong.

Parity of merged model and adapter compares what `assess` says, the mean log-probability of the given answers: two models that
agree to the last rounding but one may part ways within a long greedy text, so what they write (`samples`) is no part of it. Written
texts are scored and kept with the predictions; the report shows figures alone.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, Literal

from tasks.errors import DataError, RecipeError
from tasks.kinds.answers import prompt as framing
from tasks.kinds.answers.generation import Decoding, generate, log_probabilities
from tasks.kinds.answers.generation import loss as loss
from tasks.kinds.answers.prompt import build_prompt, check_room, least_tokens, literal, template
from tasks.kinds.base import Advance, Columns, Example, Metrics, Row, Wording, no_progress
from tasks.metrics import classification, plots
from tasks.model.tokenizer import Tokens
from tasks.schema.recipe import Recipe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEAD = "causal"

LABEL, PARSED, LOG_PROBABILITY, TOKENS = "label", "parsed", "log_probability", "tokens"
"""Columns besides the fields: the class; 1 where the answer parsed, else 0; of the given answer the mean over its tokens, nats, and
their number."""

UNPARSABLE = "unparsable"


def check_tokens(recipe: Recipe, tokens: Tokens) -> None:
    """Raise RecipeError where the stop is no single token, or the prompt without its text leaves no room for text and answer."""
    stop = recipe.prompt.stop
    if stop is not None and len(ids := tokens.encode(stop)) != 1:
        raise RecipeError(
            f"{recipe.name}.yaml: prompt.stop",
            f"{stop!r} is {len(ids)} tokens of this base model",
            "one token",
            "add it to prompt.new_tokens",
        )
    check_room(recipe, tokens, recipe.evaluate.max_new_tokens, " beside evaluate.max_new_tokens")


def example(recipe: Recipe, tokens: Tokens, row: Row) -> Example:
    """Prompt and answer as tokens, the stop (or end token) last; a text that does not fit max_tokens loses its end, the answer nothing.

    Raises:
        DataError: text or field is empty, a field holds the stop, the class is unknown, or the answer leaves no room for a text.
    """
    for name in ("text", *recipe.data.fields):
        if not row[name].strip():
            raise DataError(recipe.name, f"a row's {name} is empty", "words", "add an expectation that rejects such rows")
        if recipe.prompt.stop and name != "text" and recipe.prompt.stop in row[name]:
            found = f"a row's {name} holds {recipe.prompt.stop!r}"
            raise DataError(recipe.name, found, "a text without it", "choose another stop")
    if row[LABEL] not in recipe.labels.names:
        raise DataError(recipe.name, f"a row's label is {row[LABEL]!r:.60}", f"one of {list(recipe.labels.names)}", "split again")
    given = {name: row[name].strip() for name in recipe.data.fields} | {LABEL: row[LABEL]}
    said = {name: literal(recipe, tokens, value) for name, value in given.items()}
    answer = tokens.encode(recipe.prompt.answer.format(**said)) + ([] if recipe.prompt.stop else [tokens.eos_id])
    room, least = recipe.prompt.max_tokens - len(answer), least_tokens(recipe, tokens)
    if room < least:
        found = f"an answer of {len(answer)} tokens leaves no room for a text"
        expected = f"at least {len(answer) + least}"
        raise DataError(f"{recipe.name}: prompt.max_tokens", found, expected, "raise it, or reject such rows")
    prompt, cut = build_prompt(recipe, tokens, row["text"], room)
    return Example(prompt, answer, cut)


def pattern(recipe: Recipe) -> str:
    """A regular expression that an answer without its stop matches in full, with a group for each field and the class."""
    body = recipe.prompt.answer.removesuffix(recipe.prompt.stop or "")
    classes = "|".join(re.escape(name) for name in sorted(recipe.labels.names, key=len, reverse=True))
    found = ""
    for marker, name, _, _ in Formatter().parse(body):
        found += rf"\s*{re.escape(marker.strip())}\s*" if marker.strip() else r"\s*"
        if name is not None:
            found += rf"(?P<{name}>{classes if name == LABEL else '.*[^ ]'})"
    return found + r"\s*"


def parse(recipe: Recipe, said: str) -> dict[str, str] | None:
    """The fields and the class of an answer; None where it lacks a marker or a field, or its class is unknown."""
    found = re.fullmatch(pattern(recipe), said, re.DOTALL)
    fields = {name: value.strip() for name, value in found.groupdict().items()} if found else {}
    return fields if fields and all(fields.values()) else None


def respond(recipe: Recipe, model: Any, tokens: Tokens, texts: Sequence[str], advance: Advance = no_progress) -> Columns:
    """The fields and the class that the model writes after each text; of an unparsable answer empty words.

    Args:
        recipe: says prompt, stop and batch size.
        model: causal language model, on its device, in any state (set to evaluation here).
        tokens: tokenizer of the model.
        texts: (n_rows,) the texts.
        advance: told how many rows each batch did.
    """
    room = recipe.prompt.max_tokens - recipe.evaluate.max_new_tokens
    stops = tokens.end_ids if recipe.prompt.stop is None else tokens.encode(recipe.prompt.stop)
    prompts = [build_prompt(recipe, tokens, text, room)[0] for text in texts]
    decoding = Decoding(recipe.evaluate.max_new_tokens, stops, recipe.evaluate.batch_size)
    written = generate(model, tokens, prompts, decoding, advance)
    parsed = [parse(recipe, tokens.decode(ids)) or {} for ids in written]
    return {name: [answer.get(name, "") for answer in parsed] for name in response(recipe)}


def response(recipe: Recipe) -> dict[str, Literal["string", "double"]]:
    """Names and types of the columns of an answer."""
    return dict.fromkeys((*recipe.data.fields, LABEL), "string")


def assess(recipe: Recipe, model: Any, tokens: Tokens, rows: Sequence[Row], advance: Advance = no_progress) -> Columns:
    """How probable the model finds the given answers: `log_probability`, the mean over an answer's tokens, nats, and `tokens`."""
    import numpy as np

    examples = [example(recipe, tokens, row) for row in rows]
    counts = np.array([len(each.answer) for each in examples], dtype=np.float64)
    totals = log_probabilities(model, tokens, examples, batch_size=recipe.evaluate.batch_size, advance=advance)
    return {LOG_PROBABILITY: totals / counts, TOKENS: counts}


def sampled(recipe: Recipe, rows: Sequence[Row]) -> list[int]:
    """Every row."""
    return list(range(len(rows)))


def samples(recipe: Recipe, model: Any, tokens: Tokens, rows: Sequence[Row], advance: Advance = no_progress) -> Columns:
    """What the model writes after every row's text: its fields and class as `respond` gives them, and `parsed`.

    `reply` is empty: the report quotes no answers.
    """
    said = respond(recipe, model, tokens, [row["text"] for row in rows], advance)
    return _with_parsed(said) | {"reply": [""] * len(rows)}


def majority(recipe: Recipe, label: str, rows: Sequence[Row]) -> Columns:
    """Columns of a model that always says one class and nothing else."""
    nothing: Columns = {name: [""] * len(rows) for name in recipe.data.fields}
    return _with_parsed(nothing | {LABEL: [label] * len(rows)})


def metrics(recipe: Recipe, rows: Sequence[Row], columns: Columns) -> Metrics:
    """Share of parsed answers, accuracy and macro F1 of the class, corpus chrF of the text fields, likelihood of the given answers.

    Args:
        recipe: says classes and fields.
        rows: the test rows, their label and fields true.
        columns: what a model made of them.

    Returns:
        Function of row numbers to metric and value. `parsed`, `accuracy`, `macro_f1` in [0, 1], `chrf` in [0, 100],
        `log_likelihood` in nats a token: higher is better; `perplexity` is exp(-log_likelihood): lower is better. An unparsable
        answer has a wrong class and no text. The last two are left out where nobody was asked for probabilities.

    Source: Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation".
    """
    import numpy as np
    from sacrebleu.metrics.chrf import CHRF

    classes, truth, predicted = len(recipe.labels.names), _places(recipe, [row[LABEL] for row in rows]), _places(recipe, columns[LABEL])
    parsed, chrf = np.asarray(columns[PARSED], dtype=np.float64), CHRF()
    statistics = chrf_statistics(recipe, rows, columns)
    asked = LOG_PROBABILITY in columns
    counts = np.asarray(columns[TOKENS] if asked else np.ones(len(rows)), dtype=np.float64)
    totals = np.asarray(columns[LOG_PROBABILITY], dtype=np.float64) * counts if asked else counts

    def of_draw(draw: "NDArray[np.intp]") -> dict[str, float]:
        table = classification.confusion_counts(truth[draw], predicted[draw], classes + 1)
        found = {
            "macro_f1": float(np.nanmean(classification.f1_scores(table)[:classes])),
            "accuracy": float(table.trace() / table.sum()),
            PARSED: float(parsed[draw].mean()),
            "chrf": float(chrf._compute_f_score(statistics[draw].sum(axis=0).tolist())),
        }
        if asked:
            likelihood = float(totals[draw].sum() / counts[draw].sum())
            found |= {"log_likelihood": likelihood, "perplexity": math.exp(min(-likelihood, 700.0))}
        return found

    return of_draw


def chrf_statistics(recipe: Recipe, rows: Sequence[Row], columns: Columns) -> "NDArray[np.intp]":
    """What corpus chrF sums over rows: n-grams written, true and shared, of each order; (n_rows, 18)."""
    import numpy as np
    from sacrebleu.metrics.chrf import CHRF

    chrf = CHRF()
    total = np.zeros((len(rows), 3 * chrf.order), dtype=np.intp)
    for name in recipe.data.fields:
        total += np.array(chrf._extract_corpus_statistics(list(map(str, columns[name])), [[row[name] for row in rows]]), dtype=np.intp)
    return total


def figures(recipe: Recipe, rows: Sequence[Row], columns: Mapping[str, Columns], folder: Path) -> dict[str, str]:
    """Draw the confusion matrix of the first model, unparsable answers in a column of their own, and each model's chrF by row.

    Args:
        recipe: says the classes.
        rows: the test rows.
        columns: model to what it made of them; the first is the model that the evaluation is about.
        folder: where the PNG files go.

    Returns:
        Title to file name.
    """
    from sacrebleu.metrics.chrf import CHRF

    names, first = recipe.labels.names, next(iter(columns))
    predicted, truth = _places(recipe, columns[first][LABEL]), _places(recipe, [row[LABEL] for row in rows])
    counts = classification.confusion_counts(truth, predicted, len(names) + 1)[: len(names)]
    drawn = {"Confusion matrix": "confusion.png", "chrF of the written fields": "chrf.png"}
    plots.draw_confusion(folder / drawn["Confusion matrix"], counts, names, first, predicted=(*names, UNPARSABLE))
    scores = {
        model: [CHRF()._compute_f_score(row.tolist()) for row in chrf_statistics(recipe, rows, said)] for model, said in columns.items()
    }
    plots.draw_shares(folder / drawn["chrF of the written fields"], scores, "chrF of a row's fields")
    return drawn


def snippet(recipe: Recipe) -> str:
    """Python that answers a text as `respond` does."""
    stop = recipe.prompt.stop
    end = f"tokenizer.convert_tokens_to_ids({stop!r})" if stop else "tokenizer.eos_token_id"
    return f"""{framing.snippet(repr(template(recipe)))}

inputs = torch.tensor([encode({wording(recipe).text!r})]).to(model.device)
end = {end}
with torch.inference_mode():
    written = model.generate(
        input_ids=inputs, attention_mask=torch.ones_like(inputs), max_new_tokens={recipe.evaluate.max_new_tokens},
        do_sample=False, eos_token_id=end, pad_token_id=end,
    )[0, inputs.shape[1] :].tolist()
said = tokenizer.decode(written[: written.index(end)] if end in written else written)
found = re.fullmatch({pattern(recipe)!r}, said, re.DOTALL)
print(found.groupdict() if found else "unparsable")"""


def wording(recipe: Recipe) -> Wording:
    """What model card and report say of the kind."""
    stop = f"stop token {recipe.prompt.stop}" if recipe.prompt.stop else "end token"
    where = "whole row" if recipe.train.loss_on == "sequence" else f"answer, its {stop} included"
    drawn = "trained with the adapter" if recipe.lora.train_new_tokens else "as they were drawn, untrained"
    new = f" The embedding rows of the new tokens {', '.join(recipe.prompt.new_tokens)} are {drawn}." if recipe.prompt.new_tokens else ""
    return Wording(
        task="text-generation",
        purpose="Drafting, after a text in the language above, the fields that a report of its kind has, with the class of the outcome, "
        "for people who write and compare such reports: a draft to be corrected, or a second opinion on the class.",
        limits=(
            "**No statement of fact**: what it writes is what such reports tend to say, not what happened or was done.",
            "**No forecast of a case**: the class is the likely one among the training reports, which a person or a court does not follow.",
            "**No answer that is not parsed**: where a marker or a known class is missing, the answer is none.",
        ),
        training=f"The prompt, then the fields and the class between their markers; loss on the {where}.{new}",
        metrics="parsed is the share of answers with every field and a known class; an unparsable one counts as wrong. chrf is sacrebleu's "
        "corpus chrF of the written fields, 0 to 100; log_likelihood (nats a token) and perplexity (lower is better) are of given answers.",
        agreement="answer as probable",
        difference="a mean log-probability, nats a token",
        text="A text to answer.",
    )  # fmt: skip


def _with_parsed(said: Columns) -> Columns:
    import numpy as np

    return said | {PARSED: np.array([float(label != "") for label in said[LABEL]])}


def _places(recipe: Recipe, labels: Any) -> "NDArray[np.intp]":
    """Place of every label among the recipe's names, (n_rows,); that after the last where an answer had none."""
    import numpy as np

    place = {name: index for index, name in enumerate(recipe.labels.names)}
    return np.array([place.get(label, len(place)) for label in labels], dtype=np.intp)
