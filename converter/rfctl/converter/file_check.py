"""Is a GGUF file sound in itself? Header, places, every value, and a vocabulary that fits the tensors."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rfctl.converter.compare import bind
from rfctl.converter.encode import check_finite, find_infinite_scale, has_scales
from rfctl.converter.expression import STORAGE
from rfctl.converter.finding import Finding, Severity
from rfctl.converter.gguf_file import FileTensor, GgufFile
from rfctl.converter.quantization.type import file_types
from rfctl.converter.storage import SourceReader
from rfctl.core.gguf_header import GgufArray
from rfctl.core.progress import SILENT, Reporter

_CHUNK_BYTES = 4 << 20
_FLOATS = ("F32", "F16", "BF16", "F64")
_INTEGERS = ("I8", "I16", "I32", "I64")
_IDS = ("bos", "eos", "unknown", "seperator", "padding", "eot", "cls", "mask")  # spelled as in the format
_LISTS = ("scores", "token_type")


@dataclass(frozen=True)
class FileReport:
    """What was found in a file.

    size             bytes of all pieces
    file_type        name of general.file_type, "" when it is missing or unknown
    types            tensor type -> tensors of it
    parameter_count  weights
    findings         what is wrong or worth knowing, errors first
    """

    path: Path
    paths: tuple[Path, ...]
    architecture: str
    file_type: str
    size: int
    tensor_count: int
    parameter_count: int
    types: Mapping[str, int]
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        return not any(finding.severity is Severity.ERROR for finding in self.findings)


def check_file(file: GgufFile, *, reporter: Reporter = SILENT) -> FileReport:
    """Read the whole file and look for what would make it fail or answer nonsense.

    Raises RfctlError `model.file-unreadable`, `model.shard-truncated`.
    """
    found = [*_check_pairs(file), *_check_vocabulary(file), *_check_places(file)]
    found += _check_values(file, reporter)
    order = list(Severity)
    number = file.values.get("general.file_type")
    name = next((kind.name for kind in file_types().values() if kind.number == number), "")
    return FileReport(
        path=file.paths[0],
        paths=file.paths,
        architecture=file.architecture,
        file_type=name,
        size=sum(header.file_size for header in file.headers),
        tensor_count=len(file.tensors),
        parameter_count=sum(tensor.info.elements for tensor in file.tensors.values()),
        types=dict(Counter(tensor.info.type_name for tensor in file.tensors.values())),
        findings=tuple(sorted(found, key=lambda finding: order.index(finding.severity))),
    )


def _error(id: str, /, **params: object) -> Finding:
    return Finding(id, Severity.ERROR, params)


def _check_pairs(file: GgufFile) -> Iterator[Finding]:
    if not file.architecture:
        yield _error("file.architecture-missing")
        return
    wanted = file.headers[0].integer("split.tensors.count")
    if wanted is not None and wanted != len(file.tensors):
        yield _error("file.pieces-tensors", found=len(file.tensors), wanted=wanted)
    blocks = file.values.get(f"{file.architecture}.block_count")
    if not isinstance(blocks, int) or file.values.get("general.type") == "adapter":
        return
    numbers = {
        int(part[1])
        for name in file.tensors
        if (part := name.split(".", 2))[0] == "blk" and len(part) > 2 and part[1].isdecimal()
    }
    missing = next((number for number in range(min(blocks, 1 << 16)) if number not in numbers), None)
    if missing is not None and file.tensors:
        yield _error("file.block-missing", block=missing, count=blocks)


def _check_vocabulary(file: GgufFile) -> Iterator[Finding]:
    if file.values.get("general.type", "model") != "model":
        return
    model = file.values.get("tokenizer.ggml.model")
    tokens = file.values.get("tokenizer.ggml.tokens")
    if not isinstance(model, str) or (
        not isinstance(tokens, GgufArray) and model not in ("none", "no_vocab")
    ):
        yield _error("file.vocabulary-missing")
        return
    if not isinstance(tokens, GgufArray):
        return
    for name in _LISTS:
        items = file.values.get(f"tokenizer.ggml.{name}")
        if isinstance(items, GgufArray) and items.length != tokens.length:
            yield _error("file.vocabulary-length", key=name, found=items.length, tokens=tokens.length)
    if model == "gpt2" and not isinstance(file.values.get("tokenizer.ggml.merges"), GgufArray):
        yield _error("file.merges-missing")
    for name in _IDS:
        key = f"tokenizer.ggml.{name}_token_id"
        number = file.values.get(key)
        if isinstance(number, int) and number >= tokens.length:
            yield _error("file.token-id", key=key, id=number, tokens=tokens.length)
    for name in ("token_embd.weight", "output.weight"):
        tensor = file.tensors.get(name)
        if tensor is not None and len(tensor.info.shape) == 2 and tensor.info.shape[1] != tokens.length:
            yield _error("file.rows", tensor=name, rows=tensor.info.shape[1], tokens=tokens.length)
    if "tokenizer.chat_template" not in file.values:
        yield Finding("file.template-missing", Severity.INFO)


def _check_places(file: GgufFile) -> Iterator[Finding]:
    for path, header in zip(file.paths, file.headers, strict=True):
        end = 0
        for tensor in sorted(header.tensors, key=lambda tensor: tensor.offset):
            if tensor.offset < end:
                yield _error("file.overlap", tensor=tensor.name, path=path)
            end = tensor.offset + tensor.size
        end = header.data_offset + -(-end // header.alignment) * header.alignment
        if header.file_size > end:
            yield Finding("file.trailing", Severity.WARN, {"path": path, "count": header.file_size - end})


def _check_values(file: GgufFile, reporter: Reporter) -> Iterator[Finding]:
    unread = sorted(
        {
            tensor.info.type_name
            for tensor in file.tensors.values()
            if tensor.info.type_name not in (*_FLOATS, *_INTEGERS) and not has_scales(tensor.info.type_name)
        }
    )
    if unread:
        yield Finding("file.type-unread", Severity.WARN, {"types": ", ".join(unread)})
    jobs = (
        (tensor, begin, min(tensor.rows, begin + step))
        for tensor in file.tensors.values()
        if tensor.info.type_name in _FLOATS or has_scales(tensor.info.type_name)
        for step in [max(1, _CHUNK_BYTES // max(1, tensor.row_bytes))]
        for begin in range(0, tensor.rows, step)
    )
    total = sum(tensor.info.size for tensor in file.tensors.values())
    bad: set[str] = set()
    workers = min(16, os.cpu_count() or 1)
    with (
        SourceReader(file.paths) as reader,
        ThreadPoolExecutor(workers) as pool,
        reporter.stage("model.stage-verify", total=total) as stage,
    ):
        window: list[tuple[FileTensor, int, int]] = []
        while True:
            window = list(islice(jobs, workers))
            if not window:
                break
            for job, found in zip(window, pool.map(lambda job: _find_bad(reader, *job), window), strict=True):
                tensor, begin, end = job
                stage.advance((end - begin) * tensor.row_bytes)
                if found is not None and tensor.name not in bad:
                    bad.add(tensor.name)
                    yield _error("file.not-finite", tensor=tensor.name, row=found[0], value=found[1])


def _find_bad(reader: SourceReader, tensor: FileTensor, begin: int, end: int) -> tuple[int, str] | None:
    data = bind(reader, tensor)(begin, end)
    kind = tensor.info.type_name
    if kind in _FLOATS:
        rows: NDArray[np.generic] = data.view(STORAGE[kind])
        found = check_finite(kind, rows)
        return None if found is None else (begin + found[0], found[2])
    row = find_infinite_scale(kind, data)
    return None if row is None else (begin + row, "scale")
