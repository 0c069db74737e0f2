"""A tiny random GPT-J: an output layer of its own, with a bias that says something."""

import shutil
from pathlib import Path

from tasks.model.tokenizer import TOKENIZER_FILES


def build_gptj(folder: Path, tokenizer: Path, vocabulary: int) -> Path:
    """A GPT-J of two layers, saved as a base model is.

    Args:
        folder: where it goes.
        tokenizer: folder of the tokenizer that it takes.
        vocabulary: rows of its embedding.
    """
    import torch
    from transformers import GPTJConfig, GPTJForCausalLM

    torch.manual_seed(0)
    config = GPTJConfig(
        vocab_size=vocabulary, n_embd=64, n_layer=2, n_head=2, rotary_dim=16, n_positions=512, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        bos_token_id=2, eos_token_id=1, tie_word_embeddings=False, initializer_range=0.1,
    )  # fmt: skip
    model = GPTJForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.bias)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, folder / name)
    return folder
