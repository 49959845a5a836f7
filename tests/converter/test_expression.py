"""Operations on rows against the same operation on the whole array, however it is cut into chunks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfctl.converter.encode import check_finite, encode_rows
from rfctl.converter.expression import (
    Blocks,
    Constant,
    Every,
    Expression,
    NegativeExponential,
    Reshape,
    RotaryRows,
    RowRange,
    Shift,
    Slice,
    Stack,
)
from rfctl.converter.header import SourceTensor
from rfctl.converter.transpose import Transpose, transpose_each

SETTINGS = settings(max_examples=60, deadline=None)


class Memory:
    """A source file in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, tensor: SourceTensor, begin: int, size: int) -> bytearray:
        assert 0 <= begin <= begin + size <= tensor.size
        return bytearray(self.data[tensor.offset + begin : tensor.offset + begin + size])


def make(values: np.ndarray[Any, Any], name: str = "t") -> tuple[Slice, Memory]:
    tensor = SourceTensor(name, "F32", values.shape, Path("x"), 0, values.nbytes)
    return Slice(tensor), Memory(values.tobytes())


def in_chunks(expression: Expression, reader: Memory, rows: int, step: int) -> np.ndarray[Any, Any]:
    pieces = [expression.load(reader, begin, min(rows, begin + step)) for begin in range(0, rows, step)]
    return np.concatenate(pieces)


@SETTINGS
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 7), st.integers(1, 40))
def test_rotary_rows(heads: int, half: int, columns: int, step: int) -> None:
    rows = heads * 2 * half
    values = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    source, reader = make(values)
    wanted = values.reshape(heads, 2, half, columns).swapaxes(1, 2).reshape(rows, columns)
    assert np.array_equal(in_chunks(RotaryRows(source, heads), reader, rows, step), wanted)


def test_rotary_bias() -> None:
    values = np.arange(12, dtype=np.float32)
    source, reader = make(values)
    wanted = values.reshape(2, 2, 3).swapaxes(1, 2).reshape(1, 12)
    assert np.array_equal(RotaryRows(source, 2).load(reader, 0, 1), wanted)


@SETTINGS
@given(st.integers(2, 8), st.integers(1, 5), st.data())
def test_row_range(rows: int, columns: int, data: st.DataObject) -> None:
    values = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    begin = data.draw(st.integers(0, rows - 1))
    end = data.draw(st.integers(begin + 1, rows))
    source, reader = make(values)
    cut = RowRange(source, begin, end)
    assert cut.shape == (end - begin, columns)
    assert np.array_equal(in_chunks(cut, reader, end - begin, 2), values[begin:end])


@SETTINGS
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))
def test_stack(count: int, rows: int, columns: int, step: int) -> None:
    values = np.arange(count * rows * columns, dtype=np.float32).reshape(count, rows, columns)
    reader = Memory(values.tobytes())
    size = values[0].nbytes
    parts = tuple(
        Slice(SourceTensor(str(n), "F32", (rows, columns), Path("x"), n * size, size)) for n in range(count)
    )
    stacked = Stack(parts)
    assert stacked.shape == (count, rows, columns)
    assert np.array_equal(in_chunks(stacked, reader, count * rows, step), values.reshape(-1, columns))


def test_constant() -> None:
    values = np.array([1.0, 8.0, 2.5], dtype=np.float32)
    assert np.array_equal(Constant(values).load(Memory(b""), 0, 1), values.reshape(1, 3))


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "inf")])
def test_first_value_that_is_not_finite(dtype: str, value: float, word: str) -> None:
    values = np.full((4, 6), 0.5, dtype=np.float32)
    values[2, 3] = values[3, 1] = value
    rows = (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else values
    rows = values.astype(np.float16) if dtype == "F16" else rows
    assert check_finite(dtype, rows) == (2, 3, word)
    assert check_finite(dtype, rows[:2]) is None


@pytest.mark.parametrize("value", [65504.0, 3.0e38, -65504.0])
def test_largest_values_are_finite(value: float) -> None:
    rows = np.full((2, 32), value, dtype=np.float32)
    assert check_finite("F32", rows) is None
    _, overflow = encode_rows("F16", "F32", rows)
    assert overflow == (None if abs(value) < 70000 else 0)


def test_overflow_names_the_first_row() -> None:
    rows = np.zeros((5, 32), dtype=np.float32)
    rows[3, 7] = -1e6
    assert encode_rows("F16", "F32", rows)[1] == 3
    rows[3, 7] = 1e30
    assert encode_rows("Q8_0", "F32", rows)[1] == 3
    assert encode_rows("BF16", "F32", rows)[1] is None


@SETTINGS
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40))
def test_transpose(rows: int, columns: int, step: int) -> None:
    values = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    source, reader = make(values)
    turned = Transpose(source)
    assert turned.shape == (columns, rows)
    assert np.array_equal(in_chunks(turned, reader, columns, step), values.T)


