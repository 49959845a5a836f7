"""A Llama of a few thousand weights with a byte-level tokenizer of its own, for tests that need a model
but no golden data.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, INNER, HEADS, KV = 64, 96, 4, 2
SHAPES = {
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
    "self_attn.v_proj": (HIDDEN // 2, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}


def make_model(folder: Path, tokenizer: Path, *, layers: int = 2, vocabulary: int = 50257) -> Path:
    """A Llama directory in float16.

    `tokenizer`: folder with tokenizer.json and tokenizer_config.json (GPT-2's).
    """
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "vocab_size": vocabulary,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (vocabulary, HIDDEN), "model.norm": (HIDDEN,)}
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in SHAPES.items()}
    generator = np.random.default_rng(7)
    tensors = {
        f"{name}.weight": (generator.standard_normal(shape) * 0.05).astype(np.float16)
        for name, shape in shapes.items()
    }
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def write_safetensors(path: Path, tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    header: dict[str, Any] = {}
    offset = 0
    for name, values in tensors.items():
        header[name] = {
            "dtype": {"float16": "F16", "float32": "F32"}[values.dtype.name],
            "shape": list(values.shape),
            "data_offsets": [offset, offset + values.nbytes],
        }
        offset += values.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(values.tobytes())


def poke(folder: Path, name: str, row: int, column: int, value: float) -> None:
    """Overwrite one float16 weight in place."""
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(length))[name]
        columns = entry["shape"][-1]
        file.seek(8 + length + entry["data_offsets"][0] + 2 * (row * columns + column))
        file.write(np.float16(value).tobytes())
