"""Small repositories of base models as the Hub has them, one for each family: every JSON file written key by key, never by a library.

Their numbers are tiny and their weights random; names of files, keys and kinds of values are those of the published repositories.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.support import hub_configs as configs
from tests.support import hub_templates as templates
from tests.support.hub_tokenizers import LLAMA_3, QWEN, Json, Made, added, byte_level, gemma, llama, typed, xglm
from tests.support.tiny_models import LLAMA_2

NO_LIMIT = 1000000000000000019884624838656
END = "<|endoftext|>"


@dataclass(frozen=True)
class Family:
    """A family's repository. Where one of its configurations has a token's id, here stands the token."""

    name: str
    """On the Hub."""
    config: Json
    tokenizer: Callable[[], Made]
    tokenizer_config: Json
    special_tokens_map: Json | None = None
    generation: Json | None = None
    files: dict[str, Json | str] = field(default_factory=dict)
    """Further ones."""
    fast: bool = True
    """Whether there is a `tokenizer.json`."""
    slow: bool = False
    """Whether there are `vocab.json` and `merges.txt`."""
    listed: bool = True
    """Whether `tokenizer_config.json` lists `added_tokens_decoder`, as files since 2023 do."""
    store: int = 0
    """Rows of the embedding beyond the tokenizer's vocabulary; negative where a control token lies beyond the embedding."""
    shards: int = 1
    bare: str = ""
    """What the names of the published weights lack at their beginning."""
    buffers: tuple[str, ...] = ()
    """Buffers in old checkpoints, which today's models have no place for."""


def mapped(content: str, **flags: bool) -> Json:
    """A token in `special_tokens_map.json`."""
    return {key: value for key, value in added(content, **flags).items() if key != "special"}


def named(bos: str | None, eos: str | None, unk: str | None = None, pad: str | None = None) -> Json:
    """The named tokens of a `tokenizer_config.json`."""
    return {"bos_token": bos, "eos_token": eos, "unk_token": unk, "pad_token": pad}


def in_dicts(tokens: Json) -> Json:
    """The named tokens as most files called `special_tokens_map.json` have them."""
    return {name: mapped(token) for name, token in tokens.items() if token}


GEMMA_TURNS = ["<start_of_turn>", "<end_of_turn>"]
GEMMA_NAMES = named("<bos>", "<eos>", "<unk>", "<pad>")
GEMMA: Json = {
    "add_bos_token": True, "add_eos_token": False, "additional_special_tokens": GEMMA_TURNS, "chat_template": templates.GEMMA,
    "clean_up_tokenization_spaces": False, "legacy": None, "model_max_length": NO_LIMIT, "sp_model_kwargs": {},
    "spaces_between_special_tokens": False, "tokenizer_class": "GemmaTokenizer", "use_default_system_prompt": False, **GEMMA_NAMES,
}  # fmt: skip
GEMMA_GENERATION: Json = {"_from_model_config": True, "bos_token_id": "<bos>", "eos_token_id": "<eos>", "pad_token_id": "<pad>"}
UNUSED = tuple(f"<unused{place}>" for place in range(4))
IMAGES = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
SENTENCE_PIECE = "\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02"
"""The first bytes of such a `tokenizer.model`; nobody reads it where there is a `tokenizer.json`."""
LLAMA: Json = {
    "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False, "legacy": False, "model_max_length": NO_LIMIT,
    "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer", **named("<s>", "</s>", "<unk>"),
}  # fmt: skip
MISTRAL_CONTROL = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[control_8]")
LLAMA_3_CONTROL = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|finetune_right_pad_id|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
)  # fmt: skip
PHI_3_CONTROL = ("<|assistant|>", "<|placeholder1|>", "<|system|>", "<|end|>", "<|placeholder5|>", "<|user|>")
QWEN_CONTROL = ["<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|vision_pad|>"]
QWEN_TOOLS = ("<tool_call>", "<think>")
QWEN_BYTES = {"normalizer": {"type": "NFC"}, "split": QWEN, "old": False}
FOREIGN_CODE = "raise SystemExit('foreign code was run')"
GPT_J_MASKS = ("transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias")

