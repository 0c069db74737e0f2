"""Each recipe's full profile on a tiny random model of its base's family: packed as the recipe says, trained, killed, merged, reloaded.

What changes is size alone: two narrow layers, few steps at a higher learning rate, and no float16 mixed precision, which needs a GPU.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.bases import configuration, write
from tasks.contracts import Adapter, BaseModelFiles, DatasetVersion, Download, MergedModel, Part
from tasks.errors import DataError
from tasks.kinds.answers.generation import log_probabilities
from tasks.kinds.base import Columns, Example, classes_of, examples_of, kind_of, numbers, words
from tasks.model.load import HEAD_WEIGHT, load_adapter, load_model
from tasks.model.new_tokens import new_rows
from tasks.model.tokenizer import TOKENIZER_FILES, Tokens
from tasks.registry import tracking
from tasks.schema import load as recipes
from tasks.schema.recipe import Recipe
from tasks.train import train
from tasks.workspace.files import link_or_copy
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny, tiny_models

pytestmark = pytest.mark.trains

BIASES = pytest.mark.guards(
    "tasks/model", "tasks/training", "tasks/kinds", "tasks/merge.py", "tasks/recipes/stop_hate.yaml", "requirements.lock"
)
CASES = ["ethos", "unsmile", "sentiment_ko", "stop_hate", pytest.param("stop_hate with biases", marks=BIASES), "gitana"]
"""Recipes; Llama has no biases that could be trained, so its recipe is tried on one that has them as well."""

STEPS, SAVED = 8, 4

PARITY_TOLERANCE = 0.01
"""How far what adapter and merged model say may lie apart, a probability or nats a token; two recipes merge into 16 bits."""


@dataclass(frozen=True)
class Tuned:
    """A run up to `merge` whose training was killed half way."""

    case: str
    run: Run
    base: Path
    trainer: Any
    """The one that trained undisturbed."""
    undisturbed: Adapter
    resumed: Adapter

    @property
    def recipe(self) -> Recipe:
        return self.run.recipe

    @property
    def folder(self) -> Path:
        return self.run.path(self.run.read(MergedModel).path)

    def saved(self, adapter: Adapter) -> dict[str, Any]:
        from safetensors.torch import load_file

        return load_file(self.run.path(adapter.path) / "adapter_model.safetensors")

    def merged(self, dtype: str = "float32") -> Any:
        """The merged model as a user loads it."""
        return load_model(self.folder, dtype, classes_of(self.recipe))

    def plain(self, dtype: str = "float32") -> Any:
        """The base model with rows for new tokens; a head that it lacks is drawn."""
        return load_model(self.base, dtype, classes_of(self.recipe), rows=new_rows(self.recipe, self.base))

    def assess(self, model: Any, batch_size: int) -> Columns:
        """What the evaluation asks of a model; where it ends in the vocabulary also the means of given answers, nats a token."""
        evaluate = self.recipe.evaluate.model_copy(update={"batch_size": batch_size})
        recipe, kind = self.recipe.model_copy(update={"evaluate": evaluate}), kind_of(self.recipe)
        tokens, test = Tokens(self.folder), rows(recipe, 12, seed=5)
        found = kind.assess(recipe, model, tokens, test)
        if kind.HEAD == "causal":
            found["given"] = answered(model, tokens, [kind.example(recipe, tokens, row) for row in test], batch_size)
        return found


def answered(model: Any, tokens: Tokens, examples: list[Example], batch_size: int = 12) -> np.ndarray:
    return log_probabilities(model, tokens, examples, batch_size=batch_size) / [len(example.answer) for example in examples]


def rows(recipe: Recipe, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Made-up rows with the columns of the recipe's parts."""
    names, found = recipe.labels.names, []
    for place, (text, _) in enumerate(tiny.tweets(count, seed)):
        row: dict[str, Any] = {"row": place + 2, "text": text}
        if names:
            row["label"] = "|".join(names[:2]) if recipe.multi_label and place % 5 == 0 else names[place % len(names)]
        row |= {column: f"that was {tiny.FILLER[place % 10]} kind" for column in recipe.data.answers()}
        found.append(row | ({"rejected": "" if place % 2 else "a rude street"} if "rejected" in row else {}))
    return found


