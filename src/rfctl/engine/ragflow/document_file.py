"""The uploaded files on disk: `<data_dir>/document/<document id>`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePosixPath

import xxhash

from rfctl.core.file import sync_directory
from rfctl.engine.ragflow.state import State

PARTIAL = ".partial"
_OURS = re.compile(rf"[0-9a-f]{{32}}({re.escape(PARTIAL)})?")


@cache
def types() -> dict[str, str]:
    """Extension (lower case) -> RAGFlow's document type, for everything that can be parsed."""
    with Path(__file__).with_name("document_type.toml").open("rb") as file:
        table = tomllib.load(file)
    return {extension: kind for kind, extensions in table.items() for extension in extensions}


def suffix(name: str) -> str:
    """What follows the last dot of the last part of `name`, as written; "" without one."""
    return PurePosixPath(name).suffix[1:]


def type_of(name: str) -> str | None:
    """RAGFlow's document type for a file name, None if it cannot be parsed."""
    return types().get(suffix(name).lower())


class Incoming:
    """A file that is being received: written beside its final place, hashed on the way."""

    def __init__(self, directory: Path, id: str) -> None:
        self.path = directory / id
        self.partial = directory / (id + PARTIAL)
        self.size = 0
        self._hash = xxhash.xxh128()
        self._file = self.partial.open("xb")

    def write(self, piece: bytes) -> None:
        """Append bytes. Raises OSError (disk full)."""
        self._file.write(piece)
        self._hash.update(piece)
        self.size += len(piece)

    def finish(self) -> str:
        """Make the file durable at its final place; returns its XXH128 (32 hex). Raises OSError."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.partial.replace(self.path)
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Remove what was written."""
        self._file.close()
        for path in (self.partial, self.path):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


async def sync(state: State) -> None:
    """Make the names of finished files durable."""
    await asyncio.to_thread(sync_directory, state.document_dir)


async def remove(state: State, ids: Iterable[str]) -> None:
    """Delete the files of documents whose rows are gone."""
    paths = [state.document_dir / id for id in ids]
    await asyncio.to_thread(_unlink, paths)


async def sweep(state: State) -> None:
    """Delete what no row knows: uploads that were cut off, files of documents deleted just before a crash.

    Files older than the database stay: they belong to one that was moved away.
    """
    rows = await state.database.read(lambda c: c.execute("SELECT id FROM document").fetchall())
    known = {row["id"] for row in rows}
    begin = await state.database.read(lambda c: c.execute("SELECT create_time FROM tenant").fetchone()[0])

    def work() -> None:
        found = list(state.document_dir.iterdir())
        ours = [path for path in found if _OURS.fullmatch(path.name) and path.name not in known]
        _unlink(path for path in ours if path.stat().st_mtime * 1000 >= begin)

    await asyncio.to_thread(work)


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        # A file that another program still has open stays until the next sweep (Windows).
        with contextlib.suppress(FileNotFoundError, PermissionError):
            path.unlink()
