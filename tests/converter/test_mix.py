"""The choice of types against what llama-quantize wrote for every golden case, other families included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rfctl.converter.quantization.mix import MixModel, MixTensor, choose_types, order_tensors
from rfctl.converter.quantization.type import file_type, file_types, tensor_type
from rfctl.core.error import UsageError

CASES = [
    "bert-minilm", "bert-odd", "deepseek3", "gemma2", "gemma3", "glm4", "gpt2", "llama2-added", "llama2-odd",
    "llama2-outlier", "llama2-spm", "llama3.1", "mistral", "mistral-swa", "mixtral", "phi2", "phi3",
    "phi3-longrope", "qwen2-tied", "qwen2-untied", "qwen3", "qwen3moe", "r1-distill-qwen", "stablelm",
    "starcoder2",
]  # fmt: skip
QUANTS = ["Q4_K_M", "Q5_K_M", "Q6_K", "Q3_K_M", "Q4_0", "Q8_0"]


def load(golden: Path, case: str) -> dict[str, Any]:
    for path in (golden / "converter" / "expected" / f"{case}.json", golden / "converter" / f"{case}.json"):
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text("utf-8"))
            return found
    raise AssertionError(case)


def model_of(record: dict[str, Any]) -> MixModel:
    values = {key: value for key, _, value in record["kv"]}
    architecture = values["general.architecture"]

    def number(name: str, default: int) -> int:
        value = values.get(f"{architecture}.{name}", default)
        return int(max(value) if isinstance(value, list) else value)

    head = number("attention.head_count", 1)
    return MixModel(
        architecture,
        number("block_count", 0),
        number("expert_count", 0),
        head,
        number("attention.head_count_kv", head),
    )


@pytest.mark.parametrize("case", [*CASES, "smollm2", "minilm"])
def test_types_and_order_equal_the_reference(golden: Path, case: str) -> None:
    expected = load(golden, case)
    outputs = expected["outputs"]
    lossless = outputs[expected["quantized_from"].lower()]
    while "same_bytes_as" in lossless:
        lossless = outputs[lossless["same_bytes_as"]]
    tensors = [MixTensor(t["name"], tuple(t["shape"]), t["type"]) for t in lossless["tensors"]]
    compared = 0
    for name in QUANTS:
        record = outputs.get(name)
        if record is None or "tensors" not in record:
            continue
        chosen = choose_types(tensors, model_of(lossless), name)
        assert [(t.name, kind) for t, kind in chosen] == [
            (t["name"], t["type"]) for t in record["tensors"]
        ], name
        offset = 0
        for (tensor, kind), wanted in zip(chosen, record["tensors"], strict=True):
            assert wanted["offset"] == offset
            rows = 1
            for extent in tensor.shape[1:]:
                rows *= extent
            offset += -(-tensor_type(kind).row_bytes(tensor.shape[0]) * rows // 32) * 32
        keys = [key for key, _, _ in record["kv"]]
        assert keys[-2:] == ["general.quantization_version", "general.file_type"]
        assert record["kv"][-1][2] == file_type(name).number
        compared += 1
    assert compared >= 5


def test_layers_are_ordered_by_number() -> None:
    names = ["blk.10.a", "blk.2.b", "output.weight", "blk.2.a", "token_embd.weight"]
    assert order_tensors(names, name=str) == [
        "output.weight", "token_embd.weight", "blk.2.a", "blk.2.b", "blk.10.a",
    ]  # fmt: skip


def test_seventy_layers_with_shared_heads_get_more_bits_for_values() -> None:
    tensors = [MixTensor(f"blk.{i}.attn_v.weight", (8192, 1024), "BF16") for i in range(80)]
    grouped = choose_types(tensors, MixModel("llama", 80, 0, 64, 8), "Q4_K_M")
    plain = choose_types(tensors, MixModel("llama", 80, 0, 64, 64), "Q4_K_M")
    assert {kind for _, kind in grouped} == {"Q5_K", "Q6_K"}
    assert {kind for _, kind in plain} == {"Q4_K", "Q6_K"}


def test_names_are_case_insensitive_and_unknown_ones_are_refused() -> None:
    assert file_type("q4_k_m") is file_types()["Q4_K_M"]
    with pytest.raises(UsageError) as caught:
        file_type("q4_k_xxl")
    assert caught.value.id == "model.outtype-unknown"
