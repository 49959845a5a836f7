"""BERT with mean pooling in plain numpy, straight from the Hugging Face files: reference vectors for tests.

Attention, gelu and layer norm as in the paper (Devlin et al. 2019) and the Hugging Face checkpoint layout.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

type Array = np.ndarray[Any, Any]


def embed(folder: Path, texts: list[str]) -> Array:
    """One L2-normalised vector (float32) per text."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    weights = load(folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    rows = [forward(weights, config, tokenizer.encode(text).ids).mean(axis=0) for text in texts]
    return np.stack([row / np.linalg.norm(row) for row in rows])


def load(path: Path) -> dict[str, Array]:
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    found = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            raw = data[8 + length + begin : 8 + length + end]
            found[name.removeprefix("bert.")] = np.frombuffer(raw, "<f4").reshape(entry["shape"])
    return found


def forward(weights: dict[str, Array], config: dict[str, Any], ids: list[int]) -> Array:
    def linear(x: Array, name: str) -> Array:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + config["layer_norm_eps"])
        return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    heads, count = config["num_attention_heads"], len(ids)
    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][:count]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        query, key, value = (
            linear(x, f"{layer}.attention.self.{part}").reshape(count, heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        attended = linear(mixed.swapaxes(0, 1).reshape(count, -1), f"{layer}.attention.output.dense")
        x = norm(x + attended, f"{layer}.attention.output.LayerNorm")
        inner = linear(x, f"{layer}.intermediate.dense")
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x
