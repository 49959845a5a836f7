"""The header of a GGUF file: key/values, tensors and where the data begins. Nothing of the data is read.

Format: ggml/docs/gguf.md (versions 2 and 3, little endian); the limits are those of llama.cpp b11434
(ggml/src/gguf.cpp: no nested arrays, at most 4 dimensions, names below 64 bytes, unique keys and names).
The file may be hostile: every count is compared with the bytes that are left before anything is allocated.
"""

from __future__ import annotations

import struct
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from rfctl.core.error import RfctlError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_HEADER_BYTES = 1 << 30
MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 63
# A hundred times what the largest models have: each takes some hundred bytes in memory.
MAX_VALUES = 1 << 16
MAX_TENSORS = 1 << 18
MAX_ELEMENTS = 1 << 26
MAX_TEXTS = 1 << 22
MAX_TEXT_BYTES = 16 << 20
MAX_KEY_BYTES = 65535
_MAX_SIZE = 1 << 62
_READ_BYTES = 1 << 20

_STRING, _ARRAY, _FLOAT32 = 8, 9, 6
# id in the file -> (name, struct format)
_SCALARS = {
    0: ("uint8", "<B"),
    1: ("int8", "<b"),
    2: ("uint16", "<H"),
    3: ("int16", "<h"),
    4: ("uint32", "<I"),
    5: ("int32", "<i"),
    6: ("float32", "<f"),
    7: ("bool", "<?"),
    10: ("uint64", "<Q"),
    11: ("int64", "<q"),
    12: ("float64", "<d"),
}


class GgufError(RfctlError):
    """The file is not a readable GGUF (ids `gguf.*`)."""


@dataclass(frozen=True)
class GgufArray:
    """item_type: "uint8" ... "float64", "bool", "string"; values: None when the array was longer
    than asked."""

    item_type: str
    length: int
    values: tuple[int | float | bool | str, ...] | None


type Value = int | float | bool | str | GgufArray


@dataclass(frozen=True)
class GgufTensor:
    """type_name: "F16", "Q4_K", ...; shape: in ggml's order (fastest first); offset: bytes from the data
    offset; size: bytes."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    offset: int
    size: int

    @property
    def elements(self) -> int:
        count = 1
        for extent in self.shape:
            count *= extent
        return count


@dataclass(frozen=True)
class GgufHeader:
    """values: key -> value in file order (text decoded as UTF-8, wrong bytes replaced; float32 as the
    shortest decimal that is the same float32); data_offset and file_size in bytes."""

    version: int
    alignment: int
    values: Mapping[str, Value]
    tensors: tuple[GgufTensor, ...]
    data_offset: int
    file_size: int
    _by_name: Mapping[str, GgufTensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def architecture(self) -> str:
        """`general.architecture`, "" when absent."""
        return self.string("general.architecture")

    @property
    def parameter_count(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    def string(self, key: str) -> str:
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def integer(self, key: str) -> int | None:
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def array(self, key: str) -> GgufArray | None:
        value = self.values.get(key)
        return value if isinstance(value, GgufArray) else None

    def tensor(self, name: str) -> GgufTensor | None:
        return self._by_name.get(name)

    def first_beyond_end(self) -> GgufTensor | None:
        """The first tensor whose data is not completely in the file; None for a complete file."""
        for tensor in self.tensors:
            if self.data_offset + tensor.offset + tensor.size > self.file_size:
                return tensor
        return None

    def check_complete(self, path: Path) -> None:
        """Raises GgufError `gguf.data-truncated` when tensor data is missing at the end of the file."""
        if tensor := self.first_beyond_end():
            end = self.data_offset + tensor.offset + tensor.size
            raise GgufError(
                "gguf.data-truncated", path=path, tensor=tensor.name, end=end, size=self.file_size
            )


def read_header(path: Path, *, array_limit: int | None = 64) -> GgufHeader:
    """Read the header of `path`.

    array_limit: arrays with more elements are only described, None keeps all (a vocabulary can be 250,000
    texts). Raises GgufError, OSError. A file whose tensor data is cut off is no error here: `check_complete`.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        return _parse(_Cursor(file, size, path), array_limit)


