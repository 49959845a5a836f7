"""Write a plan: row chunks are read, checked, encoded and written by several threads, and hashed in file
order.

Every byte passes through memory once because every row is checked for NaN and infinity and the sha256 is
computed on the way; so unchanged types are read and written too, not copied inside the kernel. Memory: a
few chunks per thread.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfctl.converter.encode import check_finite, encode_rows
from rfctl.converter.expression import Slice
from rfctl.converter.header import SourceTensor
from rfctl.converter.layout import Layout, Place, lay_out, pad
from rfctl.converter.plan import Plan
from rfctl.converter.quantization.type import tensor_type
from rfctl.converter.storage import PartialFile, SourceReader
from rfctl.core.error import RefusedError, RfctlError
from rfctl.core.file import sync_directory
from rfctl.core.progress import SILENT, Reporter

_CHUNK_WEIGHTS = 1 << 20
_ALL_WEIGHTS = 6 << 20  # in work at the same time, whatever the number of threads


@dataclass(frozen=True)
class Written:
    """A finished file.

    size      bytes
    sha256    hex
    warnings  (id, params)
    """

    path: Path
    size: int
    sha256: str
    warnings: tuple[tuple[str, dict[str, object]], ...]


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
    reporter: Reporter = SILENT,
) -> Written:
    """Write the file of `plan` to `target`; on any failure the old file, or none, is there.

    threads   workers; None: one per core, at most 16
    Raises RefusedError `model.target-exists`; RfctlError `model.target-full`, `model.target-unwritable`,
    `model.target-busy`, `model.not-finite` (names tensor and row), `model.overflow`,
    `model.shard-truncated`, `model.kernel-missing`.
    """
    if target.exists() and not overwrite:
        raise RefusedError("model.target-exists", path=target)
    if not target.parent.is_dir():
        raise RfctlError("model.target-unwritable", path=target, what=f"no folder {target.parent}")
    layout = lay_out(plan)
    free = shutil.disk_usage(target.parent).free
    if free < layout.size:
        raise RfctlError("model.target-full", path=target, needed=layout.size, free=free)
    workers = max(1, min(16, threads if threads is not None else os.cpu_count() or 1))
    with SourceReader(tensor.file for tensor in _list_sources(plan)) as reader:
        partial = PartialFile(target, layout.size)
        try:
            digest, warnings = _write_all(plan, layout, reader, partial, workers, reporter)
            partial.commit()
        finally:
            partial.discard()
    sync_directory(target.parent)
    return Written(target, layout.size, digest, warnings)


def _list_sources(plan: Plan) -> Iterator[SourceTensor]:
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
    plan: Plan, layout: Layout, reader: SourceReader, partial: PartialFile, workers: int, reporter: Reporter
) -> tuple[str, tuple[tuple[str, dict[str, object]], ...]]:
    digest = hashlib.sha256(layout.head)
    partial.write(layout.head, 0)
    overflows: dict[str, int] = {}
    chunk = min(_CHUNK_WEIGHTS, _ALL_WEIGHTS // workers)
    window: deque[Future[_Done]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="convert")
    try:
        with reporter.stage("model.stage-write", total=layout.size, file=partial.target.name) as stage:
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
                    stage.advance(done.data.nbytes + padding)
                    del done
    finally:
        for future in window:
            future.cancel()
        pool.shutdown(wait=True)
    warnings: list[tuple[str, dict[str, object]]] = []
    if overflows:
        first, row = next(iter(overflows.items()))
        warnings.append(("model.overflow-written", {"tensor": first, "row": row, "count": len(overflows)}))
    return digest.hexdigest(), tuple(warnings)


def _list_jobs(layout: Layout, chunk: int) -> Iterator[tuple[Place, int, int]]:
    for place in layout.places:
        rows = place.tensor.rows
        step = max(1, chunk // place.tensor.columns)
        for begin in range(0, rows, step):
            yield place, begin, min(rows, begin + step)


def _run(reader: SourceReader, partial: PartialFile, place: Place, begin: int, end: int) -> _Done:
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
    partial.write(memoryview(view), place.offset + begin * place.row_bytes)
    return _Done(view, place, end == tensor.rows, None if overflow is None else begin + overflow)
