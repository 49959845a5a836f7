"""What a conversion would write, to the byte, without reading a weight or writing anything."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rfctl.converter.layout import lay_out
from rfctl.converter.plan import Plan
from rfctl.converter.quantization.type import tensor_type
from rfctl.converter.split import WHOLE, SplitRule, name_pieces, split_plan


@dataclass(frozen=True)
class TensorSize:
    """One tensor of the output.

    shape         GGUF order, fastest dimension first
    source_dtype  safetensors dtype of what it is made of
    type          "F32", "Q4_K", ...
    size          bytes without padding
    """

    name: str
    shape: tuple[int, ...]
    source_dtype: str
    type: str
    size: int


@dataclass(frozen=True)
class TypeTotal:
    """All tensors of one type. `count`: tensors; `parameter_count`: weights; `size`: bytes."""

    type: str
    count: int
    parameter_count: int
    size: int


@dataclass(frozen=True)
class FileSize:
    """A file that would be written. `path` is None when no target was given; `size` in bytes."""

    path: Path | None
    size: int
    tensor_count: int


@dataclass(frozen=True)
class Preview:
    """A conversion that was not made.

    size             bytes of all files
    header_size      bytes of them that are no tensor data (vocabulary, pairs, tensor table)
    disk_needed      bytes that must be free while it runs; an old target stays until the end
    disk_free        bytes free at the target; None without a target or where its folder is missing
    parameter_count  weights in the file
    """

    architecture: str
    outtype: str
    file_type: int
    size: int
    header_size: int
    disk_needed: int
    disk_free: int | None
    tensor_count: int
    parameter_count: int
    files: tuple[FileSize, ...]
    totals: tuple[TypeTotal, ...]
    tensors: tuple[TensorSize, ...]


def preview_plan(plan: Plan, target: Path | None = None, split: SplitRule = WHOLE) -> Preview:
    """The sizes of what `write_plan` would write of `plan`.

    Raises UsageError `model.split-count`.
    """
    pieces = split_plan(plan, split)
    layouts = [lay_out(piece) for piece in pieces]
    names = name_pieces(target, len(pieces)) if target is not None else [None] * len(pieces)
    tensors = [
        TensorSize(
            tensor.name,
            tensor.shape,
            tensor.expression.dtype,
            tensor.type,
            tensor_type(tensor.type).row_bytes(tensor.columns) * tensor.rows,
        )
        for tensor in plan.tensors
    ]
    totals: dict[str, TypeTotal] = {}
    for tensor, entry in zip(plan.tensors, tensors, strict=True):
        old = totals.get(entry.type, TypeTotal(entry.type, 0, 0, 0))
        totals[entry.type] = TypeTotal(
            entry.type, old.count + 1, old.parameter_count + tensor.count, old.size + entry.size
        )
    size = sum(layout.size for layout in layouts)
    free = None
    if target is not None and target.parent.is_dir():
        free = shutil.disk_usage(target.parent).free
    return Preview(
        architecture=plan.architecture,
        outtype=plan.outtype,
        file_type=plan.file_type,
        size=size,
        header_size=sum(len(layout.head) for layout in layouts),
        disk_needed=size,
        disk_free=free,
        tensor_count=len(tensors),
        parameter_count=plan.parameter_count,
        files=tuple(
            FileSize(name, layout.size, len(piece.tensors))
            for name, layout, piece in zip(names, layouts, pieces, strict=True)
        ),
        totals=tuple(sorted(totals.values(), key=lambda total: -total.size)),
        tensors=tuple(tensors),
    )
