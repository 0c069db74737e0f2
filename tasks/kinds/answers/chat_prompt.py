"""A text as the turns of a conversation, rendered by a chat template (Jinja) as transformers renders it, without torch."""

from tasks.errors import RecipeError
from tasks.kinds.answers.prompt import literal
from tasks.model.tokenizer import Tokens
from tasks.schema.recipe import Recipe

Message = dict[str, str]
"""A turn: `role` (system, user, assistant) and `content`."""


def messages_of(recipe: Recipe, text: str) -> list[Message]:
    """The turns of a text: those that its marks tell apart where the recipe's data have marks, otherwise one of the user.

    Turns of one role that follow one another become one, since templates ask for roles that alternate.
    """
    marks = next((table.turns for table in recipe.data.tables() if table.turns is not None), None)
    parsed = marks.parse(text) if marks is not None else []
    messages: list[Message] = []
    for role, content in parsed or [("user", text.strip())]:
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{content}"
        else:
            messages.append({"role": role, "content": content})
    return messages


def render(recipe: Recipe, tokens: Tokens, messages: list[Message], answer: str | None = None) -> str:
    """The conversation as the model reads it: up to where the assistant answers, or with its answer.

    What was said in it is marked for `tokens.encode`, so that no turn can end or open another one.

    Raises:
        RecipeError: there is no chat template, or it refuses these turns.
    """
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template  # what its tokenizers render with; it needs no torch

    turns = list(messages) if answer is None else [*messages, {"role": "assistant", "content": answer}]
    turns = [{**turn, "content": literal(recipe, tokens, turn["content"])} for turn in turns]
    if recipe.prompt.system:
        turns.insert(0, {"role": "system", "content": recipe.prompt.system})
    where = f"{recipe.name}.yaml: prompt.chat_template"
    source = recipe.prompt.chat_template or tokens.chat_template
    if source is None:
        raise RecipeError(where, "the base model's tokenizer has no chat template", "a template", "set prompt.chat_template in the recipe")
    try:
        (rendered,), _ = render_jinja_template([turns], chat_template=source, add_generation_prompt=answer is None, **tokens.special_tokens)
    except TemplateError as error:
        raise RecipeError(where, f"it refuses a conversation ({error})", "turns of user and assistant", "mend it") from None
    return str(rendered)
