"""Tiny random models of the architectures that recipes name, beside the Gemma 3 of `tests.tiny`."""

from pathlib import Path

from tests.tiny import build_gemma


def build_gemma2(folder: Path) -> Path:
    """A Gemma 2 of two layers, one of them with a sliding window, whose tokenizer knows the ends of turns as special tokens."""
    import torch
    from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(build_gemma(folder))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, sliding_window=24, max_position_embeddings=512, query_pre_attn_scalar=32,
        pad_token_id=0, eos_token_id=1, bos_token_id=2, initializer_range=0.1,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
