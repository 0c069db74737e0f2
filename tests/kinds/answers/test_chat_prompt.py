"""A conversation as the model reads it: what transformers' own tokenizer renders, without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.errors import RecipeError
from tasks.kinds.answers.chat_prompt import render
from tasks.model.tokenizer import Tokens
from tasks.schema import load as recipes
from tasks.settings import CHECKOUT, quiet_environment
from tests.support import tiny

TURNS = [{"role": "user", "content": "a <b> & 'é'"}]
TEMPLATES = {
    "turns": "{% for m in messages %}{{ bos_token }}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}\n{% endfor %}",
    "prompt": "{% for m in messages %}{{ m['content'] }}|{% endfor %}{% if add_generation_prompt %}model:{% endif %}",
    "json": "{{ messages | tojson }}",
    "date": "{{ strftime_now('%Y') }} {{ messages[0]['content'] }}",
    "tools": "{% if tools is not none %}tools{% endif %}{% for m in messages %}{% if loop.last %}{% break %}{% endif %}x{% endfor %}!",
    "generation": "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("answer", [None, "so\nit <is>"], ids=["asked", "answered"])
def test_it_is_what_the_model_s_own_tokenizer_renders(tiny_base: Path, name: str, answer: str | None) -> None:
    from transformers import AutoTokenizer

    document = tiny.recipe_document(tiny_base, tiny_base / "none.csv")
    del document["labels"], document["data"]["label"]
    document["data"]["answer"] = "answer"
    prompt = {"max_tokens": 64, "chat_template": TEMPLATES[name]}
    document |= {"kind": "chat", "gate": {"metric": "log_likelihood"}, "prompt": prompt, "evaluate": {"max_new_tokens": 9}}
    document["split"] = {"seed": 1, "test": 9}
    messages = [*TURNS, *([{"role": "assistant", "content": answer}] if answer else [])]
    expected = AutoTokenizer.from_pretrained(tiny_base).apply_chat_template(
        messages, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=answer is None
    )
    assert render(recipes.resolve(document), Tokens(tiny_base), TURNS, answer) == expected != ""


def test_a_template_may_touch_nothing_of_the_machine(tiny_base: Path) -> None:
    document = tiny.recipe_document(tiny_base, tiny_base / "none.csv")
    recipe = recipes.resolve(document)
    for source in ("{{ messages.__class__.__mro__ }}", "{{ messages.append(1) }}"):
        bad = recipe.model_copy(update={"prompt": recipe.prompt.model_copy(update={"chat_template": source})})
        with pytest.raises(RecipeError, match="tiny.yaml: prompt.chat_template: it refuses a conversation"):
            render(bad, Tokens(tiny_base), TURNS)


def test_torch_stays_out() -> None:
    code = (
        "import sys; from tasks.kinds.answers import chat_prompt; "
        "from transformers.utils.chat_template_utils import render_jinja_template; "
        "print(render_jinja_template([[{'role': 'user', 'content': 'a'}]], chat_template='{{ messages[0].content }}')[0], "
        "sorted({'torch', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=quiet_environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['a'] []"
