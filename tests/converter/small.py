"""Small models of many families from the specs in `data/family`, by the formula of `builder.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder import build

FOLDER = Path(__file__).parent / "data" / "family"


def load_small(name: str) -> dict[str, Any]:
    """The spec `name`: directory, config, tokenizer (golden names), files, dtype, layers, tensors (name or
    `{layer}` pattern -> shape), outtypes, and what the reference wrote: source, date, outputs.
    """
    spec: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return spec


def make_small(golden: Path, spec: Mapping[str, Any], parent: Path) -> Path:
    """The model directory of a spec inside `parent`."""
    tensors = []
    for name, shape in spec["tensors"].items():
        # Vectors lie around one: norms, and what is no norm does not mind.
        value = {"scale": 0.3, "offset": 1.0} if len(shape) == 1 else {"scale": 0.12}
        layers = range(spec["layers"]) if "{layer}" in name else [0]
        for layer in layers:
            tensor = {"name": name.replace("{layer}", str(layer)), "shape": shape, "dtype": spec["dtype"]}
            tensors.append(tensor | value)
    shard = {"file": "model.safetensors"}
    return build(golden, {**spec, "tensors": tensors, "shards": [shard], "index": False}, parent)
