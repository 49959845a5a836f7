"""What lies in a model store and belongs to no model: kept copies of uploads, broken uploads.

A server of Ollama 0.30 or later rewrites what it is given and keeps the uploaded file until a restart.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rfctl.ollama.manifest import parse_manifest
from rfctl.ollama.store import GRACE_SECONDS, ModelStore

_DIGEST_NAME = re.compile(r"sha256[-:][0-9a-f]{64}")
# Parts of `ollama pull`, which goes on with them.
_DOWNLOAD = "-partial"


@dataclass(frozen=True)
class Leftover:
    """A file in `blobs` that no model uses. size: bytes on disk that its removal frees, which is 0 for a file
    with another link; modified: seconds since the epoch; is_blob: a whole blob, else a broken upload."""

    path: Path
    size: int
    modified: float
    is_blob: bool


@dataclass(frozen=True)
class Garbage:
    """removable: unused and older than the grace time; young: unused, but perhaps of a push that runs now;
    unreadable: manifests that cannot be read, because of which nothing is removable."""

    root: Path
    removable: tuple[Leftover, ...]
    young: tuple[Leftover, ...]
    unreadable: tuple[Path, ...]

    @property
    def size(self) -> int:
        return sum(item.size for item in self.removable)


def find_garbage(store: ModelStore, *, grace: float = GRACE_SECONDS) -> Garbage:
    """Look through a store; nothing is changed. grace: seconds. Raises OSError."""
    used: set[str] = set()
    unreadable: list[Path] = []
    for path in sorted(store.manifests.glob("*/*/*/*")):
        if path.is_dir():
            continue
        try:
            used |= parse_manifest(path.read_bytes()).digests
        except (OSError, ValueError):
            unreadable.append(path)
    removable: list[Leftover] = []
    young: list[Leftover] = []
    limit = time.time() - grace
    for entry in (
        sorted(os.scandir(store.blobs), key=lambda entry: entry.name) if store.blobs.is_dir() else ()
    ):
        if not entry.is_file(follow_symlinks=False) or _DOWNLOAD in entry.name:
            continue
        if entry.name.replace("-", ":", 1) in used:
            continue
        status = entry.stat(follow_symlinks=False)
        size = status.st_size if status.st_nlink < 2 else 0
        is_blob = _DIGEST_NAME.fullmatch(entry.name) is not None
        leftover = Leftover(Path(entry.path), size, status.st_mtime, is_blob)
        (removable if status.st_mtime < limit and not unreadable else young).append(leftover)
    return Garbage(store.root, tuple(removable), tuple(young), tuple(unreadable))


def remove_garbage(
    store: ModelStore, leftovers: Iterable[Leftover], *, grace: float = GRACE_SECONDS
) -> tuple[Leftover, ...]:
    """Remove those of `leftovers` that still are garbage; returns what was removed.

    Between the look and the consent a push may have begun to use one of them. Raises OSError.
    """
    still = {item.path for item in find_garbage(store, grace=grace).removable}
    removed = []
    for item in leftovers:
        if item.path in still:
            item.path.unlink(missing_ok=True)
            removed.append(item)
    return tuple(removed)
