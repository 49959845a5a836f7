"""Which type every tensor gets in a file of a mixed type such as Q4_K_M, and in which order they follow.

Pure functions over names and shapes; the rules are data (`mix.toml`, from llama.cpp b11434
`src/llama-quant.cpp`).
The result equals what llama-quantize makes of the lossless conversion, without importance matrix.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rfctl.converter.quantization.type import FileType, file_type, tensor_type

_TABLE = Path(__file__).with_name("mix.toml")
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class MixTensor:
    """A tensor of the lossless conversion.

    name   GGUF name
    shape  GGUF order, fastest dimension first
    type   tensor type in the lossless conversion ("F32", "F16", "BF16"), kept when it is not quantized
    """

    name: str
    shape: tuple[int, ...]
    type: str


@dataclass(frozen=True)
class MixModel:
    """What the rules ask of the model.

    architecture  `general.architecture`
    n_layer       layers of the file, MTP layers included
    n_expert      0 for a dense model
    n_head        attention heads
    n_head_kv     heads of keys and values
    """

    architecture: str
    n_layer: int
    n_expert: int = 0
    n_head: int = 1
    n_head_kv: int = 1

    @property
    def n_gqa(self) -> int:
        return self.n_head // self.n_head_kv if self.n_head_kv else 0


def order_tensors[T](tensors: Iterable[T], name: Any = None) -> list[T]:
    """`tensors` in llama-quantize's output order: by layer (tensors without one lead), then by name.

    `name` gives the name of an item (default: its attribute `name`).
    Source: `weight_name_comparer` in src/llama-model-loader.h.
    """
    get = name or (lambda item: item.name)

    def key(item: T) -> tuple[int, bytes]:
        text: str = get(item)
        found = _LAYER.match(text)
        return (int(found[1]) if found else -1, text.encode())

    return sorted(tensors, key=key)


def choose_types(
    tensors: Sequence[MixTensor], model: MixModel, outtype: str | FileType
) -> list[tuple[MixTensor, str]]:
    """The tensors in output order, each with the name of the tensor type it gets.

    `outtype` is any file type; for F32, F16 and BF16 the rules for what may be changed still apply.
    Raises UsageError `model.outtype-unknown`; ValueError when a layer number is outside the model.
    """
    target = outtype if isinstance(outtype, FileType) else file_type(outtype)
    ordered = order_tensors(tensors)
    is_tied = all(tensor.name != "output.weight" for tensor in ordered)
    n_attention_v = sum(_role(tensor.name) == "attention_v" for tensor in ordered)
    seen = {"attention_v": 0, "ffn_down": 0}
    chosen = []
    for tensor in ordered:
        if not allows_quantization(tensor.name, tensor.shape):
            chosen.append((tensor, tensor.type))
            continue
        if not tensor_type(target.base).is_quantized:
            chosen.append((tensor, target.base))
            continue
        role = _role(tensor.name)
        wanted = _choose(tensor, role, model, target, is_tied, seen, n_attention_v)
        if role in seen:
            seen[role] += 1
        chosen.append((tensor, fallback_type(wanted, tensor.shape[0])))
    return chosen


def allows_quantization(name: str, shape: Sequence[int]) -> bool:
    """Whether llama-quantize may change the type of this tensor (`tensor_allows_quantization`)."""
    if len(_significant(shape)) < 2:
        return False
    keep = _load()["keep"]
    if not name.endswith(keep["not_ending_in"]) or name in keep["names"]:
        return False
    return not _kept_parts().search(name)


def fallback_type(wanted: str, columns: int) -> str:
    """`wanted`, or what takes its place when rows of `columns` weights are no multiple of its block."""
    if tensor_type(wanted).fits(columns):
        return wanted
    next_type: str = _load()["fallback"].get(wanted, "F16")
    return next_type if tensor_type(next_type).fits(columns) else "F16"


def _choose(
    tensor: MixTensor,
    role: str,
    model: MixModel,
    target: FileType,
    is_tied: bool,
    seen: dict[str, int],
    n_attention_v: int,
) -> str:
    base = target.base
    is_falcon = model.architecture == "falcon"
    if role == "output" or (role == "embedding" and is_tied):
        if is_falcon or not tensor_type(base).fits(tensor.shape[0]):
            return "Q8_0"
        return base if base == "Q8_0" else "Q6_K"
    if role in {"attention_v", "attention_k"} and model.n_expert == 8:
        return "Q8_0"
    if role == "attention_v":
        wanted = _apply(target, role, model, seen[role], n_attention_v)
        return "Q5_K" if wanted in {"Q3_K", "Q4_K"} and _is_seventy(model) else wanted
    if role == "ffn_down":
        index = _layer(tensor.name, model) if model.n_expert > 1 else seen[role]
        return _apply(target, role, model, index, model.n_layer)
    if role == "attention_output":
        return _apply(target, role, model, 0, model.n_layer)
    return base


def _apply(target: FileType, role: str, model: MixModel, index: int, total: int) -> str:
    table = _load()
    rules = table["rule"].get(target.name, {}).get(role, [])
    if model.architecture == "falcon":
        rules = table["rule-falcon"].get(target.name, {}).get(role, rules)
    elif model.n_expert == 8:
        rules = table["rule-8-experts"].get(target.name, {}).get(role, rules)
    for condition, wanted in rules:
        if _holds(condition, index, total, model):
            return str(wanted)
    return target.base


def _holds(condition: str, index: int, total: int, model: MixModel) -> bool:
    if condition == "always":
        return True
    if condition == "more-bits":
        return index < total // 8 or index >= 7 * total // 8 or (index - total // 8) % 3 == 2
    if condition == "gqa-4":
        return model.n_gqa >= 4
    if condition.startswith("first-1/"):
        return index < total // int(condition.removeprefix("first-1/"))
    return index < int(condition.removeprefix("first-"))


def _role(name: str) -> str:
    if name == "output.weight":
        return "output"
    if name in {"token_embd.weight", "per_layer_token_embd.weight"}:
        return "embedding"
    for part, role in _load()["role"].items():
        if part in name:
            return str(role)
    return ""


def _layer(name: str, model: MixModel) -> int:
    found = _LAYER.match(name)
    layer = int(found[1]) if found else -1
    if not 0 <= layer < model.n_layer:
        raise ValueError(f"{name}: no layer of a model with {model.n_layer} layers")
    return layer


def _is_seventy(model: MixModel) -> bool:
    seventy = _load()["seventy"]
    grouped = model.architecture != "llama" or model.n_head != model.n_head_kv
    return model.architecture in seventy["architectures"] and model.n_layer == seventy["layers"] and grouped


def _significant(shape: Sequence[int]) -> Sequence[int]:
    end = len(shape)
    while end > 1 and shape[end - 1] == 1:
        end -= 1
    return shape[:end]


@cache
def _kept_parts() -> re.Pattern[str]:
    return re.compile("|".join(re.escape(part) for part in _load()["keep"]["parts"]))


@cache
def _load() -> dict[str, Any]:
    with _TABLE.open("rb") as file:
        return tomllib.load(file)
