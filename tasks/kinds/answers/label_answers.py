"""Answers that name several labels, one a line: written, read back whatever their order, and spelt token by token."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache

from tasks.model.tokenizer import Tokens
from tasks.schema.labels import MarkedColumns
from tasks.schema.recipe import Recipe

LABELS = "{labels}"


def none_label(recipe: Recipe) -> str | None:
    """The label of rows that have none of the others; None where every row has one."""
    return recipe.labels.rule.none if isinstance(recipe.labels.rule, MarkedColumns) else None


def write(recipe: Recipe, labels: Iterable[str]) -> str:
    """The answer that names these labels, in the recipe's order; without any, the none-label."""
    chosen: set[str | None] = {*labels} or {none_label(recipe)}
    return recipe.prompt.answer.replace(LABELS, "\n".join(name for name in recipe.labels.names if name in chosen))


def parse(recipe: Recipe, text: str) -> list[str] | None:
    """The labels that an answer names, in the recipe's order, whatever the answer's own.

    Args:
        recipe: says the labels and what stands around them; what follows the closing part is not read.
        text: the answer; white space around lines does not count.

    Returns:
        None for what does not parse: another opening, an unknown label, a doubled one, the none-label beside others, or no label.
    """
    before, after = (part.strip() for part in recipe.prompt.answer.split(LABELS))
    if not text.strip().startswith(before):
        return None
    body = text.strip().removeprefix(before)
    lines = [line.strip() for line in (body.partition(after)[0] if after else body).splitlines() if line.strip()]
    known, none = set(recipe.labels.names), none_label(recipe)
    if not lines or not set(lines) <= known or len(set(lines)) < len(lines) or (none in lines and len(lines) > 1):
        return None
    return [name for name in recipe.labels.names if name in lines]


def speller(recipe: Recipe, tokens: Tokens) -> Callable[[Sequence[int]], list[int]]:
    """Which tokens may follow those already written, so that only answers in the recipe's form and order come out.

    Returns:
        Function of the token ids written so far to the ids that may follow; after a whole answer that is the end token alone.
    """
    none = none_label(recipe)
    names = [name for name in recipe.labels.names if name != none]

    @cache
    def spelt(chosen: tuple[str, ...]) -> tuple[int, ...]:
        return (*tokens.encode(write(recipe, chosen)), tokens.eos_id)

    def longer(chosen: tuple[str, ...]) -> list[tuple[str, ...]]:
        return [(*chosen, name) for name in names[names.index(chosen[-1]) + 1 if chosen else 0 :]]

    def follow(written: tuple[int, ...], chosen: tuple[str, ...]) -> set[int]:
        found = set()
        if (chosen or none is not None) and len(spelt(chosen)) > len(written) and spelt(chosen)[: len(written)] == written:
            found.add(spelt(chosen)[len(written)])
        for more in longer(chosen):
            here, further = spelt(more), longer(more)
            parting = min((_shared(here, spelt(other)) for other in further), default=len(here))
            reach = min(len(written), parting)
            if here[:reach] == written[:reach]:
                found |= follow(written, more) if len(written) >= parting else {here[len(written)]}
        return found

    return lambda written: sorted(follow(tuple(written), ())) or [tokens.eos_id]


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two answers begin with together."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
