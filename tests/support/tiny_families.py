"""A tiny random model of each family of causal language models that transformers knows, with strong positions and strong padding."""

from collections.abc import Callable
from functools import cache
from typing import Any

VOCABULARY, POSITIONS, HIDDEN = 480, 96, 32
"""Rows of the embedding, enough for `tests.support.tiny`; positions that a model has where it has a table of them; width."""

PAD, END, BEGIN = 0, 1, 2

TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": END, "bos_token_id": BEGIN}

LLAMA = TOKENS | {
    "hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 16, "max_position_embeddings": POSITIONS,
}  # fmt: skip
"""Llama's names of sizes, which most families have taken over."""

GPT = TOKENS | {"n_embd": HIDDEN, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}

MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8}

BART = TOKENS | {
    "d_model": HIDDEN, "num_hidden_layers": 2, "encoder_layers": 2, "decoder_layers": 2, "decoder_attention_heads": 2,
    "decoder_ffn_dim": 48, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "max_position_embeddings": POSITIONS,
}  # fmt: skip


def without(sizes: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in sizes.items() if name not in names}


LINEAR = {
    "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_experts": 2,
    "num_experts_per_tok": 1, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip

SOUND: dict[str, tuple[str, dict[str, Any]]] = {
    # absolute positions
    "gpt2": ("GPT2", GPT),
    "gpt_bigcode": ("GPTBigCode", GPT),
    "gpt_neo": ("GPTNeo", TOKENS | {
        "hidden_size": HIDDEN, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]], "window_size": 8,
        "max_position_embeddings": POSITIONS,
    }),
    "openai_gpt": ("OpenAIGPT", GPT),
    "ctrl": ("CTRL", GPT | {"dff": 48}),
    "opt": ("OPT", TOKENS | {
        "hidden_size": HIDDEN, "word_embed_proj_dim": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 48,
        "max_position_embeddings": POSITIONS,
    }),
    "xglm": ("XGLM", TOKENS | {
        "d_model": HIDDEN, "num_layers": 2, "attention_heads": 2, "ffn_dim": 48, "max_position_embeddings": POSITIONS,
    }),
    "biogpt": ("BioGpt", without(LLAMA, "num_key_value_heads", "head_dim")),
    # rotary positions
    "gptj": ("GPTJ", GPT | {"rotary_dim": 8}),
    "codegen": ("CodeGen", GPT | {"n_head": 4, "rotary_dim": 4}),
    "gpt_neox": ("GPTNeoX", without(LLAMA, "num_key_value_heads", "head_dim")),
    "falcon": ("Falcon", without(LLAMA, "intermediate_size", "num_key_value_heads", "head_dim")),
    **{
        name.lower(): (name, LLAMA)
        for name in ("Gemma", "Llama", "Mixtral", "Qwen2", "Qwen3", "Olmo", "Olmo2", "Granite", "SmolLM3")
    },
    "mistral": ("Mistral", LLAMA | {"sliding_window": 8}),
    "gemma2": ("Gemma2", LLAMA | {"sliding_window": 8, "query_pre_attn_scalar": 16}),
    "gemma3": ("Gemma3Text", LLAMA | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}),
    **{name.lower(): (name, without(LLAMA, "head_dim")) for name in ("Phi", "Phi3", "StableLm", "Starcoder2", "Cohere")},
    # distances in place of positions
    "bloom": ("Bloom", TOKENS | {"hidden_size": HIDDEN, "n_layer": 2, "n_head": 2}),
    "mpt": ("Mpt", TOKENS | {"d_model": HIDDEN, "n_layers": 2, "n_heads": 2, "max_seq_len": POSITIONS}),
    "falcon_alibi": ("Falcon", without(LLAMA, "intermediate_size", "num_key_value_heads", "head_dim") | {"alibi": True}),
    # states in place of positions, or beside them
    "mamba": ("Mamba", without(LLAMA, "head_dim") | {"state_size": 8}),
    "mamba2": ("Mamba2", TOKENS | {
        "hidden_size": HIDDEN, "num_hidden_layers": 2, "state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8,
    }),
    "jamba": ("Jamba", without(LLAMA, "head_dim") | {
        "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "expert_layer_period": 2, "expert_layer_offset": 1,
        "use_mamba_kernels": False, "mamba_d_state": 8, "mamba_dt_rank": 4,
    }),
    "falcon_h1": ("FalconH1", LLAMA | MAMBA | {"mamba_d_ssm": 64}),
    "lfm2": ("Lfm2", without(LLAMA, "head_dim") | {"layer_types": ["conv", "full_attention"]}),
    "qwen3_next": ("Qwen3Next", LLAMA | LINEAR | {"layer_types": ["linear_attention", "full_attention"]}),
}  # fmt: skip
"""Families that read a text beside a longer one as alone: name to the configuration's class, without its end, and sizes."""

ROPE = {"rope_theta": 1e4}

UNSOUND: dict[str, tuple[str, dict[str, Any]]] = {
    "rwkv": ("Rwkv", TOKENS | {"hidden_size": HIDDEN, "attention_hidden_size": HIDDEN, "num_hidden_layers": 2}),
    "recurrent_gemma": ("RecurrentGemma", LLAMA | {"num_hidden_layers": 3, "lru_width": HIDDEN, "attention_window_size": 8}),
    "bart": ("Bart", BART),
    "llama_dynamic": ("Llama", LLAMA | {"max_position_embeddings": 16, "rope_parameters": ROPE | {"rope_type": "dynamic", "factor": 2.0}}),
    "phi3_longrope": ("Phi3", without(LLAMA, "head_dim") | {
        "original_max_position_embeddings": 16,
        "rope_parameters": ROPE | {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8},
    }),
}  # fmt: skip
"""Families that do not."""

OFFSET: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta": ("Roberta", without(LLAMA, "num_key_value_heads", "head_dim") | {"is_decoder": True}),
}
"""Those that count positions from another number than 0."""

FAMILIES = SOUND | UNSOUND | OFFSET


def configuration(family: str, **changes: Any) -> Any:
    """The configuration of a family's tiny model; `changes` come on top."""
    import transformers

    name, sizes = FAMILIES[family]
    return getattr(transformers, f"{name}Config")(**sizes | changes)


@cache
def family_of(family: str) -> Any:
    """A family's tiny causal language model, made once; tests only read it."""
    from transformers import AutoModelForCausalLM

    return built(AutoModelForCausalLM.from_config, configuration(family))


def built(make: Callable[[Any], Any], config: Any) -> Any:
    """A model with random weights that say something: no matrix near zero, so that a wrong position or a padding token would show."""
    import torch

    torch.manual_seed(0)
    model = make(config).eval().float()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
    return model
