"""Matrices that are stored transposed: GPT-2's Conv1D weights, experts with inputs first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfctl.converter.expression import (
    STORAGE,
    Expression,
    Reader,
    Reshape,
    RowRange,
    Rows,
    Slice,
    count_columns,
    count_rows,
)
from rfctl.converter.header import SourceTensor

_BLOCK = 1 << 20  # weights of the source that a transposition holds at a time
_FEW = 8  # one read per row is worth while when it takes at most this part of the row


@dataclass(frozen=True)
class Transpose:
    """A matrix with its dimensions swapped (GPT-2's Conv1D weights, experts that are stored transposed).

    Every chunk of rows reads the columns it needs, a block of source rows at a time.
    """

    source: Expression

    @property
    def dtype(self) -> str:
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        rows, columns = self.source.shape
        return (columns, rows)

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        height, width = self.source.shape
        step = max(1, _BLOCK // max(1, width))
        blocks = [
            load_columns(self.source, reader, (first, min(height, first + step)), (begin, end)).T
            for first in range(0, height, step)
        ]
        return np.ascontiguousarray(np.concatenate(blocks, axis=1))


def load_columns(source: Expression, reader: Reader, rows: tuple[int, int], columns: tuple[int, int]) -> Rows:
    """A rectangle of an expression; of a tensor's own bytes only these are read when they are few."""
    if isinstance(source, RowRange):
        step = count_rows(source.source.shape[1:]) if len(source.source.shape) > 1 else 1
        shifted = (source.begin * step + rows[0], source.begin * step + rows[1])
        return load_columns(source.source, reader, shifted, columns)
    if isinstance(source, Reshape):
        return load_columns(source.source, reader, rows, columns)
    width = count_columns(source.shape)
    if isinstance(source, Slice) and source.tensor.content is None:
        kind = STORAGE[source.dtype]
        size = (columns[1] - columns[0]) * kind.itemsize
        if size * _FEW <= width * kind.itemsize:
            starts = [(row * width + columns[0]) * kind.itemsize for row in range(*rows)]
            pieces = [np.frombuffer(reader.read(source.tensor, start, size), dtype=kind) for start in starts]
            return np.stack(pieces)
    return source.load(reader, *rows)[:, columns[0] : columns[1]]


def transpose_each(tensor: SourceTensor) -> list[Expression]:
    """The matrices of a tensor of three dimensions, each transposed."""
    count, rows, columns = tensor.shape
    return [
        Transpose(Reshape(RowRange(Slice(tensor), number, number + 1), (rows, columns)))
        for number in range(count)
    ]
