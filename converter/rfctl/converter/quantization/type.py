"""GGML tensor types and GGUF file types: numbers, block sizes and row sizes.

Numbers and sizes: `ggml_type` and `type_traits` of ggml, `llama_ftype` of llama.cpp (both b11434).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rfctl.core.error import UsageError

_TABLE = Path(__file__).with_name("type.toml")


@dataclass(frozen=True)
class TensorType:
    """How one tensor is stored.

    name         as in GGUF tools: "F32", "Q4_K", ...
    number       `ggml_type`, the number in the tensor info of a GGUF file
    block        weights per block (1 for the float types)
    block_bytes  bytes per block
    """

    name: str
    number: int
    block: int
    block_bytes: int

    @property
    def is_quantized(self) -> bool:
        return self.block > 1

    def fits(self, columns: int) -> bool:
        """Whether a row of `columns` weights is a whole number of blocks."""
        return columns % self.block == 0

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` weights; raises ValueError when it is no whole number of blocks."""
        if not self.fits(columns):
            raise ValueError(f"a row of {columns} weights is no multiple of {self.block} ({self.name})")
        return columns // self.block * self.block_bytes


@dataclass(frozen=True)
class FileType:
    """What a whole file is called.

    name      as given to `--outtype`, upper case: "F16", "Q4_K_M", ...
    number    `llama_ftype`, the value of `general.file_type`
    base      the tensor type most weights get
    is_mixed  whether llama-quantize's rules choose a type per tensor (`quantization.mix`)
    verified  whether golden files of the reference prove the choice
    """

    name: str
    number: int
    base: str
    is_mixed: bool
    verified: bool


@cache
def tensor_types() -> Mapping[str, TensorType]:
    """All known tensor types by upper-case name."""
    rows = _load()["tensor"]
    return MappingProxyType({name: TensorType(name, *row) for name, row in rows.items()})


@cache
def file_types() -> Mapping[str, FileType]:
    """All file types that can be written, by upper-case name ("AUTO" is a choice, not a type)."""
    rows = _load()["file"]
    return MappingProxyType(
        {
            name: FileType(
                name, row["number"], row["base"], row.get("mixed", False), row.get("verified", False)
            )
            for name, row in rows.items()
        }
    )


def tensor_type(name: str) -> TensorType:
    """The tensor type called `name`, in any case; raises KeyError."""
    return tensor_types()[name.upper()]


def file_type(name: str) -> FileType:
    """The file type called `name`, in any case. Raises UsageError `model.outtype-unknown`."""
    known = file_types()
    found = known.get(name.upper())
    if found is None:
        raise UsageError("model.outtype-unknown", outtype=name, known=", ".join(["auto", *known]))
    return found


@cache
def _load() -> dict[str, dict[str, Any]]:
    with _TABLE.open("rb") as file:
        return tomllib.load(file)