FAMILIES = {
    "gemma": Family(
        "google/gemma-2b-it", configs.GEMMA, gemma("<mask>", "<2mass>", "[@BOS@]", *UNUSED, *GEMMA_TURNS, listed=False, old=True),
        GEMMA, in_dicts(GEMMA_NAMES) | {"additional_special_tokens": GEMMA_TURNS}, GEMMA_GENERATION,
        {"tokenizer.model": SENTENCE_PIECE}, shards=2,
    ),
    "gemma2": Family(
        "google/gemma-2-2b-it", configs.GEMMA_2, gemma("<mask>", "<2mass>", "[@BOS@]", *UNUSED, *GEMMA_TURNS, "<table>", listed=True),
        {key: value for key, value in GEMMA.items() if key != "legacy"}, in_dicts(GEMMA_NAMES) | {"additional_special_tokens": GEMMA_TURNS},
        GEMMA_GENERATION | {"cache_implementation": "hybrid", "eos_token_id": ["<eos>", "<end_of_turn>"]},
        {"tokenizer.model": SENTENCE_PIECE}, shards=2,
    ),
    "gemma3": Family(
        "google/gemma-3-1b-it", configs.GEMMA_3,
        gemma("<mask>", "[multimodal]", *UNUSED, *GEMMA_TURNS, *list(IMAGES.values())[:2], listed=True, beyond=("<image_soft_token>",)),
        {key: value for key, value in GEMMA.items() if key not in ("additional_special_tokens", "legacy")}
        | IMAGES | {"extra_special_tokens": IMAGES, "processor_class": "Gemma3Processor", "sp_model_kwargs": None},
        in_dicts(GEMMA_NAMES) | IMAGES,
        {"cache_implementation": "hybrid", "do_sample": True, "eos_token_id": ["<eos>", "<end_of_turn>"], "top_k": 64, "top_p": 0.95},
        {"tokenizer.model": SENTENCE_PIECE, "added_tokens.json": {"<image_soft_token>": "<image_soft_token>"},
         "chat_template.jinja": templates.GEMMA + "{# in a file of its own #}"},
        store=-1,
    ),
    "llama2": Family(
        "meta-llama/Llama-2-13b-chat-hf", configs.LLAMA_2, llama(),
        LLAMA | {"chat_template": LLAMA_2, "padding_side": "right", "use_default_system_prompt": False}, in_dicts(LLAMA),
        {"bos_token_id": "<s>", "do_sample": True, "eos_token_id": "</s>", "pad_token_id": "<unk>", "temperature": 0.6,
         "max_length": 4096, "top_p": 0.9},
        {"tokenizer.model": SENTENCE_PIECE, "USE_POLICY.md": "# Acceptable use", "LICENSE.txt": "terms"},
        shards=3, buffers=("model.layers.0.self_attn.rotary_emb.inv_freq",),
    ),
    "llama3": Family(
        "meta-llama/Llama-3.2-1B-Instruct", configs.LLAMA_3,
        byte_level(*map(added, LLAMA_3_CONTROL), split=LLAMA_3, begin="<|begin_of_text|>", old=False),
        {"bos_token": "<|begin_of_text|>", "chat_template": templates.LLAMA_3, "clean_up_tokenization_spaces": True,
         "eos_token": "<|eot_id|>", "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 131072,
         "tokenizer_class": "PreTrainedTokenizerFast"},
        in_dicts(named("<|begin_of_text|>", "<|eot_id|>")),
        {"bos_token_id": "<|begin_of_text|>", "do_sample": True, "eos_token_id": ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
         "temperature": 0.6, "top_p": 0.9},
        {"USE_POLICY.md": "# Acceptable use", "LICENSE.txt": "terms"},
    ),
    "mistral": Family(
        "mistralai/Mistral-7B-Instruct-v0.3", configs.MISTRAL, llama(*MISTRAL_CONTROL),
        LLAMA | {"add_prefix_space": True, "additional_special_tokens": [], "chat_template": templates.MISTRAL,
                 "spaces_between_special_tokens": False, "use_default_system_prompt": False},
        named("<s>", "</s>", "<unk>") | {"pad_token": "<unk>"}, {"_from_model_config": True, "bos_token_id": "<s>", "eos_token_id": "</s>"},
        {"tokenizer.model": SENTENCE_PIECE, "tokenizer.model.v3": SENTENCE_PIECE, "params.json": {"dim": 64}}, shards=2,
    ),
    "hermes": Family(
        "NousResearch/Hermes-2-Pro-Mistral-7B", configs.MISTRAL | {"eos_token_id": "<|im_end|>"},
        llama(after=(added("<|im_end|>"), added("<|im_start|>", special=False))),
        LLAMA | {"chat_template": [{"name": "default", "template": "{{ bos_token }}" + templates.CHATML},
                                   {"name": "tool_use", "template": templates.CHATML}],
                 "eos_token": "<|im_end|>", "pad_token": "</s>", "trust_remote_code": False, "use_fast": True},
        in_dicts(named("<s>", "<|im_end|>", "<unk>", "</s>")), {"_from_model_config": True, "bos_token_id": "<s>", "eos_token_id": "</s>"},
        {"tokenizer.model": SENTENCE_PIECE, "added_tokens.json": {token: token for token in ("<|im_end|>", "<|im_start|>")}}, shards=2,
    ),
    "phi3": Family(
        "microsoft/Phi-3-mini-4k-instruct", configs.PHI_3,
        llama(after=(added(END), *(added(token, rstrip=True) for token in PHI_3_CONTROL)), begin=False),
        LLAMA | {"add_bos_token": False, "chat_template": templates.PHI_3, "eos_token": END, "model_max_length": 4096,
                 "pad_token": END, "padding_side": "left", "use_default_system_prompt": False},
        in_dicts(named("<s>", END, "<unk>", END)),
        {"_from_model_config": True, "bos_token_id": "<s>", "eos_token_id": [END, "<|assistant|>", "<|end|>"], "pad_token_id": END},
        {"added_tokens.json": {token: token for token in (END, *PHI_3_CONTROL)}, "tokenizer.model": SENTENCE_PIECE,
         "configuration_phi3.py": FOREIGN_CODE, "modeling_phi3.py": FOREIGN_CODE},
        store=24, shards=2,
    ),
    "neox": Family(
        "EleutherAI/pythia-70m-deduped", configs.GPT_NEOX,
        byte_level(*(added("  " * count, special=False, normalized=True) for count in (2, 1)), first=(END, "<|padding|>"),
                   normalizer={"type": "NFC"}),
        {"add_prefix_space": False, **named(END, END, END), "name_or_path": "EleutherAI/gpt-neox-20b",
         "special_tokens_map_file": "/admin/home/pythia/special_tokens_map.json", "tokenizer_class": "GPTNeoXTokenizer"},
        named(END, END, END), store=10, listed=False,
        buffers=tuple(f"gpt_neox.layers.0.attention.{name}" for name in ("bias", "masked_bias", "rotary_emb.inv_freq")),
    ),
    "bertin": Family(
        "bertin-project/bertin-gpt-j-6B", configs.GPT_J, byte_level(added(END, normalized=True), known=True),
        {"unk_token": typed(END), "bos_token": typed(END), "eos_token": typed(END), "add_prefix_space": False, "errors": "replace",
         "model_max_length": 2048, "special_tokens_map_file": None, "name_or_path": "bertin", "from_slow": True,
         "tokenizer_class": "GPT2Tokenizer"},
        named(END, END, END), store=20, slow=True, listed=False, buffers=GPT_J_MASKS,
    ),
    "gptj": Family(
        "EleutherAI/gpt-j-6b", configs.GPT_J, byte_level(added(END), known=True),
        {"add_prefix_space": False, "model_max_length": 2048, "tokenizer_class": "GPT2Tokenizer"},
        {"bos_token": END, "eos_token": END, "unk_token": END}, None,
        {"added_tokens.json": {f"<|extratoken_{place}|>": place for place in range(1, 9)}}, slow=True, fast=False, listed=False,
        buffers=GPT_J_MASKS,
    ),
    "marked": Family(
        "team/gpt-neo-marked", configs.GPT_NEO, byte_level(added("<pad>"), added("<eos>"), added("<bos>")),
        {"model_max_length": 512, "tokenizer_class": "PreTrainedTokenizerFast"}, in_dicts(named("<bos>", "<eos>", None, "<pad>")),
        listed=False,
    ),
    "gpt2": Family(
        "openai-community/gpt2", configs.GPT_2, byte_level(added(END), known=True), {"model_max_length": 1024},
        generation={"bos_token_id": END, "eos_token_id": END, "transformers_version": "4.26.0.dev0", "_from_model_config": True},
        slow=True, listed=False, bare="transformer.", buffers=("h.0.attn.bias",),
    ),
    "opt": Family(
        "facebook/opt-125m", configs.OPT, byte_level(first=("<s>", "<pad>", "</s>", "<unk>")),
        {"errors": "replace", "unk_token": typed("</s>"), "bos_token": typed("</s>"), "eos_token": typed("</s>"),
         "pad_token": typed("<pad>"), "add_prefix_space": False, "add_bos_token": True, "special_tokens_map_file": None,
         "tokenizer_class": "GPT2Tokenizer"},
        in_dicts(named("</s>", "</s>", "</s>", "<pad>")),
        {"_from_model_config": True, "bos_token_id": "</s>", "eos_token_id": "</s>", "pad_token_id": "<pad>"},
        slow=True, fast=False, listed=False,
    ),
    "qwen3": Family(
        "Qwen/Qwen3-0.6B", configs.QWEN_3,
        byte_level(added(END), *map(added, QWEN_CONTROL), *(added(token, special=False) for token in QWEN_TOOLS), **QWEN_BYTES),
        {"add_bos_token": False, "add_prefix_space": False, "additional_special_tokens": QWEN_CONTROL, "chat_template": templates.CHATML,
         "clean_up_tokenization_spaces": False, "errors": "replace", "model_max_length": 131072, "split_special_tokens": False,
         "tokenizer_class": "Qwen2Tokenizer", **named(None, "<|im_end|>", None, END)},
        None, {"bos_token_id": END, "do_sample": True, "eos_token_id": ["<|im_end|>", END], "pad_token_id": END, "temperature": 0.6},
        slow=True, store=30, shards=2,
    ),
    "qwen2": Family(
        "Qwen/Qwen2-7B-Instruct", configs.QWEN_2, byte_level(added(END), *map(added, QWEN_CONTROL), **QWEN_BYTES),
        {"add_prefix_space": False, "backend": "tokenizers", "chat_template": templates.CHATML, "clean_up_tokenization_spaces": False,
         "errors": "replace", "extra_special_tokens": QWEN_CONTROL[:2], "is_local": False, "model_max_length": 32768,
         "tokenizer_class": "Qwen2TokenizerFast", **named(None, "<|im_end|>", None, END)},
        None, {"bos_token_id": END, "eos_token_id": ["<|im_end|>", END], "pad_token_id": END}, slow=True, store=30, shards=2, listed=False,
    ),
    "xglm": Family(
        "facebook/xglm-564M", configs.XGLM, xglm,
        {"add_prefix_space": True, "additional_special_tokens": [f"<madeupword{place}>" for place in range(7)], "cls_token": "<s>",
         "model_max_length": 2048, "sep_token": "</s>", "sp_model_kwargs": {}, "tokenizer_class": "XGLMTokenizer",
         **named("<s>", "</s>", "<unk>", "<pad>")},
        in_dicts(named("<s>", "</s>", "<unk>", "<pad>")), {"bos_token_id": "<s>", "eos_token_id": "</s>", "pad_token_id": "<pad>"},
        {"sentencepiece.bpe.model": SENTENCE_PIECE}, listed=False,
    ),
}  # fmt: skip
"""By a short name."""
FAMILIES["llama2_base"] = replace(
    FAMILIES["llama2"], name="meta-llama/Llama-2-7b-hf", tokenizer_config=LLAMA | {"legacy": True, "padding_side": "right"}, shards=2
)
