"""`config.json` and `generation_config.json` of the families: all keys of the published files, the sizes tiny.

Where the files have a token's id, here stands the token; its id and `vocab_size` depend on the vocabulary that the tests learn.
"""

from tests.support.hub_tokenizers import Json

POSITIONS = 512

GEMMA: Json = {
    "architectures": ["GemmaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": "<bos>",
    "eos_token_id": "<eos>", "head_dim": 32, "hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 64,
    "initializer_range": 0.1, "intermediate_size": 128, "max_position_embeddings": POSITIONS, "model_type": "gemma",
    "num_attention_heads": 2, "num_hidden_layers": 2, "num_key_value_heads": 1, "pad_token_id": "<pad>", "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 10000.0, "torch_dtype": "bfloat16", "transformers_version": "4.38.0.dev0", "use_cache": True,
}  # fmt: skip
GEMMA_2: Json = GEMMA | {
    "architectures": ["Gemma2ForCausalLM"], "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid",
    "eos_token_id": ["<eos>", "<end_of_turn>"], "final_logit_softcapping": 30.0, "hidden_act": "gelu_pytorch_tanh",
    "model_type": "gemma2", "query_pre_attn_scalar": 32, "sliding_window": 24, "transformers_version": "4.42.4",
}  # fmt: skip
GEMMA_3: Json = {
    "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": None,
    "bos_token_id": "<bos>", "cache_implementation": "hybrid", "eos_token_id": ["<eos>", "<end_of_turn>"],
    "final_logit_softcapping": None, "head_dim": 32, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 64,
    "initializer_range": 0.1, "intermediate_size": 128, "max_position_embeddings": POSITIONS, "model_type": "gemma3_text",
    "num_attention_heads": 2, "num_hidden_layers": 2, "num_key_value_heads": 1, "pad_token_id": "<pad>", "query_pre_attn_scalar": 32,
    "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 24,
    "sliding_window_pattern": 6, "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0", "use_cache": True,
}  # fmt: skip
LLAMA_2: Json = {
    "_name_or_path": "meta-llama/Llama-2-7b-chat-hf", "architectures": ["LlamaForCausalLM"], "bos_token_id": "<s>",
    "eos_token_id": "</s>", "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.1, "intermediate_size": 128,
    "max_position_embeddings": POSITIONS, "model_type": "llama", "num_attention_heads": 2, "num_hidden_layers": 2,
    "num_key_value_heads": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False,
    "torch_dtype": "float16", "transformers_version": "4.32.0.dev0", "use_cache": True,
}  # fmt: skip
LLAMA_3: Json = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": "<|begin_of_text|>",
    "eos_token_id": ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"], "head_dim": 32, "hidden_act": "silu", "hidden_size": 64,
    "initializer_range": 0.1, "intermediate_size": 128, "max_position_embeddings": POSITIONS, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 2, "num_hidden_layers": 2, "num_key_value_heads": 1, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 128, "rope_type": "llama3",
    },
    "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.45.0.dev0",
    "use_cache": True,
}  # fmt: skip
MISTRAL: Json = {
    "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": "<s>", "eos_token_id": "</s>",
    "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.1, "intermediate_size": 128, "max_position_embeddings": POSITIONS,
    "model_type": "mistral", "num_attention_heads": 2, "num_hidden_layers": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.42.0.dev0", "use_cache": True,
}  # fmt: skip
PHI_3: Json = {
    "_name_or_path": "Phi-3-mini-4k-instruct", "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"},
    "bos_token_id": "<s>", "embd_pdrop": 0.0, "eos_token_id": "<|endoftext|>", "hidden_act": "silu", "hidden_size": 64,
    "initializer_range": 0.1, "intermediate_size": 128, "max_position_embeddings": POSITIONS, "model_type": "phi3",
    "num_attention_heads": 2, "num_hidden_layers": 2, "num_key_value_heads": 2, "original_max_position_embeddings": POSITIONS,
    "pad_token_id": "<|endoftext|>", "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
    "sliding_window": 2047, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.40.2", "use_cache": True,
}  # fmt: skip
GPT_NEOX: Json = {
    "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": "<|endoftext|>", "eos_token_id": "<|endoftext|>", "hidden_act": "gelu",
    "hidden_size": 64, "initializer_range": 0.1, "intermediate_size": 128, "layer_norm_eps": 1e-05, "max_position_embeddings": POSITIONS,
    "model_type": "gpt_neox", "num_attention_heads": 2, "num_hidden_layers": 2, "rotary_emb_base": 10000, "rotary_pct": 0.25,
    "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.24.0", "use_cache": True,
    "use_parallel_residual": True,
}  # fmt: skip
GPT_J: Json = {
    "activation_function": "gelu_new", "architectures": ["GPTJForCausalLM"], "attn_pdrop": 0.0, "bos_token_id": "<|endoftext|>",
    "embd_pdrop": 0.0, "eos_token_id": "<|endoftext|>", "gradient_checkpointing": False, "initializer_range": 0.1,
    "layer_norm_epsilon": 1e-05, "model_type": "gptj", "n_embd": 64, "n_head": 2, "n_inner": None, "n_layer": 2, "n_positions": POSITIONS,
    "resid_pdrop": 0.0, "rotary": True, "rotary_dim": 16, "scale_attn_weights": True, "summary_activation": None,
    "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50, "temperature": 1.0}}, "tie_word_embeddings": False,
    "tokenizer_class": "GPT2Tokenizer", "transformers_version": "4.18.0.dev0", "use_cache": True,
}  # fmt: skip
GPT_2: Json = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": "<|endoftext|>",
    "embd_pdrop": 0.1, "eos_token_id": "<|endoftext|>", "initializer_range": 0.1, "layer_norm_epsilon": 1e-05, "model_type": "gpt2",
    "n_ctx": POSITIONS, "n_embd": 64, "n_head": 2, "n_layer": 2, "n_positions": POSITIONS, "resid_pdrop": 0.1, "summary_activation": None,
    "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}  # fmt: skip
