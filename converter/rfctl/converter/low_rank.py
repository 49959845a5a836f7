"""Tensors that an adapter changes: rows of the base plus a product of two thin matrices, or rows of the
adapter in the base's type.

The rule for a layer is the one of PEFT's `merge_and_unload` with float32 adapters, its default (peft 0.17,
`tuners/lora/layer.py`, get_delta_weight and merge): the product in float32, times the scale, added to the
base in float32, rounded once to the type of the base. Only the order of the sums inside the product may
differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfctl.converter.expression import Expression, OfSource, Reader, Rows, Slice
from rfctl.converter.quantization.dtype import from_f32, to_f32
from rfctl.converter.transpose import load_columns

type F32 = NDArray[np.float32]
MERGEABLE = frozenset({"F32", "F16", "BF16"})
# The product is made in whole tiles of this many rows, so that it does not depend on where a chunk begins.
_TILE = 16
# Multiplications in a tile: OpenBLAS does that many on one thread (interface/gemm.c); its own threads would
# only wait for ours.
_TILE_WORK = 1 << 18


@dataclass(frozen=True)
class LowRank(OfSource):
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

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        values = to_f32(self.dtype, self.source.load(reader, begin, end))
        first, last = begin // _TILE * _TILE, min(self.shape[0], -(-end // _TILE) * _TILE)
        if self.transposed:
            columns = load_columns(self.a, reader, (0, self.a.shape[0]), (first, last))
            left = to_f32(self.a.dtype, columns).T
            right = to_f32(self.b.dtype, self.b.load(reader, 0, self.b.shape[0])).T
        else:
            left = to_f32(self.b.dtype, self.b.load(reader, first, last))
            right = to_f32(self.a.dtype, self.a.load(reader, 0, self.a.shape[0]))
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
                        delta = to_f32(self.dtype, from_f32(self.dtype, delta))
                    values[low - begin : high - begin, column : column + width] += delta[
                        low - row : high - row
                    ]
        return from_f32(self.dtype, values)


@dataclass(frozen=True)
class Added(OfSource):
    """A vector plus `scale` times another one, rounded once to the type of the first."""

    source: Expression
    other: Slice
    scale: float

    @property
    def sources(self) -> tuple[Expression, ...]:
        return (self.other,)

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        values = to_f32(self.dtype, self.source.load(reader, begin, end))
        with np.errstate(over="ignore", invalid="ignore"):
            values += to_f32(self.other.dtype, self.other.load(reader, begin, end)) * np.float32(self.scale)
        return from_f32(self.dtype, values)


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
        return from_f32(self.dtype, to_f32(self.source.dtype, rows))
