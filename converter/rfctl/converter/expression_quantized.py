"""Weights that are stored as small numbers with scales, read as float32; MXFP4 blocks, read as GGUF has them.

The arithmetic is that of llama.cpp b11434 `conversion/base.py` dequant_model (one product in float32 per
weight, no other rounding) and `conversion/gpt_oss.py` (only bits move). Every expression reads what the
rows asked for need; scales are read per row chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfctl.converter.expression import (
    Expression,
    Reader,
    Rows,
    Slice,
    count_columns,
    count_rows,
    walk_blocks,
)
from rfctl.converter.quantization.dtype import to_f32
from rfctl.converter.transpose import load_columns
from rfctl.core.error import RfctlError

type F32 = NDArray[np.float32]
SCALE_DTYPES = frozenset({"F32", "F16", "BF16"})
SCALED_DTYPES = SCALE_DTYPES | {"F8_E4M3", "F8_E5M2", "I8"}
MXFP4_BLOCK = 32
_WORD_BITS = 32


@dataclass(frozen=True)
class Scaled:
    """weight * scale.

    source   weights of any shape, dtype in SCALED_DTYPES
    scale    one number per block of weights: for every dimension 1, the extent of the weights, or, with
             `blocks`, at least extent / block (rounded up)
    blocks   extents of a block in the last dimensions of the scale; () without
    """

    source: Expression
    scale: Expression
    blocks: tuple[int, ...] = ()

    @property
    def sources(self) -> tuple[Expression, ...]:
        return (self.scale,)

    @property
    def dtype(self) -> str:
        return "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        values = to_f32(self.source.dtype, self.source.load(reader, begin, end))
        leading, extents = self.shape[:-1], self._align()
        plain = len(self.scale.shape) - len(self.blocks)
        blocks = (1,) * plain + self.blocks + (1,) * (len(extents) - len(self.scale.shape))
        row = np.zeros(end - begin, np.int64)
        if leading:
            places = np.unravel_index(np.arange(begin, end), leading)
            for place, extent, block in zip(places, extents, blocks, strict=False):
                row = row * extent + (0 if extent == 1 and block == 1 else place // block)
        first, last = int(row.min()), int(row.max()) + 1
        scale = to_f32(self.scale.dtype, _load_rows(reader, self.scale, extents, first, last))[row - first]
        if scale.shape[1] > 1 and blocks[-1] > 1:
            scale = np.repeat(scale, blocks[-1], axis=1)[:, : count_columns(self.shape)]
        with np.errstate(over="ignore", invalid="ignore"):
            values *= scale
        return values

    def _align(self) -> tuple[int, ...]:
        """The scale's shape with as many dimensions as the weights have (missing ones stand at the end)."""
        shape = self.scale.shape
        return shape + (1,) * (len(self.shape) - len(shape))


def _load_rows(
    reader: Reader, scale: Expression, extents: tuple[int, ...], begin: int, end: int
) -> NDArray[np.generic]:
    """Rows of the scale as it is after alignment, which may have shorter rows than the scale itself."""
    width = count_columns(extents)
    if width == count_columns(scale.shape):
        return scale.load(reader, begin, end)
    # [n] seen as [n, 1]: one row of n values becomes n rows.
    return scale.load(reader, 0, count_rows(scale.shape)).reshape(-1, width)[begin:end]


