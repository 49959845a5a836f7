"""Brings a model file or a model directory from a server that only ssh reaches; resumes where it stopped.

Files are `NAME.partial` until their size and their sha256 are the server's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO

from rfctl.core.error import RfctlError, UnreachableError, UsageError
from rfctl.core.file import CHUNK_BYTES, sha256_file, sync_directory, write_atomic
from rfctl.core.lock import FileLock
from rfctl.core.progress import SILENT, Reporter, Stage
from rfctl.stack.fetch_remote import Hashes, Remote, list_remote, quoted
from rfctl.stack.fetch_ssh import Deadline, Source, open_ssh

ATTEMPTS = 5
# A connection that stands and brings nothing (a hung disk over there) is taken for a broken one.
STALL_SECONDS = 120.0
PARTIAL, SIDECAR = ".partial", ".partial.json"
_FORBIDDEN = frozenset('\\:*?"<>|') | {chr(code) for code in range(32)}


@dataclass(frozen=True)
class Fetched:
    """path: where the file is now; resumed: bytes that an earlier run had brought; is_new: False when it was
    here already with the same content."""

    path: Path
    size: int
    sha256: str
    resumed: int = 0
    is_new: bool = True


def fetch(
    source: Source, folder: Path, *, exclude: Sequence[str] = (), reporter: Reporter = SILENT
) -> list[Fetched]:
    """Bring the file, or every file of the directory, into `folder` (a directory becomes `folder`/its name).

    exclude: patterns of the shell for files of a directory that stay there, held against the name and against
    the whole path below the directory.
    Raises UsageError, AuthError, UnreachableError `bring.broken` (the next call goes on from there),
    RfctlError (`bring.disk-full`, `bring.hash-differs`, ...), OSError.
    """
    if shutil.which("ssh") is None:
        raise UsageError("tunnel.no-ssh")
    with reporter.stage("bring.listing", unit="seconds", host=source.host):
        files = [one for one in list_remote(source) if not _is_excluded(one, exclude)]
    if not files:
        raise RfctlError("bring.nothing", source=source)
    targets = [_target(source, one, folder) for one in files]
    if len(set(targets)) != len(targets):
        raise RfctlError("bring.name-refused", name=str(targets[0]), source=source)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file := folder / f".{PurePosixPath(source.path).name}.lock")
    if not lock.acquire():
        raise UsageError("bring.busy", path=targets[0])
    try:
        _require_space(files, targets, folder)
        with Hashes(source, files) as hashes:
            return [
                _fetch_one(source, one, path, hashes, reporter)
                for one, path in zip(files, targets, strict=True)
            ]
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            lock_file.unlink()


def _is_excluded(file: Remote, patterns: Sequence[str]) -> bool:
    return bool(file.name) and any(
        fnmatchcase(name, one) for one in patterns for name in (file.name, PurePosixPath(file.name).name)
    )


def _target(source: Source, file: Remote, folder: Path) -> Path:
    """Where a file goes. A server chooses names, so they stay inside the folder. Raises RfctlError."""
    base = PurePosixPath(source.path).name
    parts = [base, *file.name.split("/")] if file.name else [base]
    for part in parts:
        if part in ("", ".", "..", "/") or _FORBIDDEN & set(part) or part.endswith((PARTIAL, SIDECAR)):
            raise RfctlError("bring.name-refused", name=file.name or base, source=source)
    return folder.joinpath(*parts)


def _require_space(files: Sequence[Remote], targets: Sequence[Path], folder: Path) -> None:
    missing = sum(one.size for one, path in zip(files, targets, strict=True) if not path.exists())
    have = sum(_size(_partial(path)) for path in targets)
    free = shutil.disk_usage(folder).free
    if missing - have > free:
        raise RfctlError("bring.disk-full", path=folder, needed=missing - have, free=free)


def _fetch_one(source: Source, file: Remote, path: Path, hashes: Hashes, reporter: Reporter) -> Fetched:
    if path.exists() and path.stat().st_size == file.size:
        with reporter.stage("bring.checking", total=file.size, name=path.name) as stage:
            if (found := sha256_file(path, stage.advance)) == hashes.get(file):
                return Fetched(path, file.size, found, is_new=False)
    if path.exists():
        raise UsageError("bring.other-file", path=path)
    path.parent.mkdir(parents=True, exist_ok=True)
    resumed = _resume_point(source, file, path)
    hashes.begin(file)
    with reporter.stage("bring.bringing", total=file.size, name=path.name) as stage:
        stage.update(done=resumed)
        _transfer(source, file, path, stage)
    partial = _partial(path)
    with reporter.stage("bring.checking", total=file.size, name=path.name) as stage:
        found = sha256_file(partial, stage.advance)
    if found != (expected := hashes.get(file)):
        partial.unlink()
        _sidecar(path).unlink(missing_ok=True)
        raise RfctlError("bring.hash-differs", path=path, found=found, expected=expected)
    os.replace(partial, path)
    sync_directory(path.parent)
    _sidecar(path).unlink(missing_ok=True)
    return Fetched(path, file.size, found, resumed)


def _resume_point(source: Source, file: Remote, path: Path) -> int:
    """Bytes that are here already; what belongs to another or a changed file is thrown away."""
    about = {"source": str(source), **asdict(file)}
    sidecar, partial = _sidecar(path), _partial(path)
    try:
        is_same = json.loads(sidecar.read_text(encoding="utf-8")) == about
    except (OSError, ValueError):
        is_same = False
    if not is_same or _size(partial) > file.size:
        partial.unlink(missing_ok=True)
        write_atomic(sidecar, json.dumps(about).encode())
    return _size(partial)


def _transfer(source: Source, file: Remote, path: Path, stage: Stage) -> None:
    """Append what is missing; a broken connection is taken up again as long as bytes arrive."""
    partial = _partial(path)
    failures, delay = 0, 1.0
    with partial.open("ab") as out:
        while (have := out.tell()) < file.size:
            detail = _stream(source, file, have, out, stage)
            out.flush()
            os.fsync(out.fileno())
            if out.tell() > have:
                failures, delay = 0, 1.0
            if out.tell() >= file.size:
                break
            failures += 1
            if failures >= ATTEMPTS:
                raise UnreachableError(
                    "bring.broken", source=source, detail=detail, done=out.tell(), size=file.size
                )
            time.sleep(delay)
            delay = min(delay * 2, 30.0)


def _stream(source: Source, file: Remote, offset: int, out: IO[bytes], stage: Stage) -> str:
    """Bytes from `offset` to the end, or to where the connection breaks; gives ssh's last words."""
    with (
        open_ssh(source, f"exec tail -c +{offset + 1} {quoted(source, file)}") as session,
        Deadline(session.process, STALL_SECONDS) as deadline,
    ):
        left = file.size - offset if session.skip_greeting() else 0
        has_begun = left > 0
        while left and (piece := session.stdout.read1(min(CHUNK_BYTES, left))):  # type: ignore[attr-defined]
            deadline.extend()
            out.write(piece)
            left -= len(piece)
            stage.advance(len(piece))
        if has_begun and not left:
            return ""
        session.process.wait()
        return session.last_words()


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + SIDECAR)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