def build(case: str, folder: Path, tiny_base: Path) -> Path:
    """A tiny random base of the recipe's family; vocabulary in store beyond the tokenizer's, as the published ones have it."""
    from safetensors.torch import load_file, save_file

    name = recipes.load(recipes.RECIPES / f"{case.partition(' ')[0]}.yaml")["base_model"]["name"]
    config = configuration(name, tiny=True)
    if config.model_type == "llama":
        tiny_models.build_llama(folder)
        config.attention_bias = config.mlp_bias = case.endswith("biases")
    elif config.model_type == "gemma2":
        tiny_models.build_gemma2(folder)
    else:
        for file in TOKENIZER_FILES:
            if (tiny_base / file).exists():
                link_or_copy(tiny_base / file, folder / file)
    config.initializer_range = 0.1  # otherwise all rows are as probable as one another
    write(config, folder, "cpu")
    if config.model_type == "gptj":
        weights = load_file(folder / "model.safetensors")
        weights["lm_head.bias"].normal_()  # otherwise it would not be missed
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def begin(case: str, home: Path, tiny_base: Path) -> Run:
    """A run of the recipe with hand-made manifests before `train`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name, folder = case.partition(" ")[0], home / "runs" / case.replace(" ", "_")
    base = build(case, folder / "base", tiny_base)
    changes: dict[str, Any] = {
        "base_model.name": f"folder:{base}", "train.fp16": False, "train.max_steps": STEPS, "train.learning_rate": 1e-2,
        "train.save_steps": SAVED, "train.logging_steps": 1, "evaluate.max_new_tokens": 48,
    }  # fmt: skip
    document = recipes.load(recipes.RECIPES / f"{name}.yaml")
    if document["train"].get("eval_strategy") == "steps":
        changes["train.eval_steps"] = SAVED
    if document["base_model"].get("dtype", "auto") == "auto":
        changes["base_model.dtype"] = "float32"  # the same on every processor
    run = Run(folder)
    run.freeze(recipes.resolve(document, "full", changes))
    made, parts = rows(run.recipe, 76), {}
    for part, own in (("train", made[:64]), ("validation", made[64:])):
        pq.write_table(pa.Table.from_pylist(own), folder / f"{part}.parquet")
        parts[part] = Part(f"{part}.parquet", len(own), {})
    run.write(Download(BaseModelFiles(f"folder:{base}", "0" * 64, "base"), source=None))
    run.write(DatasetVersion(f"data/{name}/v1", 1, True, f"{'0' * 32}.dir", "0" * 40, "made by hand", parts, None))  # type: ignore[arg-type]
    return run


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home, and so one MLflow database, for all recipes."""
    home = tmp_path_factory.mktemp("architectures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORAFLOW_HOME", str(home))
        yield home


@pytest.fixture(scope="module", params=CASES)
def tuned(request: pytest.FixtureRequest, module_home: Path, tiny_base: Path) -> Tuned:
    """Trained, as if killed after the first checkpoint and resumed, and merged; made once a case, tests only read it."""
    from transformers import Trainer

    trainers, run = [], begin(request.param, module_home, tiny_base)
    plain_train = Trainer.train

    def attempt(number: int) -> Adapter:
        """Train without the tidying up afterwards: checkpoints stay."""
        run.attempt, run.kept = run.folder / "train" / f"g0-a{number}", run.folder / "train" / "g0-kept"
        return train(run)

    with pytest.MonkeyPatch.context() as patch:
        # On a processor with AVX-512 BF16 an evaluation rounds the blocks' scales anew (bitsandbytes 0.50); on a GPU none does.
        patch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
        patch.setattr(Trainer, "train", lambda self, **options: trainers.append(self) or plain_train(self, **options))
        undisturbed = attempt(1)
        shutil.rmtree(run.kept / f"checkpoint-{STEPS}")
        resumed = attempt(2)
    run.write(resumed)
    perform("merge", run)
    return Tuned(request.param, run, run.folder / "base", trainers[0], undisturbed, resumed)


def test_a_killed_training_resumes_to_the_same_state(tuned: Tuned) -> None:
    one, other = tuned.undisturbed, tuned.resumed
    assert (one.resumed_from_step, other.resumed_from_step, one.steps, other.steps) == (0, SAVED, STEPS, STEPS)
    assert one.emissions and other.emissions and other.emissions.attempts == 2
    assert other.emissions.energy_kwh > one.emissions.energy_kwh, "what the first attempt spent counts"
    first, second = tuned.saved(one), tuned.saved(other)
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert weight.allclose(second[name], atol=1e-6), name


