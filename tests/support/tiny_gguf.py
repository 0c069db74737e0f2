"""A Gemma 3 of one layer as a GGUF with a tokenizer of its own, split over packages as the demo's is."""

import hashlib
from pathlib import Path

import numpy as np

WORDS = ["▁positive", "▁negative", "▁neutral", "▁Tweet", ":", "▁", "\n"]


def write_gguf(path: Path) -> bytes:
    """Write the file; returns its bytes."""
    import gguf

    writer = gguf.GGUFWriter(path, "gemma3")
    hidden, heads, size, feed = 32, 2, 16, 64
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.UNKNOWN] + [gguf.TokenType.BYTE] * 256
    pieces = sorted({word[:end] for word in WORDS for end in range(1, len(word) + 1)} | {letter for word in WORDS for letter in word})
    tokens, kinds = tokens + pieces, kinds + [gguf.TokenType.NORMAL] * len(pieces)
    writer.add_name("Tiny Gemma")
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    writer.add_feed_forward_length(feed)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_sliding_window(64)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    draw = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(tokens), hidden), "output_norm": (hidden,),
        "blk.0.attn_q": (heads * size, hidden), "blk.0.attn_k": (size, hidden), "blk.0.attn_v": (size, hidden),
        "blk.0.attn_output": (hidden, heads * size), "blk.0.attn_q_norm": (size,), "blk.0.attn_k_norm": (size,),
        "blk.0.attn_norm": (hidden,), "blk.0.post_attention_norm": (hidden,), "blk.0.ffn_norm": (hidden,),
        "blk.0.post_ffw_norm": (hidden,), "blk.0.ffn_gate": (feed, hidden), "blk.0.ffn_up": (feed, hidden),
        "blk.0.ffn_down": (hidden, feed),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draw.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def package_files(body: bytes, parts: int = 12) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Files of the package and of the one that it requires: checksum and notices here, the parts over both, out of order."""
    step = -(-len(body) // parts)
    pieces = {f"data/tiny.gguf.part{number:d}": body[number * step : (number + 1) * step] for number in range(parts)}
    sums = f"{hashlib.sha256(body).hexdigest()}  tiny.gguf\n".encode()
    first = {"data/SHA256SUMS": sums, "data/NOTICE.md": b"made in the test", "data/TERMS.html": b"<p>terms</p>", "__init__.py": b"1 / 0"}
    odd = {name: piece for name, piece in pieces.items() if int(name[-1]) % 2}
    return (
        {f"tiny_gguf/{name}": piece for name, piece in {**first, **odd}.items()},
        {f"tiny_gguf_rest/{name}": piece for name, piece in pieces.items() if name not in odd},
    )
