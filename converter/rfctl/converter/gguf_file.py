"""A GGUF file that exists, in one piece or in several: its pairs as bytes, its tensors with their places.

The header is read and bounded by `core.gguf_header`; here are only those views of it that a comparison to the
byte needs.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from rfctl.converter.header import SourceTensor
from rfctl.converter.split import find_siblings
from rfctl.core.error import RfctlError
from rfctl.core.gguf_header import GgufError, GgufHeader, GgufTensor, Value, read_header, tensor_types

_SPLIT = ("split.no", "split.count", "split.tensors.count")
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class FileTensor:
    """One tensor of a file.

    data       where its bytes lie, as something that a SourceReader reads
    row_bytes  bytes of one row
    """

    info: GgufTensor
    data: SourceTensor = field(repr=False)
    row_bytes: int

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def rows(self) -> int:
        return self.info.size // self.row_bytes if self.row_bytes else 0


@dataclass(frozen=True)
class GgufFile:
    """An opened file, or a set of pieces seen as one.

    paths    all pieces, the first one first
    headers  of the pieces
    values   pairs of the first piece, decoded; keys of splitting left out
    raw      the same pairs as bytes: type and value as they stand in the file
    tensors  by name, in file order
    """

    paths: tuple[Path, ...]
    headers: tuple[GgufHeader, ...]
    values: Mapping[str, Value] = field(repr=False)
    raw: Mapping[str, bytes] = field(repr=False)
    tensors: Mapping[str, FileTensor] = field(repr=False)

    @property
    def architecture(self) -> str:
        value = self.values.get("general.architecture")
        return value if isinstance(value, str) else ""


def open_gguf(path: Path) -> GgufFile:
    """Read the header of `path` and of its sibling pieces.

    Raises GgufError `gguf.*`; RfctlError `model.file-unreadable`, `gguf.piece-missing`, `gguf.piece-first`.
    """
    paths: tuple[Path, ...] = (path,)
    try:
        first = read_header(path, array_limit=None)
        count = first.integer("split.count") or 1
        if count > 1:
            if first.integer("split.no") != 0:
                raise RfctlError("gguf.piece-first", path=path)
            siblings = find_siblings(path, count)
            missing = next((piece for piece in siblings or () if not piece.is_file()), None)
            if siblings is None or missing is not None:
                raise RfctlError("gguf.piece-missing", path=path, count=count, missing=missing or "?")
            paths = siblings
        headers = [first, *(read_header(piece) for piece in paths[1:])]
        with path.open("rb") as file:
            head = file.read(first.data_offset)
    except OSError as error:
        raise RfctlError("model.file-unreadable", file=path.name, what=error.strerror or "") from error
    tensors: dict[str, FileTensor] = {}
    for piece, header in zip(paths, headers, strict=True):
        header.check_complete(piece)
        for info in header.tensors:
            if info.name in tensors:
                raise GgufError("gguf.tensor-twice", path=piece, tensor=info.name)
            place = SourceTensor(
                info.name, "U8", (info.size,), piece, header.data_offset + info.offset, info.size
            )
            tensors[info.name] = FileTensor(info, place, row_bytes(info))
    return GgufFile(
        paths=paths,
        headers=tuple(headers),
        values={key: value for key, value in first.values.items() if key not in _SPLIT},
        raw={key: value for key, value in _slice_pairs(path, head).items() if key not in _SPLIT},
        tensors=tensors,
    )


def row_bytes(info: GgufTensor) -> int:
    """Bytes of a row of a tensor (a vector is one row)."""
    columns = info.shape[0] if info.shape else 1
    return _sizes()[info.type_name][1] * (columns // _sizes()[info.type_name][0])


@cache
def _sizes() -> Mapping[str, tuple[int, int]]:
    return {kind.name: (kind.elements, kind.bytes) for kind in tensor_types().values()}


def _slice_pairs(path: Path, head: bytes) -> dict[str, bytes]:
    """Key -> type and value as bytes, of a header that has been read once already."""
    try:
        (pairs,) = struct.unpack_from("<Q", head, 16)
        found: dict[str, bytes] = {}
        at = 24
        for _ in range(pairs):
            (size,) = struct.unpack_from("<Q", head, at)
            key = head[at + 8 : at + 8 + size].decode("utf-8", errors="replace")
            begin = at + 8 + size
            (kind,) = struct.unpack_from("<I", head, begin)
            at = _skip(head, begin + 4, kind)
            found[key] = head[begin:at]
        return found
    except (struct.error, KeyError) as error:  # it changed between two readings
        raise GgufError("gguf.header-truncated", path=path, position=0, size=len(head)) from error


def _skip(head: bytes, at: int, kind: int) -> int:
    if kind == _STRING:
        return at + 8 + int(struct.unpack_from("<Q", head, at)[0])
    if kind != _ARRAY:
        return at + _WIDTHS[kind]
    item, count = struct.unpack_from("<IQ", head, at)
    at += 12
    if item != _STRING:
        return at + _WIDTHS[item] * int(count)
    for _ in range(count):
        at += 8 + int(struct.unpack_from("<Q", head, at)[0])
    return at