def test_the_trainer_is_the_recipe_s(tuned: Tuned) -> None:
    import torch

    recipe, trainer = tuned.recipe, tuned.trainer
    train, optimizer = recipe.train, trainer.optimizer.optimizer
    eight, paged = train.optim.endswith("8bit"), train.optim.startswith("paged")
    assert type(optimizer).__module__.partition(".")[0] == ("bitsandbytes" if eight else "torch")
    assert type(optimizer).__name__ == "AdamW" and (not eight or (optimizer.args.optim_bits, optimizer.is_paged) == (8, paged))
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    assert {weight for group in optimizer.param_groups for weight in group["params"]} == set(trained)
    groups = [group for group in optimizer.param_groups if group["params"]]
    large = [state["state1"] for state in optimizer.state.values() if eight and state["state1"].numel() >= 64 * 64]
    assert all(state.dtype == torch.uint8 for state in large) and bool(large) == (
        eight and max(weight.numel() for weight in trained) >= 64 * 64
    )
    assert {group["weight_decay"] for group in groups} == {train.weight_decay} and {group["betas"] for group in groups} == {(0.9, 0.999)}
    assert trainer.model.is_activation_checkpointing == train.activation_checkpointing
    assert trainer.accelerator.mixed_precision == "no" and trainer.args.max_grad_norm == train.max_grad_norm
    kept = {weight.dtype for name, weight in trainer.model.named_parameters() if "lora_" in name or name.endswith(HEAD_WEIGHT)}
    assert kept == {torch.float32}, "what is trained is kept in full"
    history = tracking.client().get_metric_history(tuned.undisturbed.tracked.run_id, "train.learning_rate")
    rising, falling = [step / train.warmup_steps for step in range(train.warmup_steps)], STEPS - train.warmup_steps
    shape = [*rising, *(1 - step / falling if train.lr_scheduler_type == "linear" else 1.0 for step in range(falling))]
    assert [metric.value for metric in history[:STEPS]] == pytest.approx([train.learning_rate * share for share in shape])


def test_the_validation_part_is_scored_where_the_recipe_says(tuned: Tuned) -> None:
    history = tracking.client().get_metric_history(tuned.undisturbed.tracked.run_id, "validation.loss")
    expected = [] if tuned.recipe.train.eval_strategy == "no" else [SAVED, STEPS, STEPS]  # the last once more when resumed
    assert [metric.step for metric in history] == expected and all(np.isfinite(metric.value) for metric in history)
    assert not history or history[1].value == pytest.approx(history[2].value, abs=1e-5)


def test_all_that_was_trained_lives_in_the_merged_model_and_nothing_else_changed(tuned: Tuned) -> None:
    """The merged model is base and adapter added up by hand; in every block each target of the recipe is among what was trained."""
    dtype, saved, seen = tuned.recipe.base_model.dtype, tuned.saved(tuned.resumed), set()
    assert "quantization_config" not in (tuned.folder / "config.json").read_text(), "merged into the base as it is unpacked"
    assert tuned.run.read(MergedModel).dtype == dtype
    before, after = dict(tuned.plain(dtype).named_parameters()), dict(tuned.merged(dtype).named_parameters())
    assert before.keys() == after.keys()
    for name, merged in after.items():
        expected, own = added_up(tuned, name, before[name].float(), saved)
        if own:
            assert (expected - before[name]).abs().max() > 1e-3, f"{name}: trained"
            assert merged.allclose(expected.to(merged.dtype), rtol=2e-3, atol=1e-4), name
        else:
            assert merged.equal(before[name]), f"{name}: not trained"
        seen |= own
    assert seen == saved.keys()

    blocks, targets = 2, tuned.recipe.lora.target_modules
    linear = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj") if targets == "all-linear" else targets
    adapted = sorted(name.split(".")[-3] for name in saved if name.endswith("lora_A.weight"))
    assert adapted == sorted(name for target in linear for name in [target] * (1 if target == "lm_head" else blocks))
    assert sum(name.endswith(".bias") for name in saved) == (7 * blocks if tuned.case.endswith("biases") else 0)
    assert sum("trainable_tokens" in name for name in saved) == (2 if tuned.recipe.prompt.new_tokens else 0), "embedding and output layer"
    assert sum(name.endswith(HEAD_WEIGHT) for name in saved) == (kind_of(tuned.recipe).HEAD == "classification")


