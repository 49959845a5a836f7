"""Work on the stack's data that is under way, or that was cut off (killed, power lost).

A backup stops the containers. Before it does it notes which ones and where it writes, so that whoever comes
next can start them again and remove the part. The file lock beside the note tells a backup that runs from one
that died, because the system releases it with its holder.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rfctl.core.error import RefusedError, RfctlError
from rfctl.core.file import write_atomic
from rfctl.core.lock import FileLock, is_locked
from rfctl.stack.project import Project

MAX_NOTE = 1 << 16
# Who only asks whether work is under way holds the lock for an instant.
PATIENCE_SECONDS = 0.5


@dataclass(frozen=True)
class CutOff:
    """A backup that did not end. partial: the folder of its part; containers: ids of those it stopped."""

    partial: Path
    containers: tuple[str, ...]


@contextlib.contextmanager
def hold(project: Project) -> Iterator[None]:
    """Nobody else works on the data meanwhile. Raises RefusedError `stack.busy`, RfctlError."""
    lock = FileLock(_lock(project))
    try:
        project.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (taken := lock.acquire()) and time.monotonic() < deadline:
            time.sleep(0.05)
    except OSError as error:
        raise RfctlError("stack.unwritable", path=project.directory, detail=str(error)) from error
    if not taken:
        raise RefusedError("stack.busy")
    try:
        yield
    finally:
        lock.release()


def require_idle(project: Project) -> None:
    """Raises RefusedError `stack.busy` while a backup or a restore runs."""
    if is_busy(project):
        raise RefusedError("stack.busy")


def is_busy(project: Project) -> bool:
    try:
        return is_locked(_lock(project))
    except OSError:
        return False  # a home that cannot be written to has no backup under way


def note_stop(project: Project, partial: Path, containers: Sequence[str]) -> None:
    """To be called before the containers are stopped. Raises OSError."""
    text = json.dumps({"partial": str(partial), "containers": list(containers)}) + "\n"
    write_atomic(_note(project), text.encode(), mode=0o600)


def forget_stop(project: Project) -> None:
    """The containers run again, or somebody wants them stopped. Raises OSError."""
    _note(project).unlink(missing_ok=True)


def read_stop(project: Project) -> CutOff | None:
    """What a backup noted that is no longer under way; None when there is nothing, or nothing readable."""
    if is_busy(project):
        return None
    return _read(project)


def clear_part(project: Project) -> CutOff | None:
    """Remove the part that a backup left, and keep its note; what it said. For who holds the lock."""
    found = _read(project)
    if found is not None and found.partial.name.startswith(".") and found.partial.name.endswith(".partial"):
        shutil.rmtree(found.partial, ignore_errors=True)
    return found


def clear_stop(project: Project) -> CutOff | None:
    """Remove the note too. For who holds the lock. Raises OSError."""
    found = clear_part(project)
    forget_stop(project)
    return found


def _read(project: Project) -> CutOff | None:
    try:
        with _note(project).open("rb") as file:
            document = json.loads(file.read(MAX_NOTE))
        return CutOff(Path(str(document["partial"])), tuple(str(id) for id in document["containers"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _note(project: Project) -> Path:
    return project.directory / "backup.unfinished"


def _lock(project: Project) -> Path:
    return project.directory / "work.lock"
