"""A text within the prompt's frame: the template before and after it, the text cut to fit, frame and answer never."""

from string import Template

from tasks.errors import DataError, RecipeError
from tasks.model.tokenizer import Tokens
from tasks.schema.recipe import Recipe


def template(recipe: Recipe) -> str:
    """The prompt's template with the labels' names in it; {text} marks the text's place."""
    return recipe.prompt.template.replace("{labels}", ", ".join(recipe.labels.names))


def literal(recipe: Recipe, tokens: Tokens, text: str) -> str:
    """What somebody wrote, marked so that no control token is read in it; the words of the recipe stay as they are."""
    prompt = recipe.prompt
    return tokens.literal(text, (prompt.template or prompt.chat_template or "") + prompt.answer)


def frame(recipe: Recipe, tokens: Tokens) -> tuple[list[int], list[int]]:
    """Token ids of the template before the text, the beginning token first, and after it."""
    before, after = template(recipe).split("{text}")
    return [*_beginning(tokens), *tokens.encode(before)], tokens.encode(after)


def least_tokens(recipe: Recipe, tokens: Tokens) -> int:
    """Tokens of the shortest prompt: the frame, and one of the text."""
    return sum(map(len, frame(recipe, tokens))) + 1


def check_room(recipe: Recipe, tokens: Tokens, answer: int, beside: str = "") -> None:
    """Raise RecipeError where `prompt.max_tokens` leaves no room for a text.

    Args:
        recipe: says the template and the longest prompt with answer.
        tokens: tokenizer of the base model.
        answer: tokens of the longest answer.
        beside: what besides the frame takes the room, as the error goes on.
    """
    longest, least = recipe.prompt.max_tokens, least_tokens(recipe, tokens) + answer
    if longest < least:
        found = f"{longest} tokens leave no room for the text{beside}"
        raise RecipeError(f"{recipe.name}.yaml: prompt.max_tokens", found, f"at least {least}", "raise it or shorten the template")


def build_prompt(recipe: Recipe, tokens: Tokens, text: str, room: int) -> tuple[list[int], bool]:
    """The prompt of a text; one that is too long loses its end, never the prompt its frame.

    Args:
        recipe: says the template.
        tokens: tokenizer of the model.
        text: what stands within the frame.
        room: longest prompt, tokens, at least `least_tokens`.

    Returns:
        Token ids of the prompt, and whether the text was cut.

    Raises:
        DataError: the text is empty.
    """
    if not text.strip():
        raise DataError(recipe.name, "a row's text is empty", "a text", "add an expectation that rejects such rows")
    marked = literal(recipe, tokens, text)
    whole = [*_beginning(tokens), *tokens.encode(template(recipe).replace("{text}", marked))]
    if len(whole) <= room:
        return whole, False
    before, after = frame(recipe, tokens)
    return [*before, *tokens.encode(marked)[: room - len(before) - len(after)], *after], True


SNIPPET = Template('''import re

control = "|".join(re.escape(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special)


def encode(text):
    """Token ids of the prompt with a text in it; what the text spells like a control token stays text."""
    first, *others = ${prompt}.replace("{text}", re.sub(f"(?={control})(.)", "\\\\1\\ufdd0", text)).split("\\ufdd0")
    ids, newline = tokenizer.encode(first$special), tokenizer.encode("\\n", add_special_tokens=False)
    for piece in others:
        ids += tokenizer.encode("\\n" + piece, add_special_tokens=False)[len(newline) :]
    return ids
''')


def snippet(prompt: str, *, rendered: bool = False) -> str:
    """Python for the model card that defines `encode`, the token ids of the prompt of a text; `tokenizer` is there already.

    Args:
        prompt: Python that gives the prompt, `{text}` in the text's place.
        rendered: a chat template made it, which writes the beginning token itself.
    """
    return SNIPPET.substitute(prompt=prompt, special=", add_special_tokens=False" if rendered else "")


def _beginning(tokens: Tokens) -> list[int]:
    return [] if tokens.bos_id is None else [tokens.bos_id]
