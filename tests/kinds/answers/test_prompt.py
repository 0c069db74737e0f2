"""A text within the prompt's frame: whole where it fits, otherwise cut, the frame never."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import DataError, RecipeError
from tasks.kinds.answers import prompt as framing
from tasks.model.tokenizer import Tokens
from tasks.schema import load as recipes
from tests.support import tiny


def document(base: Path) -> dict[str, Any]:
    found = tiny.recipe_document(base, base / "none.csv")
    return recipes._lay_over(found, {"prompt": {"template": "Is this {labels}?\n{text}\nIt is"}})


@settings(max_examples=100)
@given(text=st.text(min_size=1).filter(str.strip), more=st.integers(0, 40))
def test_a_prompt_fits_its_room_and_keeps_its_frame(tiny_base: Path, text: str, more: int) -> None:
    tokens, recipe = Tokens(tiny_base), recipes.resolve(document(tiny_base))
    before, after = framing.frame(recipe, tokens)
    room = framing.least_tokens(recipe, tokens) + more
    prompt, cut = framing.build_prompt(recipe, tokens, text, room)
    assert len(prompt) <= room and (len(prompt) == room or not cut)
    if cut:
        assert prompt[: len(before)] == before and prompt[len(prompt) - len(after) :] == after
        assert prompt[len(before) : len(prompt) - len(after)] == tokens.encode(text)[: more + 1]
    else:
        assert tokens.decode(prompt) == f"<bos>Is this negative, neutral, positive?\n{text}\nIt is"


def test_the_least_that_the_error_names_is_enough(tiny_base: Path) -> None:
    tokens, made = Tokens(tiny_base), document(tiny_base)
    with pytest.raises(
        RecipeError, match=r"tiny.yaml: prompt.max_tokens: 8 tokens leave no room for the text beside it .expected: at"
    ) as caught:
        framing.check_room(recipes.resolve(recipes._lay_over(made, {"prompt": {"max_tokens": 8}})), tokens, 3, " beside it")
    least = int(caught.value.expected.split()[2])
    recipe = recipes.resolve(recipes._lay_over(made, {"prompt": {"max_tokens": least}}))
    framing.check_room(recipe, tokens, 3)
    with pytest.raises(RecipeError, match=rf"\(expected: at least {least + 1}\)\. Fix: raise it or shorten the template"):
        framing.check_room(recipe, tokens, 4)
    before, after = framing.frame(recipe, tokens)
    prompt, cut = framing.build_prompt(recipe, tokens, "table street number", least - 3)
    assert cut and prompt == [*before, tokens.encode("table street number")[0], *after]


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_text_is_an_error(tiny_base: Path, text: str) -> None:
    with pytest.raises(
        DataError, match=r"tiny: a row's text is empty \(expected: a text\)\. Fix: add an expectation that rejects such rows"
    ):
        framing.build_prompt(recipes.resolve(document(tiny_base)), Tokens(tiny_base), text, 64)
