"""Where the rows of a tensor come from: slices of source tensors through a few operations, evaluated row
by row.

Every expression has a Hugging Face shape (slowest dimension first) and is read as a matrix of `rows` x
`columns`, columns being the last dimension, so that a writer needs memory for a few rows only. `load`
gives rows in storage form:

    F32 -> float32, F16 -> float16, BF16 -> uint16 (the upper half of a float32), F64 -> float64, others ->
    their own dtype
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rfctl.converter.header import SourceTensor
from rfctl.converter.quantization.dtype import bf16_to_f32, to_f32

Rows = NDArray[Any]
STORAGE: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "F8_E4M3": "|u1", "F8_E5M2": "|u1", "F8_E8M0": "|u1",
        "I16": "<i2", "U16": "<u2", "F16": "<f2", "BF16": "<u2",
        "I32": "<i4", "U32": "<u4", "F32": "<f4", "I64": "<i8", "U64": "<u8", "F64": "<f8",
    }.items()
}  # fmt: skip


class Reader(Protocol):
    """Reads bytes of source files (positional, thread-safe)."""

    def read(self, tensor: SourceTensor, begin: int, size: int) -> NDArray[np.uint8] | bytearray:
        """`size` bytes from byte `begin` of the tensor."""


class Expression(Protocol):
    """Rows of one output tensor. `dtype` is a safetensors dtype name."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        """Rows [begin, end) as an array (end - begin, columns) in storage form."""


def count_rows(shape: tuple[int, ...]) -> int:
    """Rows of a tensor of `shape` seen as a matrix; 1 for a vector."""
    return math.prod(shape[:-1])


def count_columns(shape: tuple[int, ...]) -> int:
    """Length of a row; 1 for a scalar."""
    return shape[-1] if shape else 1


@dataclass(frozen=True)
class Slice:
    """A whole source tensor."""

    tensor: SourceTensor

    @property
    def dtype(self) -> str:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        if self.tensor.content is not None:
            rows: Rows = self.tensor.content.load(reader, begin, end)
            return rows
        columns = count_columns(self.shape)
        kind = STORAGE[self.dtype]
        stride = columns * kind.itemsize
        data = reader.read(self.tensor, begin * stride, (end - begin) * stride)
        return np.frombuffer(data, dtype=kind).reshape(end - begin, columns)


class OfSource:
    """What has dtype and shape of its `source` unless it says otherwise."""

    source: Expression

    @property
    def dtype(self) -> str:
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape


def walk_blocks(begin: int, end: int, height: int) -> Iterator[tuple[int, int, int]]:
    """Rows [begin, end) by blocks of `height` rows: number of the block, first and last row in it."""
    while begin < end:
        which, first = divmod(begin, height)
        last = min(height, first + end - begin)
        yield which, first, last
        begin += last - first


@dataclass(frozen=True)
class RotaryRows(OfSource):
    """Rows of a q or k projection, from Hugging Face's half-split rotary order to llama.cpp's interleaved
    one.

    Within each of `heads` heads of h rows, row 2i+j of the output is row j*h/2 + i of the source
    (llama.cpp b11434 `conversion/llama.py`, permute).
    """

    source: Expression
    heads: int

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        # Rows of one head stay inside that head, so only the heads touched are read.
        height = self.shape[0] // self.heads
        if len(self.shape) == 1:
            order = self._order(height, 0, self.shape[0])
            return self.source.load(reader, begin, end)[:, order]
        first, last = begin // height * height, -(-end // height) * height
        rows = self.source.load(reader, first, last)
        return rows[self._order(height, begin, end) - first]

    @staticmethod
    def _order(height: int, begin: int, end: int) -> NDArray[np.int64]:
        row = np.arange(begin, end, dtype=np.int64)
        inside = row % height
        return row - inside + (inside % 2) * (height // 2) + inside // 2


@dataclass(frozen=True)
class RowRange(OfSource):
    """Rows [begin, end) of the first dimension of a matrix."""

    source: Expression
    begin: int
    end: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.end - self.begin, *self.source.shape[1:])

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        step = count_rows(self.source.shape[1:]) if len(self.source.shape) > 1 else 1
        return self.source.load(reader, self.begin * step + begin, self.begin * step + end)


@dataclass(frozen=True)
class Stack:
    """Expressions of equal shape and dtype along a new first dimension (experts)."""

    sources: tuple[Expression, ...]

    @property
    def dtype(self) -> str:
        return self.sources[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.sources), *self.sources[0].shape)

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        height = count_rows(self.sources[0].shape)
        pieces = walk_blocks(begin, end, height)
        return np.concatenate(
            [self.sources[which].load(reader, first, last) for which, first, last in pieces]
        )


@dataclass(frozen=True)
class Constant:
    """Values that the converter generates (rope factors)."""

    values: Rows = field(repr=False)

    @property
    def dtype(self) -> str:
        return "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        columns = count_columns(self.shape)
        return self.values.astype(np.float32).reshape(-1, columns)[begin:end]


@dataclass(frozen=True)
class Shift(OfSource):
    """Values plus a constant, in float32 (norms that are stored around zero)."""

    source: Expression
    by: float

    @property
    def dtype(self) -> str:
        return "F32"

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        return to_f32(self.source.dtype, self.source.load(reader, begin, end)) + np.float32(self.by)


@dataclass(frozen=True)
class NegativeExponential(OfSource):
    """-exp(x) in float32 (decay rates that are stored as logarithms).

    Correctly rounded. The reference's library is off by one unit in the last place in about one value of a
    hundred, and in other values on other processors.
    """

    source: Expression

    @property
    def dtype(self) -> str:
        return "F32"

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        rows = self.source.load(reader, begin, end)
        if self.source.dtype == "BF16":
            rows = bf16_to_f32(rows)
        with np.errstate(over="ignore"):
            return -np.exp(rows.astype(np.float64)).astype(np.float32)


@dataclass(frozen=True)
class Blocks(OfSource):
    """Blocks of `height` rows (elements of a vector) in another order: block i of the output is block
    `order[i]` of the source (fused q, k, v; rows that are cut off). Of columns instead with `columns`.
    """

    source: Expression
    height: int
    order: tuple[int, ...]
    columns: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        count = self.height * len(self.order)
        return (*self.source.shape[:-1], count) if self.columns else (count, *self.source.shape[1:])

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        if self.columns or len(self.source.shape) == 1:
            index = np.concatenate([np.arange(self.height) + block * self.height for block in self.order])
            rows = self.source.load(reader, begin, end) if self.columns else self.source.load(reader, 0, 1)
            return rows[:, index]
        pieces = []
        for block, first, last in walk_blocks(begin, end, self.height):
            start = self.order[block] * self.height
            pieces.append(self.source.load(reader, start + first, start + last))
        return np.concatenate(pieces)


@dataclass(frozen=True)
class Reshape(OfSource):
    """The same rows under another shape with the same last dimension."""

    source: Expression
    to: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.to

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        return self.source.load(reader, begin, end)


@dataclass(frozen=True)
class Every(OfSource):
    """Every second row from `start` (0 or 1) on, or every second column: interleaved gate and up
    weights.
    """

    source: Expression
    start: int
    columns: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.source.shape
        if self.columns:
            return (*shape[:-1], shape[-1] // 2)
        return (shape[0] // 2, *shape[1:])

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        if self.columns:
            return np.ascontiguousarray(self.source.load(reader, begin, end)[:, self.start :: 2])
        return self.source.load(reader, 2 * begin, 2 * end)[self.start :: 2]
