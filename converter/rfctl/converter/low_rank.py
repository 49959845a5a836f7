"""Tensors that an adapter changes: rows of the base plus a product of two thin matrices, or rows of the
adapter in the base's type.

The rule for a layer is the one of PEFT's `merge_and_unload` with float32 adapters, its default (peft 0.17,
`tuners/lora/layer.py`, get_delta_weight and merge): the product in float32, times the scale, added to the
base in float32, rounded once to the type of the base. Only the order of the sums inside the product may
differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfctl.converter.expression import STORAGE, Expression, Reader, Rows, Slice
from rfctl.converter.quantization.dtype import bf16_to_f32, f32_to_bf16, f32_to_f16

type F32 = NDArray[np.float32]
MERGEABLE = frozenset({"F32", "F16", "BF16"})
# The product is made in whole tiles of this many rows, so that it does not depend on where a chunk begins.
_TILE = 16
# Multiplications in a tile: OpenBLAS does that many on one thread (interface/gemm.c); its own threads would
# only wait for ours.
_TILE_WORK = 1 << 18


@dataclass(frozen=True)
class LowRank:
    """W + scale * (B @ A), or W + scale * (B @ A) transposed.

    source       W, rows x columns
    a, b         A (rank x inputs) and B (outputs x rank): W is outputs x inputs, or, `transposed`, inputs x
                 outputs (embeddings; weights stored fan-in first)
    rounded      the product is rounded to the type of W before it is added, as PEFT does for embeddings
    """

    source: Expression
    a: Slice
    b: Slice
    scale: float
    transposed: bool = False
    rounded: bool = False

    @property
    def sources(self) -> tuple[Expression, ...]:
        return (self.a, self.b)

    @property
    def dtype(self) -> str:
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        values = _to_float(self.dtype, self.source.load(reader, begin, end))
        first, last = begin // _TILE * _TILE, min(self.shape[0], -(-end // _TILE) * _TILE)
        if self.transposed:
            left = _load_columns(reader, self.a, first, last).T
            right = _to_float(self.b.dtype, self.b.load(reader, 0, self.b.shape[0])).T
        else:
            left = _to_float(self.b.dtype, self.b.load(reader, first, last))
            right = _to_float(self.a.dtype, self.a.load(reader, 0, self.a.shape[0]))
        left, right = np.ascontiguousarray(left), np.ascontiguousarray(right)
        scale = np.float32(self.scale)
        width = max(1, _TILE_WORK // (_TILE * self.a.shape[0]))
        # What overflows or is not a number is found, and named, by the writer's check of every row.
        with np.errstate(over="ignore", invalid="ignore"):
            for row in range(first, last, _TILE):
                low, high = max(row, begin), min(row + _TILE, end)
                for column in range(0, right.shape[1], width):
                    delta = left[row - first : row - first + _TILE] @ right[:, column : column + width]
                    delta *= scale
                    if self.rounded and self.dtype != "F32":
                        delta = _to_float(self.dtype, _from_float(self.dtype, delta))
                    values[low - begin : high - begin, column : column + width] += delta[
                        low - row : high - row
                    ]
        return _from_float(self.dtype, values)


@dataclass(frozen=True)
class Added:
    """A vector plus `scale` times another one, rounded once to the type of the first."""

    source: Expression
    other: Slice
    scale: float

    @property
    def sources(self) -> tuple[Expression, ...]:
        return (self.other,)

    @property
    def dtype(self) -> str:
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        values = _to_float(self.dtype, self.source.load(reader, begin, end))
        with np.errstate(over="ignore", invalid="ignore"):
            values += _to_float(self.other.dtype, self.other.load(reader, begin, end)) * np.float32(
                self.scale
            )
        return _from_float(self.dtype, values)


@dataclass(frozen=True)
class Replaced:
    """Rows of another tensor of the same shape, rounded to `dtype`."""

    source: Slice
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        rows = self.source.load(reader, begin, end)
        if self.source.dtype == self.dtype:
            return rows
        return _from_float(self.dtype, _to_float(self.source.dtype, rows))


def _load_columns(reader: Reader, matrix: Slice, begin: int, end: int) -> F32:
    """Columns [begin, end) of all rows; the rest is not read."""
    rows, columns = matrix.shape
    kind = STORAGE[matrix.dtype]
    values = np.empty((rows, end - begin), kind)
    for row in range(rows):
        start = (row * columns + begin) * kind.itemsize
        data = reader.read(matrix.tensor, start, (end - begin) * kind.itemsize)
        values[row] = np.frombuffer(data, kind)
    return _to_float(matrix.dtype, values)


def _to_float(dtype: str, rows: Rows) -> F32:
    """A float32 copy of rows in storage form."""
    if dtype == "BF16":
        return bf16_to_f32(rows)
    values: NDArray[Any] = rows.astype(np.float32)
    return values


def _from_float(dtype: str, values: F32) -> Rows:
    if dtype == "BF16":
        return f32_to_bf16(values)
    return f32_to_f16(values).view(np.float16) if dtype == "F16" else values
