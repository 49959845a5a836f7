"""Where two GGUF files differ, or a file and the model that it was made from: keys and tensors.

Tensors are compared as bytes, a few rows at a time; only where the bytes differ are the values computed, to
say how far apart they are.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfctl.converter.dequantize import dequantize
from rfctl.converter.gguf_file import FileTensor, GgufFile
from rfctl.converter.plan import ValueType
from rfctl.converter.storage import SourceReader
from rfctl.core.progress import SILENT, Reporter

_CHUNK_WEIGHTS = 1 << 20
_SHOWN_TEXT, _SHOWN_ITEMS = 80, 6
type Load = Callable[[int, int], NDArray[np.uint8]]


@dataclass(frozen=True)
class KeyDifference:
    """A key that differs. `kind`: "missing" (only in the first), "extra" (only in the second) or "value";
    `first`, `second`: the values, shortened, "" where there is none.
    """

    key: str
    kind: str
    first: str
    second: str


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that differs.

    kind         "missing" (only in the first), "extra" (only in the second), "shape", "type", "values", or
                 "unverified": the bytes could not be compared or the values not be read
    first        type and shape in the first, "" where it is missing
    second       the same in the second
    count        values that differ; 0 when only the way differs in which equal values are written
    first_index  flat index (ggml order) of the first of them
    max_abs      largest absolute difference
    rms          root mean square of all differences of the tensor
    """

    name: str
    kind: str
    first: str
    second: str
    count: int | None = None
    first_index: int | None = None
    max_abs: float | None = None
    rms: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What was found. `tensor_count`: tensors with both sides; `same_count`: those with equal bytes."""

    keys: tuple[KeyDifference, ...]
    tensors: tuple[TensorDifference, ...]
    tensor_count: int
    same_count: int

    @property
    def is_same(self) -> bool:
        return not self.keys and not self.tensors


@dataclass(frozen=True)
class Pair:
    """Two sides of one tensor with the same shape: type names and functions that give rows as bytes."""

    name: str
    columns: int
    rows: int
    first_type: str
    second_type: str
    first: Load = field(repr=False)
    second: Load = field(repr=False)
    size: int = 0


def compare_files(first: GgufFile, second: GgufFile, *, reporter: Reporter = SILENT) -> Comparison:
    """Keys and tensors that differ between two files; a tensor of another type is compared by its values."""
    differences: list[TensorDifference] = []
    pairs: list[Pair] = []
    sides = [file.data.file for side in (first, second) for file in side.tensors.values()]
    with SourceReader(sides) as reader:
        for name, one in first.tensors.items():
            other = second.tensors.get(name)
            if other is None:
                differences.append(TensorDifference(name, "missing", describe(one), ""))
            elif one.info.shape != other.info.shape:
                differences.append(TensorDifference(name, "shape", describe(one), describe(other)))
            else:
                columns = one.info.shape[0] if one.info.shape else 1
                pairs.append(
                    Pair(name, columns, one.rows, one.info.type_name, other.info.type_name,
                         bind(reader, one), bind(reader, other), one.info.size + other.info.size)
                )  # fmt: skip
        for name, other in second.tensors.items():
            if name not in first.tensors:
                differences.append(TensorDifference(name, "extra", "", describe(other)))
        found = compare_pairs(pairs, reporter=reporter)
    keys = compare_keys(first.raw, second.raw)
    return Comparison(keys, (*differences, *found), len(pairs), len(pairs) - len(found))


def bind(reader: SourceReader, tensor: FileTensor) -> Load:
    """Rows of a tensor of a file as (n, row bytes)."""

    def load(begin: int, end: int) -> NDArray[np.uint8]:
        data = reader.read(tensor.data, begin * tensor.row_bytes, (end - begin) * tensor.row_bytes)
        return data.reshape(end - begin, tensor.row_bytes)

    return load


def describe(tensor: FileTensor) -> str:
    """ "Q4_K 4096x32000"."""
    return f"{tensor.info.type_name} {'x'.join(map(str, tensor.info.shape))}"


def compare_keys(first: Mapping[str, bytes], second: Mapping[str, bytes]) -> tuple[KeyDifference, ...]:
    """Pairs as bytes (type and value) that are not the same on both sides, in the order of the first."""
    found = []
    for key, one in first.items():
        other = second.get(key)
        if other is None:
            found.append(KeyDifference(key, "missing", show_value(one), ""))
        elif one != other:
            found.append(KeyDifference(key, "value", show_value(one), show_value(other)))
    found += [
        KeyDifference(key, "extra", "", show_value(other))
        for key, other in second.items()
        if key not in first
    ]
    return tuple(found)


def compare_pairs(
    pairs: Iterable[Pair], *, threads: int | None = None, reporter: Reporter = SILENT
) -> list[TensorDifference]:
    """The pairs whose bytes differ, with how far their values are apart."""
    pairs = list(pairs)
    sums: dict[str, list[_Part]] = {}
    workers = threads or min(16, os.cpu_count() or 1)
    jobs = (
        (pair, begin, min(pair.rows, begin + step))
        for pair in pairs
        for step in [max(1, _CHUNK_WEIGHTS // max(1, pair.columns))]
        for begin in range(0, pair.rows, step)
    )
    total = sum(pair.size for pair in pairs)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="compare")
    try:
        with reporter.stage("model.stage-compare", total=total) as stage:
            for pair, share, part in _run_in_order(pool, jobs, workers):
                stage.advance(share)
                if part is not None:
                    sums.setdefault(pair.name, []).append(part)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [_sum_up(pair, sums[pair.name]) for pair in pairs if pair.name in sums]


@dataclass(frozen=True)
class _Part:
    """What differs in some rows. `count` is None when nothing here reads the type."""

    count: int | None
    first_index: int | None = None
    max_abs: float = 0.0
    square: float = 0.0


def _run_in_order(
    pool: ThreadPoolExecutor, jobs: Iterator[tuple[Pair, int, int]], workers: int
) -> Iterator[tuple[Pair, int, _Part | None]]:
    window: list[Any] = []
    for job in jobs:
        window.append((job, pool.submit(_compare_rows, *job)))
        if len(window) > workers:
            yield _finish(window.pop(0))
    while window:
        yield _finish(window.pop(0))


def _finish(entry: Any) -> tuple[Pair, int, _Part | None]:
    (pair, begin, end), future = entry
    return pair, pair.size * (end - begin) // max(1, pair.rows), future.result()


def _compare_rows(pair: Pair, begin: int, end: int) -> _Part | None:
    one, other = pair.first(begin, end), pair.second(begin, end)
    if pair.first_type == pair.second_type and np.array_equal(one, other):
        return None
    left, right = dequantize(pair.first_type, one), dequantize(pair.second_type, other)
    if left is None or right is None:
        return _Part(None)
    with np.errstate(all="ignore"):
        gap = np.abs(left.astype(np.float64) - right.astype(np.float64)).reshape(-1)
    same = (left == right).reshape(-1) | (np.isnan(left) & np.isnan(right)).reshape(-1)
    gap[same] = 0.0
    gap[np.isnan(gap)] = math.inf  # a NaN on one side only
    unequal = np.flatnonzero(~same)
    if not unequal.size:
        return _Part(0)
    first = begin * pair.columns + int(unequal[0])
    return _Part(int(unequal.size), first, float(gap.max()), float(np.square(gap).sum()))


def _sum_up(pair: Pair, parts: list[_Part]) -> TensorDifference:
    shape = f"{pair.columns}x{pair.rows}"
    first, second = f"{pair.first_type} {shape}", f"{pair.second_type} {shape}"
    if any(part.count is None for part in parts):
        return TensorDifference(pair.name, "unverified", first, second)
    kind = "values" if pair.first_type == pair.second_type else "type"
    indices = [part.first_index for part in parts if part.first_index is not None]
    return TensorDifference(
        pair.name,
        kind,
        first,
        second,
        count=sum(part.count or 0 for part in parts),
        first_index=min(indices, default=None),
        max_abs=max(part.max_abs for part in parts),
        rms=math.sqrt(sum(part.square for part in parts) / max(1, pair.columns * pair.rows)),
    )


def show_value(raw: bytes) -> str:
    """A pair's value in a few words: `uint32 32`, `string "llama"`, `array of 32000 string`."""
    (kind,) = struct.unpack_from("<I", raw)
    name = ValueType(kind).name.lower()
    if kind == ValueType.STRING:
        text = raw[12:].decode("utf-8", errors="replace")
        return f'{name} "{text[:_SHOWN_TEXT]}"' + ("..." if len(text) > _SHOWN_TEXT else "")
    if kind == ValueType.ARRAY:
        item, count = struct.unpack_from("<IQ", raw, 4)
        start = f"{name} of {count} {ValueType(item).name.lower()}"
        if item == ValueType.STRING or count > _SHOWN_ITEMS:
            return start
        values = struct.unpack_from(f"<{count}{_FORMATS[ValueType(item)]}", raw, 16)
        return f"{start}: {', '.join(_short(value) for value in values)}"
    return f"{name} {_short(struct.unpack_from('<' + _FORMATS[ValueType(kind)], raw, 4)[0])}"


_FORMATS = {
    ValueType.UINT8: "B", ValueType.INT8: "b", ValueType.UINT16: "H", ValueType.INT16: "h",
    ValueType.UINT32: "I", ValueType.INT32: "i", ValueType.FLOAT32: "f", ValueType.BOOL: "?",
    ValueType.UINT64: "Q", ValueType.INT64: "q", ValueType.FLOAT64: "d",
}  # fmt: skip


def _short(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
