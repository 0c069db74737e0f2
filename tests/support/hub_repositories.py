"""Writes the repositories of `tests.support.hub_families`, weights and all, as they lie on the Hub."""

import json
from pathlib import Path
from typing import Any

from tests.support.hub_families import Family
from tests.support.hub_tokenizers import Json

NOT_FETCHED = ("pytorch_model.bin", "original/consolidated.00.pth", "original/params.json", "consolidated.safetensors")
"""What repositories hold beside the model in transformers' format."""

ATTRIBUTES = """*.bin filter=lfs diff=lfs merge=lfs -text
*.model filter=lfs diff=lfs merge=lfs -text
*.pth filter=lfs diff=lfs merge=lfs -text
*.safetensors filter=lfs diff=lfs merge=lfs -text
tokenizer.json filter=lfs diff=lfs merge=lfs -text
"""
CARD = "---\nlicense: other\nlibrary_name: transformers\ntags:\n- made in a test\n---\n# {}\n"


def write(family: Family, folder: Path, *, weights: bool = True) -> Path:
    """Write a family's repository.

    Args:
        family: which.
        folder: where.
        weights: whether to make weights too, which takes torch.
    """
    made, vocabulary = family.tokenizer()
    ids = vocabulary.ids | {token["content"]: token["id"] for token in made["added_tokens"]}

    def numbered(found: Json) -> Json:
        """With ids in place of tokens."""
        places = {key: value for key, value in found.items() if key.endswith("_token_id")}
        return found | {key: [ids[each] for each in value] if isinstance(value, list) else ids[value] for key, value in places.items()}

    extra = {name: content for name, content in family.files.items() if name == "added_tokens.json" and isinstance(content, dict)}
    ids |= {token: len(ids) + place for place, token in enumerate(extra.get("added_tokens.json", {})) if token not in ids}
    listed = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in made["added_tokens"]}
    files: dict[str, Json | str | None] = {
        **dict.fromkeys(NOT_FETCHED, "of another format"),
        ".gitattributes": ATTRIBUTES,
        "README.md": CARD.format(family.name),
        "LICENSE": "terms",
        "config.json": numbered(family.config) | {"vocab_size": len(ids) + family.store},
        "generation_config.json": family.generation and numbered(family.generation),
        "tokenizer.json": made if family.fast else None,
        "tokenizer_config.json": family.tokenizer_config | ({"added_tokens_decoder": listed} if family.listed else {}),
        "special_tokens_map.json": family.special_tokens_map,
        "vocab.json": vocabulary.ids if family.slow else None,
        "merges.txt": "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in vocabulary.merges) if family.slow else None,
        **family.files,
        **{name: {token: ids[token] for token in content} for name, content in extra.items()},
    }
    for name, content in files.items():
        if content is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    if weights:
        _write_weights(family, folder)
    return folder


def _write_weights(family: Family, folder: Path) -> None:
    """Random weights under the names of the published ones: tied heads left out, in shards, with what old checkpoints hold besides."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights, seen = {}, set()
    for name, weight in model.state_dict().items():
        if name.endswith("lm_head.bias"):
            weight.normal_()  # otherwise nobody would miss it
        if weight.data_ptr() not in seen:
            seen.add(weight.data_ptr())
            weights[name.removeprefix(family.bare)] = weight.to(getattr(torch, family.config.get("torch_dtype", "float32"))).contiguous()
    weights |= {name: torch.ones(1, 1, 8, 8, dtype=torch.uint8 if name.endswith(".bias") else torch.float32) for name in family.buffers}
    names = sorted(weights)
    if family.shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    places = {name: place * family.shards // len(names) + 1 for place, name in enumerate(names)}
    places = {name: f"model-{shard:05}-of-{family.shards:05}.safetensors" for name, shard in places.items()}
    for file in set(places.values()):
        save_file({name: weights[name] for name in names if places[name] == file}, folder / file, metadata={"format": "pt"})
    size = sum(weight.nbytes for weight in weights.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": places}, indent=2))
