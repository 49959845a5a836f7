"""Small random models that llama.cpp really loads: a chat model and an embedding model, and damaged forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁hello", "▁world", "▁fox", "▁word", "s"]


def byte_vocabulary() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    table = {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


def write_chat_model(
    path: Path,
    *,
    architecture: str = "llama",
    template: str | None = CHATML,
    pre: str = "gpt-2",
    block_count: int | None = 1,
    context_length: int = 2048,
    without: str = "",
    only: dict[str, Any] | None = None,
    file_type: int = 1,
    name: str = "",
    bos: str = "<|im_start|>",
    eos: str = "<|im_end|>",
    add_bos: bool = False,
) -> Path:
    """A llama of one block and 263 tokens, F16. without: a tensor to leave out; only: these instead."""
    width, hidden, heads, shared = 64, 64, 4, 2
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("model")
    if block_count is not None:
        writer.add_block_count(block_count)
    if context_length < 1 << 32:
        writer.add_context_length(context_length)
    else:
        writer.add_uint64(f"{architecture}.context_length", context_length)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(width // heads)
    writer.add_file_type(file_type)
    if name:
        writer.add_name(name)
    tokens = [*byte_vocabulary(), "Ġt", "Ġa", "in", "he", "<|pad|>", eos, bos or eos]
    if tokens[-1] == eos:
        tokens[-1] = "<|unused|>"
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 260 + [3] * 3)
    writer.add_token_merges(["Ġ t", "Ġ a", "i n", "h e"])
    writer.add_bos_token_id(tokens.index(bos or eos))
    writer.add_eos_token_id(261)
    writer.add_add_bos_token(add_bos)
    if template is not None:
        writer.add_chat_template(template)
    random = np.random.default_rng(7)

    def matrix(rows: int, columns: int) -> Any:
        return (random.standard_normal((rows, columns)) * 0.2).astype(np.float16)

    embedding = matrix(len(tokens), width)
    # Logit 0 for the end tokens: greedy generation goes on until it is stopped.
    embedding[260:] = 0
    ones = np.ones(width, dtype=np.float32)
    tensors: dict[str, Any] = {
        "token_embd.weight": embedding,
        "output_norm.weight": ones,
        "blk.0.attn_norm.weight": ones,
        "blk.0.attn_q.weight": matrix(width, width),
        "blk.0.attn_k.weight": matrix(width // 2, width),
        "blk.0.attn_v.weight": matrix(width // 2, width),
        "blk.0.attn_output.weight": matrix(width, width),
        "blk.0.ffn_norm.weight": ones,
        "blk.0.ffn_gate.weight": matrix(hidden, width),
        "blk.0.ffn_up.weight": matrix(hidden, width),
        "blk.0.ffn_down.weight": matrix(width, hidden),
    }
    tensors.pop(without, None)
    return finish(writer, only if only is not None else tensors, path)


def write_embedding_model(path: Path, *, pooling: bool = True) -> Path:
    """A BERT of one block, width 32, 64 positions and ten words, F32."""
    width, hidden, positions = 32, 64, 64
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_type("model")
    writer.add_block_count(1)
    writer.add_context_length(positions)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    if pooling:
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(0)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 2, 3, 3, 3, 1, 1, 1, 1, 1])
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    writer.add_mask_token_id(4)
    random = np.random.default_rng(11)

    def normal(*shape: int) -> Any:
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    ones, zeros = np.ones(width, dtype=np.float32), np.zeros(width, dtype=np.float32)
    tensors: dict[str, Any] = {
        "token_embd.weight": normal(len(WORDS), width),
        "position_embd.weight": normal(positions, width),
        "token_types.weight": normal(2, width),
        "token_embd_norm.weight": ones,
        "token_embd_norm.bias": zeros,
        "blk.0.ffn_up.weight": normal(hidden, width),
        "blk.0.ffn_up.bias": np.zeros(hidden, dtype=np.float32),
        "blk.0.ffn_down.weight": normal(width, hidden),
        "blk.0.ffn_down.bias": zeros,
    }
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        tensors[f"blk.0.{name}.weight"] = normal(width, width)
        tensors[f"blk.0.{name}.bias"] = zeros
    for name in ("attn_output_norm", "layer_output_norm"):
        tensors[f"blk.0.{name}.weight"] = ones
        tensors[f"blk.0.{name}.bias"] = zeros
    return finish(writer, tensors, path)


def finish(writer: gguf.GGUFWriter, tensors: dict[str, Any], path: Path) -> Path:
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
