"""The plan of a GGUF file: everything that is known before the first byte is written.

source -> headers -> Plan -> writer. A plan holds the key/value pairs in file order and the tensors in file
order, each with its type and the expression that its rows come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from rfctl.converter.expression import Expression


class ValueType(IntEnum):
    """Types of GGUF values (ggml `docs/gguf.md`)."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


@dataclass(frozen=True)
class KeyValue:
    """One pair. For ARRAY, `item` is the type of the elements and `value` a sequence (or a numpy array)."""

    key: str
    type: ValueType
    value: Any = field(repr=False)
    item: ValueType | None = None


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the output.

    name         GGUF name such as `blk.0.attn_q.weight`
    type         ggml type name: "F32", "F16", "BF16", "Q8_0", "Q4_K", ...
    shape        GGUF order, fastest dimension first
    expression   where the rows come from (Hugging Face order)
    """

    name: str
    type: str
    shape: tuple[int, ...]
    expression: Expression = field(repr=False)

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def columns(self) -> int:
        """Length of a row."""
        return self.shape[0] if self.shape else 1

    @property
    def rows(self) -> int:
        """Number of rows."""
        return math.prod(self.shape[1:])


@dataclass(frozen=True)
class Plan:
    """A whole file.

    architecture  GGUF architecture name
    outtype       "f32", "f16", "bf16", "q8_0" or a llama-quantize type such as "Q4_K_M"
    file_type     value of general.file_type (llama.cpp `include/llama.h`, llama_ftype)
    pairs         key/value pairs in file order
    tensors       in file order
    hparams       configuration with defaults filled in
    is_strict     values that the type of their tensor cannot hold are an error (llama-quantize), not a
                  warning
    """

    architecture: str
    outtype: str
    file_type: int
    pairs: tuple[KeyValue, ...] = field(repr=False)
    tensors: tuple[TensorPlan, ...] = field(repr=False)
    hparams: Mapping[str, Any] = field(repr=False)
    is_strict: bool = False

    @property
    def parameter_count(self) -> int:
        """Weights in the file, generated tensors included."""
        return sum(tensor.count for tensor in self.tensors)

    def get(self, key: str) -> Any:
        """The value of `key`, None if absent."""
        return next((pair.value for pair in self.pairs if pair.key == key), None)


def set_pair(pairs: Iterable[KeyValue], pair: KeyValue) -> list[KeyValue]:
    """The pairs with `pair` set as llama.cpp's gguf_set_val does: a key that exists moves to the end."""
    return [other for other in pairs if other.key != pair.key] + [pair]


def merge_pairs(pairs: Iterable[KeyValue]) -> list[KeyValue]:
    """The pairs with every key once: a key that is given again keeps its place and takes the new value, as
    gguf-py's writer does.
    """
    return list({pair.key: pair for pair in pairs}.values())
