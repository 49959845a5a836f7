"""Make a Hugging Face model directory of a real shape with weights from a formula, for benchmarks.

    python tools/make_model.py SHAPE TOKENIZER_DIR OUT_DIR

SHAPE is a row of SHAPES; TOKENIZER_DIR holds tokenizer.json and tokenizer_config.json (copied).
The formula is a 32-bit integer mix of the element's index and the tensor's number, made symmetric and cubed
(heavier tails than uniform), scaled to a standard deviation near 0.02 and rounded to bf16.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

# Published shapes: config.json of Qwen2.5-0.5B, DeepSeek-R1-Distill-Qwen-1.5B and Llama-3.2-1B.
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "rms_norm_eps": 1e-06,
    "torch_dtype": "bfloat16", "vocab_size": 151936, "max_position_embeddings": 131072, "use_sliding_window": False,
    "bos_token_id": 151643, "eos_token_id": 151643,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": QWEN2 | {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "rope_theta": 1000000.0, "tie_word_embeddings": True,
    },
    "r1-distill-qwen-1.5b": QWEN2 | {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "rope_theta": 10000.0, "tie_word_embeddings": False,
    },
}  # fmt: skip
SHARD_BYTES = 2_000_000_000
CHUNK = 1 << 22


def tensors(config: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Qwen2 checkpoint, in the order in which transformers saves them."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    rows: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (config["vocab_size"], hidden))]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        rows += [
            (prefix + "input_layernorm.weight", (hidden,)),
            (prefix + "mlp.down_proj.weight", (hidden, inner)),
            (prefix + "mlp.gate_proj.weight", (inner, hidden)),
            (prefix + "mlp.up_proj.weight", (inner, hidden)),
            (prefix + "post_attention_layernorm.weight", (hidden,)),
            (prefix + "self_attn.k_proj.bias", (kv,)),
            (prefix + "self_attn.k_proj.weight", (kv, hidden)),
            (prefix + "self_attn.o_proj.weight", (hidden, hidden)),
            (prefix + "self_attn.q_proj.bias", (hidden,)),
            (prefix + "self_attn.q_proj.weight", (hidden, hidden)),
            (prefix + "self_attn.v_proj.bias", (kv,)),
            (prefix + "self_attn.v_proj.weight", (kv, hidden)),
        ]
    rows.append(("model.norm.weight", (hidden,)))
    if not config["tie_word_embeddings"]:
        rows.append(("lm_head.weight", (config["vocab_size"], hidden)))
    return rows


def values(number: int, start: int, count: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """bf16 bit patterns of elements start .. start+count of tensor `number`."""
    x = np.arange(start, start + count, dtype=np.uint64).astype(np.uint32)
    x *= np.uint32(2654435761)
    x += np.uint32((number * 40503 + 12345) & 0xFFFFFFFF)
    for shift, factor in ((15, 2246822519), (13, 3266489917)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    w = (x >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)
    bits = (w * w * w * np.float32(0.4)).view(np.uint32)
    bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (bits >> np.uint32(16)).astype(np.uint16)


def make(shape: str, tokenizer: Path, out: Path) -> None:
    """Write the directory; an existing one is left as it is when it is complete."""
    config = SHAPES[shape]
    if (out / ".complete").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, out / name)
    (out / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    shards: list[list[tuple[int, str, tuple[int, ...]]]] = [[]]
    room = SHARD_BYTES
    for number, (name, dims) in enumerate(tensors(config)):
        size = 2 * int(np.prod(dims))
        if size > room and shards[-1]:
            shards.append([])
            room = SHARD_BYTES
        room -= size
        shards[-1].append((number, name, dims))
    weight_map, total = {}, 0
    for index, shard in enumerate(shards, 1):
        file_name = f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for _, name, dims in shard:
            size = 2 * int(np.prod(dims))
            header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [offset, offset + size]}
            weight_map[name] = file_name
            offset += size
        total += offset
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)
        with (out / file_name).open("wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            for number, _, dims in shard:
                count = int(np.prod(dims))
                for start in range(0, count, CHUNK):
                    file.write(values(number, start, min(CHUNK, count - start)).tobytes())
    index_file = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index_file), encoding="utf-8")
    (out / ".complete").touch()


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
