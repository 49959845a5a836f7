"""From recorded operations to expressions that the writer evaluates a few rows at a time.

Whatever only moves rows (reshapes that keep the last dimension, permutations, ranges, concatenations, stacks)
becomes a list of rows; arithmetic with a number is done row by row; the rest is computed as a whole, one
tensor at a time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfctl.converter.expression import (
    STORAGE,
    Expression,
    Reader,
    Reshape,
    Rows,
    Slice,
    count_columns,
    count_rows,
)
from rfctl.converter.header import SourceTensor
from rfctl.converter.llama_cpp.graph import Node, apply, evaluate, list_sources, read_index
from rfctl.converter.transpose import Transpose
from rfctl.core.error import RfctlError

_MOVES = ("reshape", "permute", "get", "cat", "cast")
_EXACT = ("BF16", "F16", "F32")  # what float32 holds exactly


@dataclass(frozen=True)
class Gather:
    """Rows of several expressions in any order.

    index  for every row of the result the number of the row among all rows of `sources`, one after the other
    """

    sources: tuple[Expression, ...]
    index: NDArray[np.int64] = field(repr=False)
    shape: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return self.sources[0].dtype

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        wanted = self.index[begin:end]
        starts = np.cumsum([0, *(count_rows(source.shape) for source in self.sources)])
        which = np.searchsorted(starts, wanted, side="right") - 1
        result = np.empty((end - begin, count_columns(self.shape)), STORAGE[self.dtype])
        for number in np.unique(which):
            mine = which == number
            rows = wanted[mine] - starts[number]
            first, last = int(rows.min()), int(rows.max()) + 1
            if last - first <= 4 * rows.size:
                result[mine] = self.sources[number].load(reader, first, last)[rows - first]
                continue
            at = np.flatnonzero(mine)
            for run in np.split(np.arange(rows.size), np.flatnonzero(np.diff(rows) != 1) + 1):
                piece = self.sources[number].load(reader, int(rows[run[0]]), int(rows[run[-1]]) + 1)
                result[at[run]] = piece
        return result


@dataclass(frozen=True)
class Map:
    """An operation with a number, on every value."""

    source: Expression
    node: Node = field(repr=False)

    @property
    def dtype(self) -> str:
        return self.node.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.node.shape

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        with _explain():
            return apply(self.node, [self.source.load(reader, begin, end)])


class Whole:
    """Anything else: computed at the first use, kept until its last row has been taken."""

    def __init__(self, node: Node, sources: Mapping[Node, SourceTensor]) -> None:
        self._node, self._tensors = node, sources
        self.sources = tuple(Slice(tensor) for tensor in sources.values())
        self._lock = threading.Lock()
        self._values: Any = None

    @property
    def dtype(self) -> str:
        return self._node.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._node.shape

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        def read(node: Node) -> Any:
            tensor = self._tensors[node]
            data = reader.read(tensor, 0, tensor.size)
            return np.frombuffer(data, STORAGE[node.dtype]).reshape(node.shape)

        with self._lock:
            if self._values is None:
                with _explain():
                    values = np.ascontiguousarray(evaluate(self._node, read))
                    self._values = values.reshape(count_rows(self.shape), count_columns(self.shape))
            rows: Rows = self._values[begin:end]
            if end >= count_rows(self.shape):
                self._values = None
        return rows


@dataclass(frozen=True)
class Packed:
    """Bytes that are in the tensor's type already. `dtype` is that type; rows are rows of bytes."""

    source: Expression
    type_name: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return self.type_name

    def load(self, reader: Reader, begin: int, end: int) -> Rows:
        return self.source.load(reader, begin, end)


@contextlib.contextmanager
def _explain() -> Iterator[None]:
    """What numpy says of operations that do not fit, as an error of the plan."""
    try:
        yield
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise RfctlError("tree.malformed", what=str(error)[:200]) from error


def translate(node: Node) -> Expression:
    """The expression of a node. Integers other than what is asked for stay as they are."""
    if node.op == "cast" and node.dtype == "F32" and node.inputs[0].dtype in _EXACT:
        return translate(node.inputs[0])  # the writer widens by itself
    if node.op == "source":
        return Slice(_locate(node))
    if node.op in ("unary", "cast") or (node.op == "binary" and len(node.inputs) == 1):
        return Map(translate_exactly(node.inputs[0]), node)
    if node.op == "permute" and node.params == (1, 0) and len(node.shape) == 2:
        return Transpose(translate(node.inputs[0]))
    if node.op in _MOVES and node.shape:
        found = _gather(node)
        if found is not None:
            return _simplify(*found, node.shape)
    return Whole(node, {source: _locate(source) for source in list_sources(node)})