@dataclass(frozen=True)
class GroupedIntegers:
    """GPTQ: integers packed along the inputs, with a zero point and a scale per group of inputs.

    packed   I32 [inputs / n, outputs], n integers of `bits` bits per word, the lowest first
    zeros    I32 [groups, outputs / n]
    scales   [groups, outputs]
    groups   I32 [inputs], the group of every input
    offset   what is added to the zero points (1 in the first version of the format)
    """

    packed: Slice
    zeros: Slice
    scales: Slice
    groups: Slice
    bits: int
    offset: int

    @property
    def sources(self) -> tuple[Expression, ...]:
        return (self.packed, self.zeros, self.scales, self.groups)

    @property
    def dtype(self) -> str:
        return "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        rows, columns = self.packed.shape
        return (columns, rows * (_WORD_BITS // self.bits))

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        count = _WORD_BITS // self.bits
        group = self.groups.load(reader, 0, 1)[0]
        known = self.scales.shape[0]
        if group.min() < 0 or group.max() >= known:
            raise RfctlError(
                "model.quantized-group", tensor=self.groups.tensor.name, found=int(group.max()), groups=known
            )
        first, last = begin // count, -(-end // count)
        zeros = load_columns(self.zeros, reader, (0, known), (first, last))
        zeros = _unpack(zeros, self.bits, 1)[:, begin - first * count : end - first * count] + self.offset
        scales = load_columns(self.scales, reader, (0, known), (begin, end))
        scales = to_f32(self.scales.dtype, scales)
        height = self.packed.shape[0]
        packed = load_columns(self.packed, reader, (0, height), (begin, end))
        values = _unpack(packed, self.bits, 0) - zeros[group]
        product: F32 = scales[group] * values.astype(np.float32)
        return np.ascontiguousarray(product.T)


@dataclass(frozen=True)
class PackedIntegers:
    """compressed-tensors: integers packed along the row, with a scale per group of columns.

    packed   I32 [rows, columns / n rounded up], the lowest bits first
    scale    [rows, groups]
    zeros    I32 [rows / n rounded up, groups], packed along the rows; None: the middle of the range
    extents  I64 or I32 [2], rows and columns; compared when the first row is read
    """

    packed: Slice
    scale: Slice
    zeros: Slice | None
    extents: Slice
    bits: int
    columns: int

    @property
    def sources(self) -> tuple[Expression, ...]:
        zeros = (self.zeros,) if self.zeros is not None else ()
        return (self.packed, self.scale, self.extents, *zeros)

    @property
    def dtype(self) -> str:
        return "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.packed.shape[0], self.columns)

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        if begin == 0:
            found = [int(extent) for extent in self.extents.load(reader, 0, 1)[0]]
            if found != list(self.shape):
                raise RfctlError(
                    "model.tensor-shape",
                    tensor=self.extents.tensor.name,
                    found=found,
                    wanted=list(self.shape),
                )
        values = _unpack(self.packed.load(reader, begin, end), self.bits, 1)[:, : self.columns]
        groups = self.scale.shape[1]
        values = values.reshape(end - begin, groups, self.columns // groups)
        if self.zeros is None:
            values = values - (1 << (self.bits - 1))
        else:
            count = _WORD_BITS // self.bits
            first, last = begin // count, -(-end // count)
            zeros = _unpack(self.zeros.load(reader, first, last), self.bits, 0)
            values = values - zeros[begin - first * count : end - first * count, :, None]
        scale = to_f32(self.scale.dtype, self.scale.load(reader, begin, end))
        product: F32 = values.astype(np.float32) * scale[:, :, None]
        return product.reshape(end - begin, self.columns)


@dataclass(frozen=True)
class Ternary:
    """BitNet: -1, 0 or 1 in two bits, four rows in one, divided by one scale for the whole matrix.

    Row r of n source rows holds rows r, n + r, 2 n + r and 3 n + r, the first in the lowest bits.
    """

    source: Slice
    scale: Slice

    @property
    def sources(self) -> tuple[Expression, ...]:
        return (self.scale,)

    @property
    def dtype(self) -> str:
        return "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return (4 * self.source.shape[0], *self.source.shape[1:])

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        height = count_rows(self.source.shape)
        pieces = [
            self.source.load(reader, first, last).view(np.uint8) >> (2 * part) & 3
            for part, first, last in walk_blocks(begin, end, height)
        ]
        scale = to_f32(self.scale.dtype, self.scale.load(reader, 0, 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            values: F32 = (np.concatenate(pieces).astype(np.float32) - 1) / scale
        return values


@dataclass(frozen=True)
class Mxfp4Blocks:
    """4-bit floats with a shared exponent per 32 of them, as GGUF's blocks: rows are bytes, dtype "MXFP4".

    blocks   U8 [..., groups, 16]: byte i holds number 2 i in its low half and number 2 i + 1 in its high
             half
    scales   U8 [..., groups], exponents
    In a GGUF block the exponent comes first, then bytes with number j and number j + 16.
    """

    blocks: Slice
    scales: Slice

    @property
    def sources(self) -> tuple[Expression, ...]:
        return (self.blocks, self.scales)

    @property
    def dtype(self) -> str:
        return "MXFP4"

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.scales.shape[:-1], self.scales.shape[-1] * MXFP4_BLOCK)

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        groups = self.scales.shape[-1]
        data = self.blocks.load(reader, begin * groups, end * groups)
        numbers = np.empty((len(data), MXFP4_BLOCK), np.uint8)
        numbers[:, 0::2], numbers[:, 1::2] = data & 0x0F, data >> 4
        block = np.empty((len(data), 1 + MXFP4_BLOCK // 2), np.uint8)
        block[:, 0] = self.scales.load(reader, begin, end).reshape(-1)
        block[:, 1:] = numbers[:, :16] | numbers[:, 16:] << 4
        return block.reshape(end - begin, -1)


def _unpack(words: Rows, bits: int, axis: int) -> NDArray[np.int32]:
    """Every word of a matrix as 32 // bits integers, the lowest first, along `axis`."""
    count = _WORD_BITS // bits
    shifts = np.arange(count, dtype=np.uint32) * np.uint32(bits)
    parts = np.ascontiguousarray(words).view(np.uint32)
    if axis == 0:
        wide = parts[:, None, :] >> shifts[None, :, None]
        shape = (parts.shape[0] * count, parts.shape[1])
    else:
        wide = parts[:, :, None] >> shifts[None, None, :]
        shape = (parts.shape[0], parts.shape[1] * count)
    return (wide & np.uint32((1 << bits) - 1)).astype(np.int32).reshape(shape)
