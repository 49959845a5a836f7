"""The header of one safetensors file, read with bounds: nothing a hostile file says is believed before it
is checked.

Format: 8 bytes little-endian length N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then the data
(safetensors README, "Format"; the 100 MB limit on N is the one of the safetensors library).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rfctl.core.error import RfctlError

MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 8
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


class Content(Protocol):
    """Rows that stand in the place of a tensor's own (`expression.py` says how rows are loaded)."""

    def load(self, reader: Any, begin: int, end: int) -> Any: ...


@dataclass(frozen=True)
class SourceTensor:
    """Where one tensor lies.

    name     name in the safetensors file
    dtype    safetensors dtype: "BF16", "F16", "F32", "I64", ...
    shape    Hugging Face order, slowest dimension first; () for a scalar
    file     the safetensors file
    offset   bytes from the start of `file`
    size     bytes
    content  what is read in place of these bytes, of the same dtype and shape (a merged adapter)
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    size: int
    content: Content | None = None

    @property
    def count(self) -> int:
        """Number of elements."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count


def read_header(path: Path, size: int | None = None) -> list[SourceTensor]:
    """The tensors of a safetensors file, sorted by name (the order in which llama.cpp's converter takes
    them).

    size   bytes of the whole file where `path` holds no more than its header
    Reads at most 8 + N bytes. Raises RfctlError `model.shard-truncated` or `model.shard-malformed`.
    """
    size = path.stat().st_size if size is None else size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise RfctlError("model.shard-truncated", file=path.name, needed=8, found=size)
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES:
            raise _malformed(path, f"header length {length}")
        if 8 + length > size:
            raise RfctlError("model.shard-truncated", file=path.name, needed=8 + length, found=size)
        text = file.read(length)
    tensors = parse_header(path, text)
    end = max((tensor.offset + tensor.size for tensor in tensors), default=8 + length)
    if end > size:
        raise RfctlError("model.shard-truncated", file=path.name, needed=end, found=size)
    return tensors


def parse_header(path: Path, text: bytes) -> list[SourceTensor]:
    """The tensors that the header `text` of the file `path` describes, sorted by name.

    Offsets are checked against each other, and sizes against dtype and shape, but not against the length
    of the file, which is unknown when only the header was fetched. Raises RfctlError `model.shard-malformed`.
    """
    try:
        entries = json.loads(text, object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, "header is not JSON") from error
    if not isinstance(entries, dict):
        raise _malformed(path, "header is not an object")
    begin_of_data = 8 + len(text)
    tensors = [
        _read_entry(path, name, entry, begin_of_data)
        for name, entry in entries.items()
        if name != "__metadata__"
    ]
    occupied = begin_of_data
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.size)):
        if tensor.size and tensor.offset < occupied:
            raise _malformed(path, f"tensor {tensor.name!r} overlaps another")
        occupied = max(occupied, tensor.offset + tensor.size)
    return sorted(tensors, key=lambda tensor: tensor.name)


def _read_entry(path: Path, name: str, entry: Any, begin_of_data: int) -> SourceTensor:
    if not isinstance(entry, dict):
        raise _malformed(path, f"entry of {name!r}")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    span: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _malformed(path, f"dtype of {name!r}")
    if not _is_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise _malformed(path, f"shape of {name!r}")
    if not _is_counts(span) or len(span) != 2 or span[0] > span[1]:
        raise _malformed(path, f"offsets of {name!r}")
    tensor = SourceTensor(name, dtype, tuple(shape), path, begin_of_data + span[0], span[1] - span[0])
    if tensor.count * DTYPE_BYTES[dtype] != tensor.size:
        raise _malformed(path, f"size of {name!r} does not fit its shape")
    return tensor


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    merged = dict(pairs)
    if len(merged) != len(pairs):
        raise ValueError("a name occurs twice")
    return merged


def _malformed(path: Path, what: str) -> RfctlError:
    return RfctlError("model.shard-malformed", file=path.name, what=what[:200])
