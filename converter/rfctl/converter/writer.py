"""Write a plan: row chunks are read, checked, encoded and written by several threads, and hashed in file
order.

Every byte passes through memory once because every row is checked for NaN and infinity and the sha256 is
computed on the way; so unchanged types are read and written too, not copied inside the kernel. Memory: a
few chunks per thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfctl.converter.encode import check_finite, encode_rows
from rfctl.converter.existing import ExistingFile, find_existing
from rfctl.converter.expression import Slice
from rfctl.converter.header import SourceTensor
from rfctl.converter.layout import Layout, Place, lay_out, pad
from rfctl.converter.plan import Plan
from rfctl.converter.quantization.type import tensor_type
from rfctl.converter.split import WHOLE, SplitRule, name_pieces, split_plan
from rfctl.converter.storage import PartialFile, SourceReader
from rfctl.core.error import RfctlError, UsageError
from rfctl.core.file import sync_directory
from rfctl.core.progress import SILENT, Reporter, Stage

type Output = PartialFile | ExistingFile

_CHUNK_WEIGHTS = 1 << 20
_ALL_WEIGHTS = 6 << 20  # in work at the same time, whatever the number of threads


@dataclass(frozen=True)
class File:
    """One finished file. `size` in bytes, `sha256` in hex."""

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class Written:
    """Finished files: one, or the pieces of a split one in their order.

    warnings   (id, params)
    unchanged  the files were there already, byte for byte
    """

    files: tuple[File, ...]
    warnings: tuple[tuple[str, dict[str, object]], ...]
    unchanged: bool = False

    @property
    def path(self) -> Path:
        """The file, or the first piece, which is the one to load."""
        return self.files[0].path

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def sha256(self) -> str:
        """Of the file, or of the first piece."""
        return self.files[0].sha256


@dataclass(frozen=True)
class _Done:
    data: Any
    place: Place
    is_last: bool
    overflow_row: int | None


def write_plan(
    plan: Plan,
    target: Path,
    *,
    threads: int | None = None,
    overwrite: bool = False,
    split: SplitRule = WHOLE,
    reporter: Reporter = SILENT,
) -> Written:
    """Write the file of `plan` to `target`; on any failure the old file, or none, is there.

    A target that is there already is compared, not written, unless `overwrite` asks for it: the same bytes
    are `unchanged`, others are refused.

    threads   workers; None: one per core, at most 16
    split     when to begin another piece; the pieces are named after `target` (`split.py`). They take their
              names together when all are complete, the first one last: without it llama.cpp loads none
    Raises RefusedError `model.target-exists` (other bytes are there); UsageError `model.target-folder`;
    RfctlError `model.target-full`, `model.target-unwritable`, `model.target-busy`, `model.not-finite` (names
    tensor and row), `model.overflow`, `model.shard-truncated`, `model.kernel-missing`.
    """
    pieces = split_plan(plan, split)
    targets = name_pieces(target, len(pieces))
    if not target.parent.is_dir():
        raise UsageError("model.target-folder", path=target, folder=target.parent)
    layouts = [lay_out(piece) for piece in pieces]
    existing = find_existing(targets, layouts, overwrite=overwrite)
    needed = sum(layout.size for layout in layouts)
    free = shutil.disk_usage(target.parent).free
    if existing is None and free < needed:
        raise RfctlError("model.target-full", path=target, needed=needed, free=free)
    workers = max(1, min(16, threads if threads is not None else os.cpu_count() or 1))
    digests = []
    overflows: dict[str, int] = {}
    with (
        SourceReader(tensor.file for tensor in list_sources(plan)) as reader,
        contextlib.ExitStack() as stack,
        reporter.stage(
            "model.stage-write" if existing is None else "model.stage-compare-file",
            total=needed,
            file=target.name,
        ) as stage,
    ):
        partials: Sequence[Output]
        partials = [PartialFile(path) for path in targets] if existing is None else existing
        for partial, layout in zip(partials, layouts, strict=True):
            stack.callback(partial.discard)
            partial.open(layout.size)
        for layout, partial in zip(layouts, partials, strict=True):
            digest, beyond = _write_all(plan, layout, reader, partial, workers, stage)
            digests.append(digest)
            overflows |= beyond
        if existing is None:
            _commit(partials)
            sync_directory(target.parent)
    warnings: list[tuple[str, dict[str, object]]] = []
    if overflows:
        first, row = next(iter(overflows.items()))
        warnings.append(("model.overflow-written", {"tensor": first, "row": row, "count": len(overflows)}))
    files = tuple(
        File(path, layout.size, digest)
        for path, layout, digest in zip(targets, layouts, digests, strict=True)
    )
    return Written(files, tuple(warnings), unchanged=existing is not None)


def _commit(partials: Sequence[Output]) -> None:
    """Give all files their names; if that fails half-way, none of a set keeps its name."""
    first, *others = partials
    if not others:
        first.commit()
        return
    for partial in partials:
        partial.sync()
    # From here to the last renaming there must be no first piece, neither an old nor a new one.
    first.target.unlink(missing_ok=True)
    done = []
    try:
        for partial in (*others, first):
            partial.commit()
            done.append(partial.target)
    except BaseException:
        for path in done:
            path.unlink(missing_ok=True)
        raise


def list_sources(plan: Plan) -> Iterator[SourceTensor]:
    """The source tensors of a whole plan."""
    for tensor in plan.tensors:
        yield from list_slices(tensor.expression)


def list_slices(expression: Any) -> Iterator[SourceTensor]:
    """The source tensors that an expression reads."""
    if isinstance(expression, Slice):
        if expression.tensor.content is not None:
            yield from list_slices(expression.tensor.content)
            return
        yield expression.tensor
    for inner in (getattr(expression, "source", None), *getattr(expression, "sources", ())):
        if inner is not None:
            yield from list_slices(inner)


def _write_all(
    plan: Plan, layout: Layout, reader: SourceReader, partial: Output, workers: int, stage: Stage
) -> tuple[str, dict[str, int]]:
    """sha256 of the file, and tensors with values beyond their type with the first such row."""
    digest = hashlib.sha256(layout.head)
    partial.write(layout.head, 0)
    overflows: dict[str, int] = {}
    chunk = min(_CHUNK_WEIGHTS, _ALL_WEIGHTS // workers)
    window: deque[Future[_Done]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="convert")
    try:
        stage.advance(len(layout.head))
        jobs = _list_jobs(layout, chunk)
        more = True
        while more or window:
            while more and len(window) <= workers:
                job = next(jobs, None)
                more = job is not None
                if job is not None:
                    window.append(pool.submit(_run, reader, partial, *job))
            if window:
                done = window.popleft().result()
                tensor = done.place.tensor
                if done.overflow_row is not None:
                    # An infinite scale makes a whole block NaN; an infinite half is one weight, as in
                    # the reference.
                    if plan.is_strict or tensor_type(tensor.type).is_quantized:
                        raise RfctlError(
                            "model.overflow", tensor=tensor.name, row=done.overflow_row, type=tensor.type
                        )
                    overflows.setdefault(tensor.name, done.overflow_row)
                digest.update(done.data)
                padding = pad(done.place.size) - done.place.size if done.is_last else 0
                digest.update(bytes(padding))
                partial.write(bytes(padding), done.place.offset + done.place.size)
                stage.advance(done.data.nbytes + padding)
                del done
    finally:
        for future in window:
            future.cancel()
        pool.shutdown(wait=True)
    return digest.hexdigest(), overflows


def _list_jobs(layout: Layout, chunk: int) -> Iterator[tuple[Place, int, int]]:
    for place in layout.places:
        rows = place.tensor.rows
        step = max(1, chunk // place.tensor.columns)
        for begin in range(0, rows, step):
            yield place, begin, min(rows, begin + step)


def _run(reader: SourceReader, partial: Output, place: Place, begin: int, end: int) -> _Done:
    tensor = place.tensor
    rows = tensor.expression.load(reader, begin, end)
    dtype = tensor.expression.dtype
    bad = check_finite(dtype, rows)
    if bad is not None:
        raise RfctlError(
            "model.not-finite", tensor=tensor.name, row=begin + bad[0], column=bad[1], value=bad[2]
        )
    data, overflow = encode_rows(tensor.type, dtype, np.ascontiguousarray(rows))
    view = data.reshape(-1).view(np.uint8)
    if view.nbytes != (end - begin) * place.row_bytes:  # it would lie over its neighbour
        raise ValueError(f"{tensor.name}: {view.nbytes} bytes for rows {begin} to {end}")
    partial.write(memoryview(view), place.offset + begin * place.row_bytes)
    return _Done(view, place, end == tensor.rows, None if overflow is None else begin + overflow)