@SETTINGS
@given(st.integers(1, 4), st.permutations(range(4)), st.integers(1, 5), st.integers(1, 20))
def test_blocks(height: int, order: list[int], columns: int, step: int) -> None:
    values = np.arange(4 * height * columns, dtype=np.float32).reshape(4 * height, columns)
    source, reader = make(values)
    wanted = values.reshape(4, height, columns)[order[:3]].reshape(3 * height, columns)
    moved = Blocks(source, height, tuple(order[:3]))
    assert moved.shape == wanted.shape
    assert np.array_equal(in_chunks(moved, reader, 3 * height, step), wanted)


@SETTINGS
@given(st.integers(1, 3), st.permutations(range(4)), st.integers(1, 5), st.integers(1, 20))
def test_blocks_of_columns(width: int, order: list[int], rows: int, step: int) -> None:
    values = np.arange(4 * width * rows, dtype=np.float32).reshape(rows, 4 * width)
    source, reader = make(values)
    moved = Blocks(source, width, tuple(order), columns=True)
    wanted = values.reshape(rows, 4, width)[:, order].reshape(rows, 4 * width)
    assert moved.shape == wanted.shape
    assert np.array_equal(in_chunks(moved, reader, rows, step), wanted)


def test_blocks_of_a_vector() -> None:
    values = np.arange(6, dtype=np.float32)
    source, reader = make(values)
    assert Blocks(source, 2, (2, 0)).load(reader, 0, 1).tolist() == [[4, 5, 0, 1]]


def test_shift_is_in_float32() -> None:
    bits = np.array([0x3F80, 0x3C00], dtype=np.uint16)  # 1.0 and 0.0078125 in bfloat16
    tensor = SourceTensor("t", "BF16", (2,), Path("x"), 0, 4)
    found = Shift(Slice(tensor), 1.0).load(Memory(bits.tobytes()), 0, 1)
    assert found.dtype == np.float32 and found.tolist() == [[2.0, 1.0078125]]


@SETTINGS
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 1), st.integers(1, 20))
def test_every_second(half: int, columns: int, start: int, step: int) -> None:
    values = np.arange(4 * half * columns, dtype=np.float32).reshape(2 * half, 2 * columns)
    source, reader = make(values)
    rows = Every(source, start)
    assert rows.shape == (half, 2 * columns)
    assert np.array_equal(in_chunks(rows, reader, half, step), values[start::2])
    narrow = Every(source, start, columns=True)
    assert narrow.shape == (2 * half, columns)
    assert np.array_equal(in_chunks(narrow, reader, 2 * half, step), values[:, start::2])


def test_experts_are_transposed_one_by_one() -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    source, reader = make(values)
    experts = tuple(Transpose(Reshape(RowRange(source, n, n + 1), (3, 4))) for n in range(2))
    assert np.array_equal(in_chunks(Stack(experts), reader, 8, 3), values.swapaxes(1, 2).reshape(8, 3))


@SETTINGS
@given(st.integers(1, 4), st.integers(1, 6), st.integers(8, 40), st.integers(1, 5))
def test_a_few_columns_are_read_alone(count: int, rows: int, columns: int, step: int) -> None:
    values = np.arange(count * rows * columns, dtype=np.float32).reshape(count, rows, columns)
    source, reader = make(values)
    turned = np.concatenate(
        [in_chunks(expert, reader, columns, step) for expert in transpose_each(source.tensor)]
    )
    assert np.array_equal(turned, values.swapaxes(1, 2).reshape(-1, rows))


def test_decay_is_correctly_rounded() -> None:
    values = np.linspace(-80, 80, 1601, dtype=np.float32)
    source, reader = make(values)
    found = NegativeExponential(source).load(reader, 0, 1)[0]
    assert found.dtype == np.float32
    assert [float(value) for value in found] == [
        float(np.float32(-math.exp(float(value)))) for value in values
    ]
