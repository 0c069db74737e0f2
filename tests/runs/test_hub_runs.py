"""Each published recipe from `preflight` to `push`: its base from a Hub on loopback, as its family's repository is, its result back there.

What changes of a recipe is size alone: made-up rows in its file format, few steps, shorter texts.
"""

import ast
import contextlib
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import STEPS, Download, MergedModel, Promotion, Publication, RegisteredVersion
from tasks.kinds.answers.prompt import build_prompt
from tasks.kinds.base import kind_of
from tasks.schema import load as recipes
from tasks.schema.recipe import Recipe
from tasks.settings import settings
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny
from tests.support.hub_families import FAMILIES
from tests.support.hub_models import ModelHub, model_hub, taken_for_the_hub
from tests.support.hub_repositories import write
from tests.support.hub_server import TOKEN
from tests.support.hub_texts import sentences

pytestmark = pytest.mark.trains

ROWS = 60
CLOSE = {"": 1e-4, "-lora": 0.05}
"""How far logits may lie apart: the merged model is float32 here, the base under the adapter comes in its own 16 bits."""
SIZE: dict[str, Any] = {
    "split.test": 16, "split.validation": 8, "base_model.dtype": "float32", "prompt.max_tokens": 320, "train.max_steps": 4,
    "train.warmup_steps": 1, "train.save_steps": 4, "train.per_device_train_batch_size": 2, "train.gradient_accumulation_steps": 1,
    "train.learning_rate": 1e-3, "train.fp16": False, "evaluate.parity_rows": 4, "evaluate.resamples": 100, "evaluate.max_new_tokens": 40,
}  # fmt: skip


def ethos(place: Path) -> Path:
    lines = [f'"{text}";{number % 10 / 10}' for number, text in enumerate(sentences(ROWS, seed=2))]
    place.write_text("comment;isHate\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return place


def unsmile(place: Path) -> Path:
    marks = ["여성/가족", "남성", "성소수자", "인종/국적", "연령", "지역", "종교", "기타 혐오"]
    lines = ["\t".join(["문장", *marks, "악플/욕설", "clean"])]
    for number, text in enumerate(sentences(ROWS, seed=len(place.name))):
        marked = [str(int(column in (number % 10, number % 12))) for column in range(8)]
        lines.append("\t".join([text, *marked, "0", str(int("1" not in marked))]))
    place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place


def sentiment_ko(place: Path) -> Path:
    lines = [f"row{number}\t{text}\t{[24, 5, 42, 6][number % 4]}" for number, text in enumerate(sentences(ROWS, seed=4))]
    place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place


def stop_hate(place: Path) -> Path:
    rows = [{"instruction": text, "input": "", "output": f"No, {text}."} for text in sentences(ROWS, seed=5)]
    place.write_text(json.dumps(rows), encoding="utf-8")
    return place


def pairs(place: Path) -> Path:
    """Dialogues that differ in their last turn, of which the first is the better."""
    asked = [f"\n\nHuman: {text}\n\nAssistant:" for text in sentences(12, seed=6)]
    lines = [json.dumps({"chosen": f"{text} No.", "rejected": f"{text} Yes, rude."}) for text in asked]
    place.write_bytes(gzip.compress("\n".join(lines).encode()))
    return place


def gitana(place: Path) -> Path:
    lines = ["hechos,intervencion,resultado,sentiment"]
    for number, text in enumerate(sentences(ROWS, seed=7)):
        word, guess = [("Positivo", "POS"), ("Negativo", "NEG"), ("Neutro", "NEU")][number % 3]
        lines.append(f'"{text} {number}","{tiny.FILLER[number % 10]} intervención {number}","{word}. {text}",{guess}')
    place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place


@dataclass(frozen=True)
class Case:
    """A published recipe."""

    family: str
    """Of its base."""
    data: Callable[[Path], Path]
    """Writes rows as its file has them."""
    changes: dict[str, Any]


CASES = {
    "ethos": Case("gemma", ethos, {"split.validation": 0}),
    "unsmile": Case("gemma2", unsmile, {"split.test": 0, "split.validation": 16}),
    "sentiment_ko": Case("gemma2", sentiment_ko, {}),
    "stop_hate": Case("llama2", stop_hate, {"evaluate.samples": 4}),
    "gitana": Case("bertin", gitana, {}),
}


@dataclass(frozen=True)
class Published:
    """A run that went the whole way."""

    run: Run
    hub: ModelHub

    def card(self, suffix: str) -> str:
        return self.hub.repositories[f"team/{self.run.recipe.name}{suffix}"].files["README.md"].decode()


def document(name: str, folder: Path) -> dict[str, Any]:
    """The recipe as its file has it, but for where its rows lie."""
    found, case = recipes.load(recipes.RECIPES / f"{name}.yaml"), CASES[name]
    assert found["base_model"]["name"] == FAMILIES[case.family].name
    found["data"]["source"] = {"file": str(case.data(folder / f"{name}.data"))}
    if "test" in found["data"]:
        rows, ending = (pairs, "gz") if name == "stop_hate" else (case.data, "data")
        found["data"]["test"]["source"] = {"file": str(rows(folder / f"{name}-test.{ending}"))}
    found["gate"] = {"metric": found["gate"]["metric"], "beats_base": False}
    return found


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHub]:
    """A Hub with the bases of the recipes, Llama 2 gated, in place of the real one for this process; a home to publish from."""
    home = tmp_path_factory.mktemp("hub-runs")
    with model_hub() as state, taken_for_the_hub(state, home, token=TOKEN) as patch:
        for family in {case.family for case in CASES.values()}:
            state.add(FAMILIES[family].name, write(FAMILIES[family], home / family))
        state.gated[FAMILIES["llama2"].name] = True
        patch.setenv("LORAFLOW_HOME", str(home / "home"))
        patch.setenv("LORAFLOW_HUB", "hub:team")
        yield state