class _Cursor:
    """Reads forward in a file of known size with a buffer that grows only as far as the header goes."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self.file = file
        self.size = size
        self.path = path
        self.position = 0
        self._buffer = b""
        self._start = 0

    def fail(self, id: str, **params: Any) -> GgufError:
        return GgufError(id, path=self.path, **params)

    def reserve(self, count: int) -> None:
        """Raises `gguf.header-truncated` unless `count` more bytes exist."""
        if self.position + count > min(self.size, MAX_HEADER_BYTES):
            raise self.fail("gguf.header-truncated", position=self.position, size=self.size)

    def take(self, count: int) -> bytes:
        self.reserve(count)
        begin = self.position - self._start
        if begin + count > len(self._buffer):
            self._start = self.position
            self.file.seek(self.position)
            self._buffer = self.file.read(max(count, _READ_BYTES))
            begin = 0
            if len(self._buffer) < count:
                raise self.fail("gguf.header-truncated", position=self.position, size=self.size)
        self.position += count
        return self._buffer[begin : begin + count]

    def skip(self, count: int) -> None:
        self.reserve(count)
        self.position += count

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def string(self, limit: int | None = None) -> str:
        length = self.u64()
        if limit is None and length > MAX_TEXT_BYTES:
            self.reserve(length)
            limit = MAX_TEXT_BYTES
        if limit is not None and length > limit:
            raise self.fail("gguf.name-too-long", length=length, limit=limit)
        return self.take(length).decode("utf-8", errors="replace")


def _parse(cursor: _Cursor, array_limit: int | None) -> GgufHeader:
    if cursor.size < 4 or cursor.take(4) != MAGIC:
        raise cursor.fail("gguf.magic")
    version = cursor.u32()
    if version not in VERSIONS:
        if version and version & 0xFFFF == 0:
            raise cursor.fail("gguf.byte-order")
        raise cursor.fail("gguf.version", version=version)
    tensor_count, value_count = cursor.u64(), cursor.u64()
    # The smallest value takes 8 (length) + 4 (type) + 1 bytes, the smallest tensor 8 + 4 + 8 + 4 + 8.
    too_many = value_count > MAX_VALUES or tensor_count > MAX_TENSORS
    if too_many or value_count * 13 + tensor_count * 32 > cursor.size:
        raise cursor.fail("gguf.count", tensors=tensor_count, values=value_count, size=cursor.size)
    values: dict[str, Value] = {}
    for _ in range(value_count):
        key = cursor.string(MAX_KEY_BYTES)
        if not key or key in values:
            raise cursor.fail("gguf.key-twice", key=key)
        values[key] = _read_value(cursor, key, array_limit)
    alignment = values.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise cursor.fail("gguf.alignment", alignment=alignment)
    tensors: dict[str, GgufTensor] = {}
    for _ in range(tensor_count):
        tensor = _read_tensor(cursor, alignment)
        if tensor.name in tensors:
            raise cursor.fail("gguf.tensor-twice", tensor=tensor.name)
        tensors[tensor.name] = tensor
    return GgufHeader(
        version=version,
        alignment=alignment,
        values=values,
        tensors=tuple(tensors.values()),
        data_offset=-(-cursor.position // alignment) * alignment,
        file_size=cursor.size,
        _by_name=tensors,
    )


def _read_value(cursor: _Cursor, key: str, array_limit: int | None) -> Value:
    kind = cursor.u32()
    if kind == _STRING:
        return cursor.string()
    if kind == _ARRAY:
        return _read_array(cursor, key, array_limit)
    if kind not in _SCALARS:
        raise cursor.fail("gguf.value-type", key=key, type=kind)
    form = _SCALARS[kind][1]
    number: int | float | bool = struct.unpack(form, cursor.take(struct.calcsize(form)))[0]
    return shortest_float32(number) if kind == _FLOAT32 else number


def _read_array(cursor: _Cursor, key: str, array_limit: int | None) -> GgufArray:
    kind, length = cursor.u32(), cursor.u64()
    if length > (MAX_TEXTS if kind == _STRING else MAX_ELEMENTS):
        raise cursor.fail("gguf.header-truncated", position=cursor.position, size=cursor.size)
    keep = array_limit is None or length <= array_limit
    if kind == _STRING:
        cursor.reserve(length * 8)
        texts: list[str] = []
        for _ in range(length):
            size = cursor.u64()
            if keep:
                if size > MAX_TEXT_BYTES:
                    cursor.reserve(size)
                    raise cursor.fail("gguf.name-too-long", length=size, limit=MAX_TEXT_BYTES)
                texts.append(cursor.take(size).decode("utf-8", errors="replace"))
            else:
                cursor.skip(size)
        return GgufArray("string", length, tuple(texts) if keep else None)
    if kind not in _SCALARS:
        raise cursor.fail("gguf.value-type", key=key, type=kind)
    name, form = _SCALARS[kind]
    size = struct.calcsize(form) * length
    if not keep:
        cursor.skip(size)
        return GgufArray(name, length, None)
    return GgufArray(name, length, struct.unpack(f"<{length}{form[1]}", cursor.take(size)))


def _read_tensor(cursor: _Cursor, alignment: int) -> GgufTensor:
    name = cursor.string(MAX_NAME_BYTES)
    dimensions = cursor.u32()
    if dimensions > MAX_DIMENSIONS:
        raise cursor.fail("gguf.tensor-shape", tensor=name, shape=f"{dimensions} dimensions")
    shape = tuple(cursor.u64() for _ in range(dimensions))
    kind, offset = cursor.u32(), cursor.u64()
    known = tensor_types().get(kind)
    if known is None:
        raise cursor.fail("gguf.tensor-type", tensor=name, type=kind)
    elements = 1
    for extent in shape:
        elements *= extent
    if any(extent == 0 for extent in shape) or elements >= _MAX_SIZE or offset >= _MAX_SIZE:
        raise cursor.fail("gguf.tensor-shape", tensor=name, shape=list(shape))
    if (shape[0] if shape else 1) % known.elements:
        raise cursor.fail("gguf.tensor-shape", tensor=name, shape=f"{list(shape)} {known.name}")
    if offset % alignment:
        raise cursor.fail("gguf.tensor-offset", tensor=name, offset=offset, alignment=alignment)
    return GgufTensor(name, known.name, shape, offset, elements // known.elements * known.bytes)


@dataclass(frozen=True)
class TensorType:
    """name: ggml's own; elements and bytes of one block."""

    name: str
    elements: int
    bytes: int


@cache
def tensor_types() -> Mapping[int, TensorType]:
    """The table `tensor_type.toml` by numeric id."""
    with Path(__file__).with_name("tensor_type.toml").open("rb") as file:
        return {int(id): TensorType(**row) for id, row in tomllib.load(file).items()}


def shortest_float32(number: float) -> float:
    """The float with the fewest decimal digits that rounds to the same float32 as `number`."""
    if number != number or number in (float("inf"), float("-inf")):  # noqa: PLR0124  (NaN)
        return number
    wanted = struct.pack("<f", number)
    for digits in range(1, 9):
        short = float(f"{number:.{digits}g}")
        try:
            if struct.pack("<f", short) == wanted:
                return short
        except OverflowError:
            continue
    return float(f"{number:.9g}")