def translate_exactly(node: Node) -> Expression:
    """As `translate`, but with the dtype that the node has (operations depend on it)."""
    if node.op == "cast":
        return Map(translate_exactly(node.inputs[0]), node)
    expression = translate(node)
    if expression.dtype == node.dtype:
        return expression
    return Map(
        expression,
        Node("cast", (Node("", (), (), expression.dtype, node.shape),), (), node.dtype, node.shape),
    )


def _locate(node: Node) -> SourceTensor:
    file, offset, size = node.params
    return SourceTensor(Path(file).name, node.dtype, node.shape, Path(file), offset, size)


def _gather(node: Node) -> tuple[list[Expression], NDArray[np.int64]] | None:
    """Expressions, and for every row of `node` (shape without its last dimension) its number among their
    rows; None when the node does more than moving rows.
    """
    inner = node.inputs[0] if node.inputs else node
    if node.op == "cast" and node.dtype == "F32" and inner.dtype in _EXACT:
        return _gather_or_leaf(inner)
    if node.op == "reshape" and node.shape and inner.shape and node.shape[-1] == inner.shape[-1]:
        found = _gather_or_leaf(inner)
        return found[0], found[1].reshape(node.shape[:-1])
    if node.op == "permute" and node.params[-1] == len(node.shape) - 1:
        found = _gather_or_leaf(inner)
        return found[0], found[1].transpose(node.params[:-1])
    if node.op == "get" and len(node.inputs) == 1:
        return _gather_part(node, inner)
    if node.op == "cat" and node.params[0] != len(node.shape) - 1:
        sources: list[Expression] = []
        parts = []
        total = 0
        for piece in node.inputs:
            found = _gather_or_leaf(piece)
            if sources and found[0][0].dtype != sources[0].dtype:
                return None
            parts.append(found[1] + total)
            sources += found[0]
            total += sum(count_rows(source.shape) for source in found[0])
        return sources, np.concatenate(parts, axis=node.params[0])
    return None


def _gather_part(node: Node, inner: Node) -> tuple[list[Expression], NDArray[np.int64]] | None:
    entries = list(node.params)
    if "new" in entries:
        return None
    if "rest" in entries:
        place = entries.index("rest")
        entries[place : place + 1] = [["slice", None, None, None]] * (len(inner.shape) - len(entries) + 1)
    if len(entries) >= len(inner.shape) and entries[-1] != ["slice", None, None, None]:
        return None
    found = _gather_or_leaf(inner)
    return found[0], np.asarray(found[1][read_index(entries[: len(inner.shape) - 1], ())])


def _gather_or_leaf(node: Node) -> tuple[list[Expression], NDArray[np.int64]]:
    found = _gather(node) if node.op in _MOVES and len(node.shape) > 1 else None
    if found is not None:
        return found
    rows = np.arange(count_rows(node.shape), dtype=np.int64).reshape(node.shape[:-1])
    return [translate(node)], rows


def _simplify(sources: list[Expression], index: NDArray[np.int64], shape: tuple[int, ...]) -> Expression:
    flat = np.ascontiguousarray(index).reshape(-1)
    if len(sources) == 1 and flat.size == count_rows(sources[0].shape) and bool((np.diff(flat) == 1).all()):
        return sources[0] if sources[0].shape == shape else Reshape(sources[0], shape)
    if flat.size and bool((np.diff(flat) == 1).all()):
        flat = _Range(int(flat[0]), flat.size)  # type: ignore[assignment]
    return Gather(tuple(sources), flat, shape)


class _Range:
    """Ascending row numbers without the memory of an array: most stacks of experts are that."""

    def __init__(self, begin: int, size: int) -> None:
        self.begin, self.size = begin, size

    def __getitem__(self, part: slice) -> NDArray[np.int64]:
        return np.arange(self.begin + part.start, self.begin + part.stop, dtype=np.int64)
