"""What tests train in seconds: a tiny random Gemma, a data file it can learn, and a recipe that joins the two."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

from tasks.contracts import BaseModelFiles, DatasetVersion, Download, Part
from tasks.schema import load as recipes
from tasks.workspace.files import link_or_copy
from tasks.workspace.run import Run

POSITIVE = ["lovely", "great", "sunny", "kind"]
NEGATIVE = ["awful", "broken", "rainy", "rude"]
NEUTRAL = ["table", "street", "number", "paper"]
FILLER = ["today", "the", "a", "was", "very", "again", "my", "this", "that", "there"]


def tweets(rows: int, seed: int = 0) -> list[tuple[str, str]]:
    """Made-up (text, label) rows whose label one word gives away; no text stands twice."""
    draw, seen = random.Random(seed), set()
    result = []
    while len(result) < rows:
        label, words = [("positive", POSITIVE), ("negative", NEGATIVE), ("neutral", NEUTRAL)][len(result) % 3]
        text = [draw.choice(FILLER) for _ in range(draw.randint(3, 9))]
        text.insert(draw.randint(0, len(text)), draw.choice(words))
        if (line := " ".join(text)) not in seen:
            seen.add(line)
            result.append((line, label))
    return result


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    """The rows as the demo's kind of file: columns text and sentiment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("text,sentiment\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")
    return path


def build_gemma(folder: Path) -> Path:
    """A Gemma 3 of two layers with random weights and a tokenizer of its own, saved as a base model is.

    The tokenizer knows ` positive`, ` negative`, ` neutral`, ` Positive` and ` Negative` as single tokens.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

    labels = ["positive", "negative", "neutral", "Positive", "Negative"]
    corpus = [f"Tweet: {text}\nSentiment: {label}" for text, _ in tweets(300) for label in labels]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=480, special_tokens=special, initial_alphabet=alphabet))
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>", padding_side="left"
    )
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(fast), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, sliding_window=64, max_position_embeddings=512,
        pad_token_id=0, eos_token_id=1, bos_token_id=2, initializer_range=0.1,
    )  # fmt: skip
    model = Gemma3ForCausalLM(config)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def recipe_document(base: Path, source: Path, name: str = "tiny") -> dict[str, Any]:
    """A whole recipe on the tiny base and the made-up rows, as `tasks.schema.load.load` would return it."""
    return {
        "schema": 1,
        "name": name,
        "kind": "label_scoring",
        "title": "Made-up tweets",
        "description": "For tests.",
        "language": "en",
        "licence": {"data": "made in the test", "base_model": "made in the test"},
        "data": {"source": {"file": str(source)}, "text": "text", "label": "sentiment"},
        "labels": {"names": ["negative", "neutral", "positive"]},
        "validate": {
            "expectations": [
                {"expect": "expect_column_values_to_not_be_null", "column": "text", "reason": "no text"},
                {
                    "expect": "expect_column_values_to_be_in_set", "column": "sentiment",
                    "value_set": ["negative", "neutral", "positive"], "reason": "unknown label",
                },
            ]
        },
        "split": {"seed": 1, "test": 60, "validation": 30, "balance": "downsample"},
        "base_model": {"name": f"folder:{base}", "dtype": "float32"},
        "prompt": {"template": "Tweet: {text}\nSentiment:", "answer": " {label}", "max_tokens": 64},
        "lora": {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
        "train": {
            "learning_rate": 5.0e-3, "lr_scheduler_type": "constant", "per_device_train_batch_size": 8,
            "num_train_epochs": 3, "save_steps": 10, "seed": 3,
        },
        "evaluate": {"parity_rows": 16, "resamples": 200},
        "gate": {"metric": "macro_f1", "floors": {"macro_f1": 0.5}},
    }  # fmt: skip


def write_part(run: Run, name: str, rows: list[tuple[str, str]]) -> Part:
    """A part of a data set below the run's folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run.folder / "parts" / f"{name}.parquet"
    path.parent.mkdir(exist_ok=True)
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    pq.write_table(pa.table({"row": range(2, len(rows) + 2), "text": texts, "label": labels}), path)
    return Part(run.relative(path), len(rows), dict(Counter(labels)))


def start_at_train(
    folder: Path, base: Path, rows: list[tuple[str, str]], document: dict[str, Any] | None = None, validation: int = 0
) -> Run:
    """A run with hand-made manifests of `download` and `version`: the last 60 rows are the test part, those before for validation."""
    run = Run(folder)
    folder.mkdir(parents=True)
    run.freeze(recipes.resolve(document or recipe_document(base, folder / "none.csv")))
    link_or_copy(base, folder / "base")
    held_out = len(rows) - 60 - validation
    parts = {"train": write_part(run, "train", rows[:held_out]), "test": write_part(run, "test", rows[-60:])}
    if validation:
        parts["validation"] = write_part(run, "validation", rows[held_out:-60])
    run.write(Download(BaseModelFiles(f"folder:{base}", "0" * 64, "base"), source=None))
    run.write(DatasetVersion("data/tiny/v1", 1, True, f"{'0' * 32}.dir", "0" * 40, "made by hand", parts, None))
    return run