@pytest.fixture(scope="module", params=CASES)
def published(request: pytest.FixtureRequest, hub: ModelHub, tmp_path_factory: pytest.TempPathFactory) -> Published:
    name, folder = request.param, tmp_path_factory.mktemp("rows")
    made = document(name, folder)
    changes = SIZE | ({"train.eval_steps": 4} if made["train"].get("eval_strategy") == "steps" else {}) | CASES[name].changes
    run = Run(settings().home / "runs" / name / "first")
    run.folder.mkdir(parents=True)
    run.freeze(recipes.resolve(made, "full", changes))
    for step in STEPS:
        perform(step, run)
    return Published(run, hub)


def test_it_is_published(published: Published) -> None:
    run, hub = published.run, published.hub
    base = run.read(Download).base_model
    assert (base.name, base.revision) == (FAMILIES[CASES[run.recipe.name].family].name, hub.commit(base.name))
    assert run.read(Promotion).promoted and run.read(Publication).model.startswith(f"{hub.url}/team/{run.recipe.name}/tree/")
    merged = run.path(run.read(MergedModel).path)
    model = hub.repositories[f"team/{run.recipe.name}"]
    assert model.private and {path.name: path.read_bytes() for path in merged.iterdir()}.items() <= model.files.items()
    assert f"base_model: {base.name}" in published.card("") and f"base_model: {base.name}" in published.card("-lora")


@pytest.mark.parametrize("suffix", ["", "-lora"], ids=["model", "adapter"])
def test_the_published_repository_answers_as_the_registered_model(published: Published, suffix: str) -> None:
    """By the card's own code, from the Hub, base and all."""
    import mlflow
    import torch

    recipe = published.run.recipe
    text, names = kind_of(recipe).wording(recipe).text, {}
    code = re.findall(r"```python\n(.*?)```", published.card(suffix), flags=re.DOTALL)[0]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    served = mlflow.pyfunc.load_model(published.run.read(RegisteredVersion).uri)
    check_answer(recipe, printed.getvalue().strip().splitlines()[-1], served.predict([text]).iloc[0].to_dict(), CLOSE[suffix])
    inner, ids = served.unwrap_python_model(), names["encode"](text)
    if recipe.kind != "chat":
        assert ids == build_prompt(recipe, inner.tokens, text, recipe.prompt.max_tokens)[0]
    with torch.inference_mode():
        ours, theirs = (model(input_ids=torch.tensor([ids])).logits.float() for model in (inner.model, names["model"]))
    torch.testing.assert_close(theirs, ours, atol=CLOSE[suffix], rtol=0)


def check_answer(recipe: Recipe, said: str, answer: dict[str, Any], close: float) -> None:
    """What the card's code printed, beside the served columns."""
    if recipe.kind in ("label_scoring", "sequence_classification"):
        scores = ast.literal_eval(said)
        assert max(scores, key=scores.get) == answer["label"]
        assert scores == pytest.approx({name: answer[f"score_{name}"] for name in recipe.labels.names}, abs=close)
    elif recipe.kind == "label_generation":
        assert ast.literal_eval(said) == (answer["labels"].split("|") if answer["labels"] else [])
    elif recipe.kind == "structured_generation":
        assert (ast.literal_eval(said) if said != "unparsable" else dict.fromkeys(answer, "")) == answer
    else:
        assert said == answer["reply"]
