"""The weight files of a directory, looked at without stopping at the first thing that is wrong. Headers
only."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rfctl.converter.finding import Finding, Severity, shorten
from rfctl.converter.header import SourceTensor, read_header
from rfctl.converter.source import INDEX, read_index
from rfctl.converter.source_pickled import find_pickled, refuse_model
from rfctl.converter.source_run import find_parts
from rfctl.core.error import RfctlError

_LEFTOVERS = Path(__file__).parent / "data" / "leftover.toml"
_NUMBERED = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.safetensors$")


@dataclass(frozen=True)
class Weights:
    """What the headers say.

    tensors      every tensor of every readable file, by name
    is_complete  whether every file that should be there was there and readable
    file_bytes   size of the weight files together, bytes
    """

    tensors: Mapping[str, SourceTensor]
    is_complete: bool
    file_bytes: int


def examine_weights(path: Path, sizes: Mapping[str, int]) -> tuple[Weights, list[Finding]]:
    """Index, files and headers of the model directory `path`; no weight is read.

    sizes   bytes of files of which only the header is there, by name
    """
    findings: list[Finding] = []
    index: Mapping[str, str] | None = None
    try:
        index = read_index(path)
    except RfctlError as error:
        findings.append(from_error(error))
    named = {path / name for name in index.values()} if index else set()
    present = sorted(file for file in {*path.glob("model*.safetensors"), *named} if file.is_file())
    absent = _absent_files(present, index)
    if absent:
        names = shorten(absent)
        findings.append(_error("model.shard-missing", file=names, path=path))
    if not present and not absent:
        findings.append(_explain_nothing(path))
    tensors: dict[str, SourceTensor] = {}
    duplicates: list[tuple[str, str, str]] = []
    headers: list[tuple[Path, list[SourceTensor]]] = []
    is_complete = not absent and bool(present)
    for file in present:
        try:
            headers.append((file, read_header(file, sizes.get(file.name))))
        except RfctlError as error:
            findings.append(from_error(error))
            is_complete = False
        except OSError as error:
            findings.append(_error("model.file-unreadable", file=file.name, what=error.strerror or ""))
            is_complete = False
    stray = _find_stray(headers, named)
    for file, header in headers:
        for tensor in () if file.name in stray else header:
            if tensor.name in tensors:
                duplicates.append((tensor.name, tensors[tensor.name].file.name, file.name))
            tensors[tensor.name] = tensor
    if stray:
        findings.append(_error("model.weights-stray", files=shorten(stray), index=INDEX))
    if duplicates:
        name, first, second = duplicates[0]
        shown = shorten([name for name, _, _ in duplicates]) if len(duplicates) > 1 else name
        findings.append(_error("model.tensor-duplicate", tensor=shown, first=first, second=second))
    elif index is not None and is_complete:
        missing, extra = sorted(set(index) - set(tensors)), sorted(set(tensors) - set(index))
        if missing or extra:
            findings.append(
                _error(
                    "model.index-stale",
                    file=INDEX,
                    missing=shorten(missing) or "-",
                    extra=shorten(extra) or "-",
                )
            )
    file_bytes = sum(sizes.get(file.name) or file.stat().st_size for file in present)
    return Weights(tensors, is_complete, file_bytes), findings


def _find_stray(headers: list[tuple[Path, list[SourceTensor]]], named: set[Path]) -> list[str]:
    """Files that an index does not name and that only repeat tensors of the files it names."""
    indexed = {tensor.name for file, header in headers if file in named for tensor in header}
    return [
        file.name
        for file, header in headers
        if named and file not in named and header and indexed.issuperset(tensor.name for tensor in header)
    ]


def find_leftovers(names: Iterable[str]) -> tuple[list[Finding], set[str]]:
    """Traces of quantized training, adapters and wrappers among the tensor names; the names they explain as
    well."""
    table = _leftovers()
    groups: dict[str, list[str]] = {}
    wrapped: dict[str, list[str]] = {}
    for name in names:
        prefix = next((prefix for prefix in table["prefix"]["names"] if name.startswith(prefix)), None)
        if prefix is not None:
            wrapped.setdefault(prefix, []).append(name)
        for group in table["group"]:
            if name.endswith(tuple(group["suffixes"])) or any(part in name for part in group["parts"]):
                groups.setdefault(group["finding"], []).append(name)
                break
    findings = [_error(id, count=len(found), tensors=shorten(found, 3)) for id, found in groups.items()]
    findings += [
        _error("model.wrapper-prefix", prefix=prefix, count=len(found), tensors=shorten(found, 2))
        for prefix, found in wrapped.items()
        if "model.leftover-lora" not in groups or prefix != "base_model.model."
    ]
    explained = {name for found in (*groups.values(), *wrapped.values()) for name in found}
    return findings, explained


def from_error(error: RfctlError) -> Finding:
    """The same observation as a finding instead of an exception."""
    return Finding(error.id, Severity.ERROR, dict(error.params))


def _absent_files(present: list[Path], index: Mapping[str, str] | None) -> list[str]:
    """Files that the index or the numbering of the others promises and that are not there."""
    names = {file.name for file in present}
    wanted = set(index.values()) if index else set()
    if not index:
        for name in names:
            match = _NUMBERED.match(name)
            if match and int(match["total"]) <= 10_000:
                total = int(match["total"])
                wanted |= {
                    f"{match['stem']}-{number:05d}-of-{total:05d}.safetensors"
                    for number in range(1, total + 1)
                }
    return sorted(wanted - names)


def _explain_nothing(path: Path) -> Finding:
    named_otherwise = sorted(file.name for file in path.glob("*.safetensors") if "adapter" not in file.name)
    if named_otherwise:
        return _error("model.weights-misnamed", files=shorten(named_otherwise), path=path)
    pickled = find_pickled(path)
    if pickled:
        return from_error(refuse_model(path, pickled))
    if parts := find_parts(path):
        return from_error(parts)
    gguf = sorted(file.name for file in path.glob("*.gguf"))
    if gguf:
        return _error("model.weights-gguf", files=shorten(gguf), path=path)
    return _error("model.weights-missing", path=path, others="-")


def _error(id: str, **params: object) -> Finding:
    return Finding(id, Severity.ERROR, params)


@cache
def _leftovers() -> dict[str, Any]:
    with _LEFTOVERS.open("rb") as file:
        return tomllib.load(file)
