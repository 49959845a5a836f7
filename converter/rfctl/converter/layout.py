"""The bytes of a GGUF file before its tensor data, and where every tensor lies.

Format: ggml `docs/gguf.md`, version 3, little-endian, alignment 32.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rfctl.converter.plan import KeyValue, Plan, TensorPlan, ValueType
from rfctl.converter.quantization.type import tensor_type

ALIGNMENT = 32
_SCALARS = {
    ValueType.UINT8: "<B",
    ValueType.INT8: "<b",
    ValueType.UINT16: "<H",
    ValueType.INT16: "<h",
    ValueType.UINT32: "<I",
    ValueType.INT32: "<i",
    ValueType.FLOAT32: "<f",
    ValueType.BOOL: "<?",
    ValueType.UINT64: "<Q",
    ValueType.INT64: "<q",
    ValueType.FLOAT64: "<d",
}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies.

    offset      bytes from the start of the file
    row_bytes   bytes of one row
    size        bytes without padding
    """

    tensor: TensorPlan
    offset: int
    row_bytes: int
    size: int


@dataclass(frozen=True)
class Layout:
    """A file before it is written: `head` is everything up to the tensor data, padded; `size` is that of
    the file.
    """

    head: bytes = field(repr=False)
    places: tuple[Place, ...] = field(repr=False)
    size: int


def pad(size: int) -> int:
    """`size` rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def lay_out(plan: Plan) -> Layout:
    """Fix every offset of the file of `plan`."""
    head = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(plan.tensors), len(plan.pairs)))
    for pair in plan.pairs:
        head += _pack_text(pair.key)
        head += pack_value(pair)
    offset = 0
    sizes = []
    for tensor in plan.tensors:
        row_bytes = tensor_type(tensor.type).row_bytes(tensor.columns)
        sizes.append((offset, row_bytes, row_bytes * tensor.rows))
        head += _pack_text(tensor.name)
        shape = tensor.shape
        head += struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, tensor_type(tensor.type).number, offset)
        offset = pad(offset + row_bytes * tensor.rows)
    head += bytes(pad(len(head)) - len(head))
    places = tuple(
        Place(tensor, len(head) + start, row_bytes, size)
        for tensor, (start, row_bytes, size) in zip(plan.tensors, sizes, strict=True)
    )
    return Layout(bytes(head), places, len(head) + offset)


def pack_value(pair: KeyValue) -> bytes:
    """Type and value of a pair as they stand in the file."""
    packed = bytearray(struct.pack("<I", pair.type))
    if pair.type is not ValueType.ARRAY:
        return bytes(packed + _pack_value(pair.type, pair.value))
    assert pair.item is not None
    packed += struct.pack("<IQ", pair.item, len(pair.value))
    if isinstance(pair.value, np.ndarray):
        packed += pair.value.astype(np.dtype(_SCALARS[pair.item].replace("?", "b"))).tobytes()
    else:
        _append_items(packed, pair.item, pair.value)
    return bytes(packed)


def _append_items(head: bytearray, item: ValueType, values: Sequence[Any]) -> None:
    for value in values:
        head += _pack_value(item, value)


def _pack_value(kind: ValueType, value: Any) -> bytes:
    if kind is ValueType.STRING:
        return _pack_text(value)
    return struct.pack(_SCALARS[kind], value)


def _pack_text(value: str | bytes) -> bytes:
    # Lone surrogates can come out of a JSON escape; they have no UTF-8 form.
    data = value if isinstance(value, bytes) else value.encode("utf-8", errors="replace")
    return struct.pack("<Q", len(data)) + data
