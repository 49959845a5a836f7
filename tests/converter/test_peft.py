"""Merges of every handled option against what PEFT itself merged (`data/peft.json`, values by the formula of
`builder.py`)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builder import encode, mix
from safetensor import write_safetensors

from rfctl.converter.adapter import merge_adapter
from rfctl.converter.expression import STORAGE, Slice, count_rows
from rfctl.converter.header import read_header
from rfctl.converter.quantization.dtype import bf16_to_f32
from rfctl.converter.source import ModelSource
from rfctl.converter.storage import SourceReader
from rfctl.converter.writer import list_slices

RECORD: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "peft.json").read_text("utf-8"))
# Sums inside the product may come in another order: a unit in the last place, here and there.
TOLERANCE = {"F32": 2e-6, "BF16": 2.0**-8}


def make(number: int, shape: list[int], scale: float, dtype: str) -> tuple[str, np.ndarray[Any, Any]]:
    share = (mix(number, int(np.prod(shape))) >> np.uint32(8)).astype(np.float64) / 2.0**24 - 0.5
    bits = encode((share * scale).astype(np.float32), dtype)
    return dtype, bits.view(STORAGE[dtype]).reshape(shape)


def make_directories(case: dict[str, Any], parent: Path) -> tuple[ModelSource, Path]:
    base, adapter = parent / "base", parent / "adapter"
    base.mkdir()
    adapter.mkdir()
    shapes = RECORD["bases"][case["architecture"]]
    weights = {
        name: make(number, shape, 0.5, case["dtype"]) for number, (name, shape) in enumerate(shapes.items())
    }
    write_safetensors(base / "model.safetensors", weights)
    changes = {
        name: make(1000 + number, shape, 0.6, "F32")
        for number, (name, shape) in enumerate(case["adapter"].items())
    }
    write_safetensors(adapter / "adapter_model.safetensors", changes)
    (adapter / "adapter_config.json").write_text(json.dumps(case["config"]), "utf-8")
    config = {"architectures": [case["architecture"]], "vocab_size": 64, "tie_word_embeddings": False}
    tensors = {tensor.name: tensor for tensor in read_header(base / "model.safetensors")}
    return ModelSource(base, config, tensors), adapter


@pytest.mark.parametrize("name", RECORD["cases"])
def test_merge_is_the_one_of_peft(name: str, tmp_path: Path) -> None:
    case = RECORD["cases"][name]
    source, adapter = make_directories(case, tmp_path)
    merged = merge_adapter(source, adapter)
    changed = {name for name, tensor in merged.tensors.items() if tensor.content is not None}
    assert changed == set(case["merged"])
    tolerance, equal = TOLERANCE[case["dtype"]], 0
    files = {part.file for tensor in merged.tensors.values() for part in list_slices(Slice(tensor))}
    with SourceReader(files) as reader:
        for tensor_name, wanted in case["merged"].items():
            expression = Slice(merged.tensors[tensor_name])
            rows = expression.load(reader, 0, count_rows(expression.shape))
            values = (bf16_to_f32(rows) if case["dtype"] == "BF16" else rows).astype(np.float64).reshape(-1)
            equal += hashlib.sha256(rows.tobytes()).hexdigest() == wanted["sha256"]
            np.testing.assert_allclose(values[wanted["at"]], wanted["values"], rtol=tolerance, atol=tolerance)
            assert abs(values.sum() - wanted["sum"]) < tolerance * len(values) / 64
    if case["dtype"] == "BF16":  # one rounding hides the order of the sums nearly everywhere
        assert equal * 2 >= len(case["merged"]), f"{equal} of {len(case['merged'])} tensors are bit-identical"
