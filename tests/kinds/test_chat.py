"""The kind `chat`: conversations in the model's own format, loss on the answer alone, pairs, replies."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contracts import Adapter, BaseModelFiles, DatasetVersion, Download, Evaluation, MergedModel, Part, RegisteredVersion
from tasks.errors import DataError, RecipeError, RecipeErrors
from tasks.kinds import chat
from tasks.model.load import load_model
from tasks.model.tokenizer import Tokens
from tasks.registry import tracking
from tasks.schema import load as recipes
from tasks.schema.recipe import METRICS, Recipe
from tasks.workspace.files import link_or_copy
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import evaluated, tiny

pytestmark = pytest.mark.trains

LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>' + messages[0]['content'] + '<</SYS>> ' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ 'model' if message['role'] == 'assistant' else 'user' }}\n"
    "{{ message['content'] }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TURNS = {"human": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
GOOD, BAD = "that was very kind", "that was very rude"


def document(base: Path, template: str | None = LLAMA_2, **changes: Any) -> dict[str, Any]:
    found = tiny.recipe_document(base, base / "none.csv")
    del found["labels"], found["data"]["label"]
    found |= {"kind": "chat", "gate": {"metric": "log_likelihood", "floors": {"preference_accuracy": 0.5}}}
    found["data"] |= {
        "answer": "answer",
        "test": {"source": {"file": "/pairs.csv"}, "text": "good", "answer": "good", "rejected": "bad", "turns": TURNS},
    }
    found["split"] = {"seed": 1, "test": 20}
    found["prompt"] = {"max_tokens": 96} | ({"chat_template": template} if template else {})
    found["evaluate"] |= {"max_new_tokens": 12, "samples": 24}
    return recipes._lay_over(found, changes)


@pytest.fixture
def tokens(tiny_base: Path) -> Tokens:
    return Tokens(tiny_base)


@pytest.fixture
def recipe(tiny_base: Path) -> Recipe:
    return recipes.resolve(document(tiny_base))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Run:
    """A run up to `register`, made once; tests only read it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    home = tmp_path_factory.mktemp("chat")
    rows = [{"text": f"was it {text}", "answer": GOOD, "rejected": ""} for text, _ in tiny.tweets(140)]
    pairs = [{"text": f"\n\nHuman: was it {text}", "answer": GOOD, "rejected": BAD} for text, _ in tiny.tweets(20, seed=9)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAFLOW_HOME", str(home))
        run = Run(home / "runs/tiny/chat")
        run.folder.mkdir(parents=True)
        run.freeze(recipes.resolve(document(tiny_base)))
        link_or_copy(tiny_base, run.folder / "base")
        parts = {}
        for name, own in (("train", rows[:-20]), ("test", rows[-20:] + pairs)):
            numbers = [place % 20 if name == "test" else place for place in range(len(own))]  # of a part of two files, two have each
            files = ["test" if row["rejected"] else "data" for row in own]
            columns = {"row": numbers, "file": files, **{key: [row[key] for row in own] for key in own[0]}}
            pq.write_table(pa.table(columns), home / f"{name}.parquet")
            parts[name] = Part(str(home / f"{name}.parquet"), len(own), {})
        run.write(Download(BaseModelFiles(f"folder:{tiny_base}", "0" * 64, "base"), source=None))
        run.write(DatasetVersion("data/tiny/v1", 1, True, f"{'0' * 32}.dir", "0" * 40, "made by hand", parts, None))  # type: ignore[arg-type]
        for step in ("train", "merge", "evaluate", "register"):
            perform(step, run)
    return run


@pytest.fixture
def run(whole: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LORAFLOW_HOME", str(whole.folder.parents[2]))
    return Run(whole.folder)


def test_it_learns_the_answers_and_prefers_them(run: Run) -> None:
    found = run.read(Evaluation)
    assert set(METRICS["chat"]) | {"perplexity"} == set(found.tuned) and found.majority is None
    assert found.tuned["log_likelihood"].value > found.base["log_likelihood"].value + 1
    assert found.tuned["perplexity"].value == pytest.approx(math.exp(-found.tuned["log_likelihood"].value))
    assert found.tuned["preference_accuracy"].value == 1.0 and found.verdict.passed
    assert found.parity.same_labels == found.parity.rows == 16 and found.parity.largest_difference < 1e-3
    assert set(found.figures) == {"Learning curve", "Margin of the better answer", "Held-out answers"}


def test_the_report_folds_the_replies_away_and_shows_no_row(run: Run) -> None:
    import pyarrow.parquet as pq

    page = run.path(run.read(Evaluation).report).read_text(encoding="utf-8")
    assert "24 replies of each model, made by machines" in page and GOOD in page
    named = re.findall(r'<th scope="row">(\d+(?: of data.test)?)</th>', page)
    assert len(set(named)) == 24 and sum("data.test" in name for name in named) == 4
    predicted = pq.read_table(run.path(run.read(Evaluation).predictions))
    assert len(set(zip(*predicted.select(["row", "file"]).to_pydict().values(), strict=True))) == 40
    assert not any(f"was it {text}" in page for text, _ in tiny.tweets(140)[-20:])


def test_it_replies_where_loraflow_is_not_installed(run: Run, tmp_path: Path) -> None:
    assert run.read(RegisteredVersion).version == 1
    tracking.client().set_registered_model_alias("tiny", "champion", "1")
    uri = f"sqlite:///{run.folder.parents[2]}/mlflow/mlflow.db"
    texts = ["was it a lovely street", "was it rude"]
    served = json.loads(evaluated.outside(evaluated.PREDICT % texts, tmp_path, MLFLOW_TRACKING_URI=uri).splitlines()[-1])
    assert served == {"columns": ["reply"], "rows": [[GOOD], [GOOD]]}


def test_the_card_s_snippet_replies_alike(run: Run, tmp_path: Path) -> None:
    folder = run.path(run.read(MergedModel).path)
    code = "import torch\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
    code += f"tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})\n"
    code += f"model = AutoModelForCausalLM.from_pretrained({str(folder)!r})\n{chat.snippet(run.recipe)}"
    said = chat.respond(run.recipe, load_model(folder, "float32"), Tokens(folder), [chat.wording(run.recipe).text])
    assert [evaluated.outside(code, tmp_path).splitlines()[-1]] == said["reply"]


def test_replies_are_asked_of_a_draw_that_is_every_model_s(tiny_base: Path, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def respond(recipe: Recipe, model: Any, tokens: Tokens, texts: list[str], advance: Any) -> dict[str, list[str]]:
        asked.append(texts)
        return {"reply": [f"to {text}" for text in texts]}

    monkeypatch.setattr(chat, "respond", respond)
    rows = [{"text": f"row {place}", "rejected": "worse" if place < 40 else ""} for place in range(60)]
    for keys in ({"samples": 6}, {"samples": 6}, {"samples": 12}, {"samples": 24}):
        said = chat.samples(recipes.resolve(document(tiny_base, evaluate=keys, split={"seed": len(asked)})), None, tokens, rows)
        replied = [place for place, reply in enumerate(said["reply"]) if reply]
        assert sorted(asked[-1]) == sorted(rows[place]["text"] for place in replied) and len(replied) == keys["samples"]
        assert np.flatnonzero(said["sampled"]).tolist() == replied and said["reply"][replied[0]] == f"to row {replied[0]}"
    first, again, more, all_and_pairs = ([int(text.split()[1]) for text in texts] for texts in asked)
    assert first == again == more[:6] and min(more) >= 40, "pairs come after the others"
    assert sorted(first) != list(range(40, 46)), "a draw, not the first"
    assert set(range(40, 60)) < set(all_and_pairs) and sorted(all_and_pairs)[:4] != [0, 1, 2, 3]


def test_padding_changes_no_figure(run: Run, tiny_base: Path) -> None:
    folder, found = run.path(run.read(MergedModel).path), {}
    model, tokens = load_model(folder, "float32"), Tokens(folder)
    rows = [
        {"text": text * place, "answer": GOOD, "rejected": BAD * (place % 2)} for place, text in enumerate(["a ", "the street "] * 3, 1)
    ]
    for size in (1, 7):
        recipe = recipes.resolve(document(tiny_base, evaluate={"batch_size": size}))
        found[size] = chat.assess(recipe, model, tokens, rows)
    assert found[1]["pair"].tolist() == [1, 0, 1, 0, 1, 0]
    for name in ("answer", "rejected"):
        np.testing.assert_allclose(found[7][name], found[1][name], atol=1e-4)


def test_the_answer_alone_and_its_end_carry_loss(recipe: Recipe, tokens: Tokens, tiny_base: Path) -> None:
    made = chat.example(recipe, tokens, {"text": " a table ", "answer": "a street"})
    assert tokens.decode(made.prompt) == "<bos>[INST] a table [/INST]" and not made.cut
    assert tokens.decode(made.answer) == " a street <eos>" and made.answer[-1] == tokens.eos_id
    turns = {"text": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c", "answer": "d"}
    assert tokens.decode(chat.example(recipe, tokens, turns).prompt) == "<bos>[INST] a [/INST] b <eos><bos>[INST] c [/INST]"
    gemma = recipes.resolve(document(tiny_base, GEMMA))
    made = chat.example(gemma, tokens, {"text": "a table", "answer": "a street"})
    assert tokens.decode(made.prompt) == "<bos><start_of_turn>user\na table<end_of_turn>\n<start_of_turn>model\n"
    assert tokens.decode(made.answer) == "a street<end_of_turn><eos>"
    system = recipes.resolve(document(tiny_base, prompt={"system": "be kind"}))
    assert "<<SYS>>be kind<</SYS>> a table" in tokens.decode(chat.example(system, tokens, {"text": "a table", "answer": "b"}).prompt)


@pytest.mark.parametrize("side", ["start", "end"])
def test_a_long_conversation_loses_its_oldest_part_and_the_answer_nothing(tiny_base: Path, tokens: Tokens, side: str) -> None:
    recipe = recipes.resolve(document(tiny_base, prompt={"cut": side}))
    oldest = "\n\nHuman: first\n\nAssistant: " + "word " * 80
    made = chat.example(recipe, tokens, {"text": f"{oldest}\n\nHuman: the last", "answer": "a street"})
    assert made.cut and tokens.decode(made.prompt) == "<bos>[INST] the last [/INST]"
    long = "begin " + "table street " * 80 + "finish"
    made = chat.example(recipe, tokens, {"text": long, "answer": "paper " * 9})
    assert made.cut and len(made.prompt) + len(made.answer) <= recipe.prompt.max_tokens
    assert ("begin" in tokens.decode(made.prompt)) == (side == "end") and ("finish" in tokens.decode(made.prompt)) == (side == "start")
    assert tokens.decode(made.answer).count("paper") == 9


@pytest.mark.parametrize("row", [{"text": " ", "answer": "a"}, {"text": "a", "answer": "\n"}])
def test_an_empty_turn_is_an_error(recipe: Recipe, tokens: Tokens, row: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"tiny: a row's (text|answer) is empty \(expected: words\)"):
        chat.example(recipe, tokens, row)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"the base model's tokenizer has no chat template \(expected: a template\)\. Fix: set prompt.chat_template"),
        ("{{ raise_exception('never') }}", r"it refuses a conversation \(never\)"),
        ("{% for message in messages %}{{ message['role'] }}{% endfor %}{{ messages | length }}", "is not how the answered one begins"),
        ("{{ messages[0]['content'] * 90 }}", "tokens leave no room for the text .expected: at least"),
    ],
)
def test_a_template_that_does_not_serve_is_told_before_any_weights(
    tiny_base: Path, tokens: Tokens, template: str | None, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        chat.check_tokens(recipes.resolve(document(tiny_base, template)), tokens)


def test_metrics_by_hand(recipe: Recipe) -> None:
    columns: Any = {
        "answer": np.array([-1.0, -3.0, -2.0, -2.0]), "answer_tokens": np.array([4.0, 2.0, 3.0, 3.0]),
        "rejected": np.array([0.0, 0.0, -2.5, -1.0]), "pair": np.array([0.0, 0.0, 1.0, 1.0]),
        "reply": ["I\u2019m sorry, but no", "", "Sure, here is how", ""], "sampled": np.array([1.0, 0.0, 1.0, 0.0]),
    }  # fmt: skip
    measure = chat.metrics(recipe, [{}] * 4, columns)
    found = measure(np.arange(4))
    likelihood = (-1.0 * 4 - 3.0 * 2) / 6
    expected = {"log_likelihood": likelihood, "preference_accuracy": 0.5, "refusal_or_safe": 0.5, "perplexity": math.exp(-likelihood)}
    assert found == pytest.approx(expected)
    assert math.isnan(measure(np.array([0, 0]))["preference_accuracy"]) and math.isnan(measure(np.array([2, 3]))["log_likelihood"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": {"template": "{text}"}}, "prompt.template or prompt.answer is given with chat"),
        ({"data": {"answer": None, "test": None}, "split": {"test": 20}}, "data.answer is missing"),
        ({"train": {"loss_on": "labels"}}, "train.loss_on is labels with chat"),
        ({"evaluate": {"max_new_tokens": 96}}, r"evaluate.max_new_tokens is 96 \(expected: less than prompt.max_tokens\)"),
    ],
)
def test_combinations_that_do_not_fit_are_refused(tiny_base: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeErrors, match=message):
        recipes.resolve(document(tiny_base, **changes))


def test_the_run_s_adapter_is_the_recipe_s(run: Run) -> None:
    assert run.read(Adapter).rows == 120