QWEN_3: Json = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": "<|endoftext|>",
    "eos_token_id": "<|im_end|>", "head_dim": 32, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.1,
    "intermediate_size": 128, "max_position_embeddings": POSITIONS, "max_window_layers": 28, "model_type": "qwen3",
    "num_attention_heads": 2, "num_hidden_layers": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False,
}  # fmt: skip
QWEN_2: Json = {key: value for key, value in QWEN_3.items() if key not in ("attention_bias", "head_dim", "rope_scaling")} | {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "sliding_window": 32768, "tie_word_embeddings": False,
    "transformers_version": "4.43.1",
}  # fmt: skip
XGLM: Json = {
    "activation_dropout": 0, "activation_function": "gelu", "architectures": ["XGLMForCausalLM"], "attention_dropout": 0.1,
    "attention_heads": 2, "bos_token_id": "<s>", "d_model": 64, "decoder_start_token_id": "</s>", "dropout": 0.1, "eos_token_id": "</s>",
    "ffn_dim": 128, "init_std": 0.1, "layerdrop": 0.0, "max_position_embeddings": POSITIONS, "model_type": "xglm", "num_layers": 2,
    "pad_token_id": "<pad>", "scale_embedding": True, "transformers_version": "4.16.0.dev0", "use_cache": True,
}  # fmt: skip
OPT: Json = {
    "_name_or_path": "opt-125m", "_remove_final_layer_norm": False, "activation_dropout": 0.0, "activation_function": "relu",
    "architectures": ["OPTForCausalLM"], "attention_dropout": 0.0, "bos_token_id": "</s>", "do_layer_norm_before": True, "dropout": 0.1,
    "eos_token_id": "</s>", "ffn_dim": 128, "hidden_size": 64, "init_std": 0.1, "layerdrop": 0.0, "max_position_embeddings": POSITIONS,
    "model_type": "opt", "num_attention_heads": 2, "num_hidden_layers": 2, "pad_token_id": "<pad>", "prefix": "</s>",
    "torch_dtype": "float16", "transformers_version": "4.21.0.dev0", "use_cache": True, "word_embed_proj_dim": 64,
}  # fmt: skip
GPT_NEO: Json = {
    "activation_function": "gelu_new", "architectures": ["GPTNeoForCausalLM"], "attention_dropout": 0,
    "attention_layers": ["global", "local"], "attention_types": [[["global", "local"], 1]], "bos_token_id": "<bos>", "embed_dropout": 0,
    "eos_token_id": "<eos>", "gradient_checkpointing": False, "hidden_size": 64, "initializer_range": 0.1, "intermediate_size": None,
    "layer_norm_epsilon": 1e-05, "max_position_embeddings": POSITIONS, "model_type": "gpt_neo", "num_heads": 2, "num_layers": 2,
    "resid_dropout": 0, "transformers_version": "4.9.0.dev0", "use_cache": True, "window_size": 64,
}  # fmt: skip
