"""A model in a folder that can be carried: parts of the GGUF with their hashes, and a Modelfile.

For a machine whose ports cannot be opened: the folder is made there, fetched by rsync or sftp (in as many
attempts as it takes), checked, and imported. What arrives is a stranger's input: names are fixed, sizes and
hashes are checked before anything is used.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rfctl.core.error import RfctlError, UsageError, VerdictError
from rfctl.core.file import CHUNK_BYTES, sha256_file, sync_directory, write_atomic
from rfctl.core.progress import SILENT, Reporter, Stage
from rfctl.core.version import __version__
from rfctl.ollama.candidate import read_candidate
from rfctl.ollama.modelfile import Command, Modelfile, parse_modelfile, read_modelfile
from rfctl.ollama.name import parse_name

SCHEMA = 1
PART_BYTES = 256 << 20
INDEX, MODELFILE = "bundle.json", "Modelfile"
_MAX_INDEX = 16 << 20
_PART = re.compile(r"part-[0-9]{5}", re.ASCII)
# What an earlier try may have left: parts, and files that were being written when it was killed.
_OURS = re.compile(r"part-[0-9]{5}(\.partial)?|\.(Modelfile|bundle\.json)\.[0-9a-f]+\.partial", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Part:
    """file: name in the folder; size: bytes; sha256: hex."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Bundle:
    """What `bundle.json` says. name: of the model; file: name of the GGUF; size, sha256: of the whole file;
    origin: version of rfctl, time and settings of the machine that made it."""

    folder: Path
    name: str
    file: str
    size: int
    sha256: str
    parts: tuple[Part, ...]
    modelfile_sha256: str
    origin: Mapping[str, str]


@dataclass(frozen=True)
class BundleState:
    """How much of a bundle is here. missing and damaged: file names; bytes_here: of sound parts."""

    bundle: Bundle
    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    bytes_here: int

    @property
    def is_complete(self) -> bool:
        return not self.missing and not self.damaged


def create_bundle(
    gguf: Path,
    folder: Path,
    name: str,
    *,
    modelfile: Modelfile | None = None,
    origin: Mapping[str, str] | None = None,
    part_bytes: int = PART_BYTES,
    reporter: Reporter = SILENT,
) -> Bundle:
    """Write the bundle of `gguf` into `folder`, which must be new, empty, or an earlier try of the same.

    modelfile: settings to carry; its FROM is replaced. The index is written last: without it there is no
    bundle. Raises UsageError `bundle.folder-taken`, GgufError, OSError (disk full).
    """
    name = str(parse_name(name))
    size = read_candidate(gguf).size
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(path.name for path in folder.iterdir())
    parts_there = [file for file in names if _OURS.fullmatch(file)]
    strange = [file for file in names if file not in parts_there and file not in (INDEX, MODELFILE)]
    if strange or (names and not parts_there):
        raise UsageError("bundle.folder-taken", path=folder, file=(strange or names)[0])
    (folder / INDEX).unlink(missing_ok=True)
    for path in folder.iterdir():
        path.unlink()
    needed = size + (1 << 20)
    if shutil.disk_usage(folder).free < needed:
        raise RfctlError("bundle.disk-full", path=folder, needed=needed)
    whole = hashlib.sha256()
    parts: list[Part] = []
    with (
        gguf.open("rb") as source,
        reporter.stage("bundle.stage-create", total=size, path=gguf.name) as stage,
    ):
        while piece := source.read(min(CHUNK_BYTES, part_bytes)):
            file, own, written = f"part-{len(parts):05d}", hashlib.sha256(), 0
            partial = folder / f"{file}.partial"
            with partial.open("xb") as target:
                while piece:
                    target.write(piece)
                    whole.update(piece)
                    own.update(piece)
                    written += len(piece)
                    stage.advance(len(piece))
                    piece = (
                        source.read(min(CHUNK_BYTES, part_bytes - written)) if written < part_bytes else b""
                    )
                target.flush()
                os.fsync(target.fileno())
            os.replace(partial, folder / file)
            parts.append(Part(file, written, own.hexdigest()))
    if sum(part.size for part in parts) != size:
        raise RfctlError("ollama.source-changed", path=gguf)
    settings = [item for item in modelfile.commands if item.name != "model"] if modelfile is not None else []
    text = str(Modelfile((Command("model", "."), *settings))).encode()
    if parse_modelfile(text).commands[1:] != tuple(settings):
        raise UsageError("bundle.modelfile-altered")
    write_atomic(folder / MODELFILE, text)
    made = {
        "rfctl": __version__,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    bundle = Bundle(
        folder=folder,
        name=name,
        file=gguf.name,
        size=size,
        sha256=whole.hexdigest(),
        parts=tuple(parts),
        modelfile_sha256=hashlib.sha256(text).hexdigest(),
        origin=made | dict(origin or {}),
    )
    document = {"schema": SCHEMA, **asdict(bundle)}
    del document["folder"]
    write_atomic(folder / INDEX, json.dumps(document, ensure_ascii=False, indent=1).encode())
    return bundle


def read_bundle(folder: Path) -> Bundle:
    """The index of a bundle. Raises UsageError `bundle.none` and VerdictError `bundle.broken`."""
    path = folder / INDEX
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_INDEX + 1)
    except OSError as error:
        raise UsageError("bundle.none", path=folder) from error
    try:
        if len(data) > _MAX_INDEX:
            raise ValueError("too large")
        document = json.loads(data)
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']}")
        parts = tuple(
            Part(_match(_PART, item["file"]), _positive(item["size"]), _match(_HASH, item["sha256"]))
            for item in document["parts"]
        )
        bundle = Bundle(
            folder=folder,
            name=str(parse_name(document["name"])),
            file=Path(str(document["file"])).name,
            size=_positive(document["size"]),
            sha256=_match(_HASH, document["sha256"]),
            parts=parts,
            modelfile_sha256=_match(_HASH, document["modelfile_sha256"]),
            origin={str(key): str(value) for key, value in dict(document["origin"]).items()},
        )
        if [part.file for part in parts] != [f"part-{number:05d}" for number in range(len(parts))]:
            raise ValueError("parts out of order")
        if sum(part.size for part in parts) != bundle.size:
            raise ValueError("sizes differ")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VerdictError("bundle.broken", path=path, detail=str(error)) from error
    return bundle