def added_up(tuned: Tuned, name: str, weight: Any, saved: dict[str, Any]) -> tuple[Any, set[str]]:
    """What a parameter must be after the merge, and which of the adapter's tensors say so."""
    module, _, kind = f"base_model.model.{name}".rpartition(".")
    if kind == "weight" and (one := f"{module}.lora_A.weight") in saved:
        other, lora = f"{module}.lora_B.weight", tuned.recipe.lora
        return weight + lora.lora_alpha / lora.r * saved[other] @ saved[one], {one, other}
    for key in (f"{module}.base_layer.bias" if kind == "bias" else "", f"{module}.{kind}"):  # a bias; a head
        if key in saved:
            return saved[key].float(), {key}
    if kind == "weight" and (key := f"{module}.token_adapter.trainable_tokens_delta") in saved:
        rows = new_rows(tuned.recipe, tuned.base)
        assert rows
        moved = (saved[key] - weight[list(rows.ids)]).abs().amax(dim=1)
        assert moved[1 if name.startswith("lm_head") else 0] > 1e-3, "the start is read, the stop written"
        return weight.index_copy(0, moved.new_tensor(rows.ids).long(), saved[key].float()), {key}
    return weight, set()


def test_merged_model_and_adapter_say_the_same(tuned: Tuned) -> None:
    """In the recipe's own numbers, as the evaluation asks them."""
    dtype, classes = tuned.recipe.base_model.dtype, classes_of(tuned.recipe)
    adapted = load_adapter(tuned.base, tuned.run.path(tuned.resumed.path), dtype, classes, new_rows(tuned.recipe, tuned.base))
    merged, beside = tuned.assess(tuned.merged(dtype), 12), tuned.assess(adapted, 12)
    assert words(merged) == words(beside) and numbers(merged).keys() == numbers(beside).keys()
    for name, column in numbers(merged).items():
        np.testing.assert_allclose(column, numbers(beside)[name], atol=PARITY_TOLERANCE, err_msg=name)


def test_padding_changes_nothing(tuned: Tuned) -> None:
    model = tuned.merged()
    one, many = tuned.assess(model, 1), tuned.assess(model, 12)
    assert words(one) == words(many)
    for name, column in numbers(one).items():
        np.testing.assert_allclose(column, numbers(many)[name], atol=1e-4, err_msg=name)
    assert max(np.ptp(column) for column in numbers(one).values()) > 1e-3, "the rows must differ, or the comparison says nothing"


def test_the_answer_and_its_end_were_learned(tuned: Tuned) -> None:
    recipe, kind, tokens = tuned.recipe, kind_of(tuned.recipe), Tokens(tuned.folder)
    examples = [kind.example(recipe, tokens, row) for row in rows(recipe, 12, seed=5)]
    if kind.HEAD == "classification":  # a head writes nothing, and its prompt ends with the text
        assert [example.answer for example in examples] == [[place % len(recipe.labels.names)] for place in range(12)]
        return
    plain, merged = tuned.plain(), tuned.merged()
    end = tokens.encode(recipe.prompt.stop)[0] if recipe.prompt.stop else tokens.eos_id
    assert all(example.answer[-1] == end for example in examples)
    ends = [Example(example.prompt + example.answer[:-1], example.answer[-1:], False) for example in examples]
    for asked in (examples, ends):
        assert answered(merged, tokens, asked).mean() > answered(plain, tokens, asked).mean() + 0.5


def test_a_bad_row_is_told_by_its_number(tuned: Tuned) -> None:
    recipe, tokens = tuned.recipe, Tokens(tuned.folder)
    spoilt = ["text", *(["label"] if recipe.labels.names else []), *(name for name in recipe.data.answers() if name != "rejected")]
    for name in spoilt:
        made = rows(recipe, 6)
        made[3] |= {name: "odd" if name == "label" else " \n"}
        found = (
            r"label is 'odd' \(expected: one of .*\)\. Fix: split again"
            if name == "label"
            else rf"{name} is empty \(expected: .*\)\. Fix: add an expectation"
        )
        with pytest.raises(DataError, match=f"^{recipe.name}: row 5: {found}"):
            examples_of(recipe, tokens, made)
