"""An adapter on an output layer that is the embedding, or has a bias; `tests/training/test_architectures.py` has one on Llama's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import merge as step
from tasks.contracts import Adapter, BaseModelFiles, DatasetVersion, Download, MergedModel, Part
from tasks.errors import ContractError
from tasks.kinds import chat
from tasks.model.load import load_adapter, load_model
from tasks.model.tokenizer import Tokens
from tasks.schema import load as recipes
from tasks.training.fit import with_adapter
from tasks.workspace.files import link_or_copy
from tasks.workspace.perform import perform
from tasks.workspace.run import Run
from tests.support import tiny, tiny_gptj
from tests.support.tiny_models import LLAMA_2, build_llama

pytestmark = pytest.mark.trains

ROWS = [{"text": f"was it {text}", "answer": "that was very kind", "rejected": ""} for text, _ in tiny.tweets(40)]


def document(base: Path, **changes: Any) -> dict[str, Any]:
    """A chat recipe whose adapter lies on attention and output layer, biases trained."""
    found = tiny.recipe_document(base, base / "none.csv")
    del found["labels"], found["data"]["label"]
    found |= {"kind": "chat", "gate": {"metric": "log_likelihood"}, "prompt": {"max_tokens": 96, "chat_template": LLAMA_2}}
    found["data"] |= {"answer": "answer"}
    found["split"] = {"seed": 1, "test": 10}
    found["lora"] = {"r": 4, "lora_alpha": 8, "bias": "lora_only", "target_modules": ["q_proj", "v_proj", "lm_head"]}
    found["train"] |= {"max_steps": 6, "learning_rate": 1.0e-2, "save_steps": 3}
    found["evaluate"] |= {"max_new_tokens": 12}
    return recipes._lay_over(found, changes)


def merged_run(folder: Path, base: Path) -> Run:
    """A run up to `merge` with hand-made manifests before it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    run = Run(folder)
    folder.mkdir(parents=True)
    run.freeze(recipes.resolve(document(base)))
    link_or_copy(base, folder / "base")
    table = pa.table({"row": range(len(ROWS)), **{name: [row[name] for row in ROWS] for name in ROWS[0]}})
    pq.write_table(table, folder / "rows.parquet")
    part = Part("rows.parquet", len(ROWS), {})
    run.write(Download(BaseModelFiles(f"folder:{base}", "0" * 64, "base"), source=None))
    run.write(DatasetVersion("data/tiny/v1", 1, True, f"{'0' * 32}.dir", "0" * 40, "by hand", {"train": part, "test": part}, None))
    perform("train", run)
    perform("merge", run)
    return run


def adapter_file(run: Run) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(run.path(run.read(Adapter).path) / "adapter_model.safetensors")


@pytest.mark.parametrize("model", ["gemma", "gptj"])
def test_adapter_and_biases_are_alive_in_the_merged_model(home: Path, tiny_base: Path, model: str) -> None:
    from safetensors.torch import load_file

    base = tiny_base if model == "gemma" else tiny_gptj.build_gptj(home / "gptj", tiny_base, 480)
    run = merged_run(home / "runs/tiny/output", base)
    folder, saved = run.path(run.read(MergedModel).path), adapter_file(run)
    plain, merged = load_model(base, "float32"), load_model(folder, "float32")
    before, after = dict(plain.named_parameters()), dict(merged.named_parameters())

    head = "base_model.model.lm_head."
    assert {name for name in saved if name.startswith(head)} >= {f"{head}lora_A.weight", f"{head}lora_B.weight"}
    assert not any(name.endswith(("base_layer.weight", "embed_tokens.weight")) for name in saved), "no frozen weight beside the adapter"
    with_adapter(run.recipe, load_model(base, "float32")).save_pretrained(home / "checkpoint")  # as the trainer does
    assert set(load_file(home / "checkpoint/adapter_model.safetensors")) == set(saved), "nor in a checkpoint"
    delta = 8 / 4 * saved[f"{head}lora_B.weight"] @ saved[f"{head}lora_A.weight"]
    assert delta.abs().max() > 1e-3
    assert merged.lm_head.weight.allclose(plain.lm_head.weight + delta, atol=1e-5)
    assert merged.get_input_embeddings().weight.equal(plain.get_input_embeddings().weight), "the embedding stays as it was"
    assert merged.lm_head.weight is not merged.get_input_embeddings().weight and not merged.config.tie_word_embeddings

    biases = {name.removeprefix("base_model.model.").replace(".base_layer", "") for name in saved if name.endswith(".bias")}
    assert biases == {"gemma": set(), "gptj": {"lm_head.bias"}}[model]
    for name in biases:
        assert (after[name] - before[name]).abs().max() > 1e-3, "the bias was trained"

    recipe, tokens = run.recipe, Tokens(folder)
    adapted = load_adapter(base, run.path(run.read(Adapter).path), "float32")
    said, beside, one = (
        np.asarray(chat.assess(recipes.resolve(document(base, evaluate={"batch_size": size})), scored, tokens, ROWS)["answer"], float)
        for scored, size in ((merged, 16), (adapted, 16), (merged, 1))
    )
    np.testing.assert_allclose(said, beside, atol=1e-3)
    np.testing.assert_allclose(said, one, atol=1e-4)
    assert said.mean() > np.asarray(chat.assess(recipe, plain, tokens, ROWS)["answer"], float).mean() + 0.5

    if model == "gptj":
        with pytest.raises(ContractError, match=r"merge: lm_head.bias: differs from the adapter's \(expected: the trained bias\)"):
            step._check_biases(plain, step._trained_biases(run.path(run.read(Adapter).path)))


def test_llama_s_answer_is_the_conversation_s_own_tokens(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = build_llama(tmp_path / "llama")
    recipe, tokens = recipes.resolve(document(base, prompt={"chat_template": None, "system": "be kind"})), Tokens(base)
    made = chat.example(recipe, tokens, {"text": " a table ", "answer": "a street"})
    turns = [("system", "be kind"), ("user", "a table"), ("assistant", "a street")]
    whole = AutoTokenizer.from_pretrained(base).apply_chat_template([{"role": role, "content": said} for role, said in turns])["input_ids"]
    assert made.prompt + made.answer == whole
    assert [tokens.decode([token]) for token in made.answer] == [" a", " street", " ", "</s>"]