def verify_bundle(folder: Path, *, reporter: Reporter = SILENT) -> BundleState:
    """Check what has arrived: every part and the Modelfile by size and hash. Nothing is changed.

    Raises UsageError, VerdictError (see `read_bundle`), OSError.
    """
    bundle = read_bundle(folder)
    missing: list[str] = []
    damaged: list[str] = []
    here = 0
    with reporter.stage("bundle.stage-verify", total=bundle.size, path=folder.name) as stage:
        for part in bundle.parts:
            path = folder / part.file
            if not path.is_file():
                missing.append(part.file)
            elif path.stat().st_size != part.size or sha256_file(path, stage.advance) != part.sha256:
                damaged.append(part.file)
            else:
                here += part.size
    text = folder / MODELFILE
    if not text.is_file():
        missing.append(MODELFILE)
    elif sha256_file(text) != bundle.modelfile_sha256:
        damaged.append(MODELFILE)
    return BundleState(bundle, tuple(missing), tuple(damaged), here)


def read_settings(bundle: Bundle) -> Modelfile:
    """The Modelfile of a bundle. Raises VerdictError `bundle.damaged`, ModelfileError."""
    path = bundle.folder / MODELFILE
    if not path.is_file() or sha256_file(path) != bundle.modelfile_sha256:
        raise VerdictError("bundle.damaged", path=path)
    return read_modelfile(path)


def assemble_bundle(bundle: Bundle, target: Path, *, reporter: Reporter = SILENT) -> Path:
    """Put the parts together as `target`; returns it. Goes on where an earlier call ended.

    A part is appended only after its hash was found right, so that what is there is sound up to the last
    whole part; the whole file is checked at the end. Raises RfctlError `bundle.incomplete` when a part has
    not arrived (what is assembled stays), VerdictError `bundle.damaged`, OSError.
    """
    partial = target.with_name(f"{target.name}.{bundle.sha256[:16]}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    have = partial.stat().st_size if partial.is_file() else 0
    needed = bundle.size - have
    if shutil.disk_usage(target.parent).free < needed:
        raise RfctlError("bundle.disk-full", path=target.parent, needed=needed)
    whole, position = hashlib.sha256(), 0
    with (
        contextlib.ExitStack() as stack,
        partial.open("ab") as file,
        reporter.stage("bundle.stage-import", total=bundle.size, path=bundle.file) as stage,
    ):
        stack.callback(_drop_empty, partial)
        for part in bundle.parts:
            end = position + part.size
            if end <= have:
                _hash_range(partial, position, part.size, whole, stage)
            else:
                file.truncate(position)
                for piece in _read_part(bundle, part):
                    file.write(piece)
                    whole.update(piece)
                    stage.advance(len(piece))
                file.flush()
                os.fsync(file.fileno())
                have = end
            position = end
        file.truncate(position)
    if whole.hexdigest() != bundle.sha256:
        partial.unlink()
        raise VerdictError("bundle.damaged", path=bundle.folder / bundle.file)
    os.replace(partial, target)
    sync_directory(target.parent)
    return target


def _drop_empty(path: Path) -> None:
    """Remove a file in which nothing came to lie: there is nothing to go on with."""
    with contextlib.suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()


def _read_part(bundle: Bundle, part: Part) -> Iterator[bytes]:
    """The bytes of a part whose hash is right."""
    path = bundle.folder / part.file
    if not path.is_file():
        raise RfctlError("bundle.incomplete", path=bundle.folder, file=part.file)
    if path.stat().st_size != part.size or sha256_file(path) != part.sha256:
        raise VerdictError("bundle.damaged", path=path)
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def _hash_range(path: Path, start: int, size: int, state: hashlib._Hash, stage: Stage) -> None:
    with path.open("rb") as file:
        file.seek(start)
        while size and (piece := file.read(min(CHUNK_BYTES, size))):
            state.update(piece)
            stage.advance(len(piece))
            size -= len(piece)


def _match(pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"unexpected {value!r}"[:100])
    return value


def _positive(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 50:
        raise ValueError(f"unexpected {value!r}"[:100])
    return value
