"""A file that is there already, compared with what would be written: the second run of a conversion changes
nothing, and says so only when every byte is the same.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from rfctl.converter.layout import Layout
from rfctl.core.error import RefusedError, RfctlError

_BINARY = getattr(os, "O_BINARY", 0)


class ExistingFile:
    """Takes the place of a `PartialFile`: it writes nothing, and refuses the first byte that differs.

    Raises RefusedError `model.target-exists`, RfctlError `model.file-unreadable`.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._lock = threading.Lock()
        self._descriptor = -1

    def open(self, size: int) -> None:
        """Open the file, which has `size` bytes if it is the same one."""
        try:
            self._descriptor = os.open(self.target, os.O_RDONLY | _BINARY)
            found = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise self._explain(error) from error
        if found != size:
            raise RefusedError("model.target-exists", path=self.target)

    def write(self, data: memoryview | bytes, offset: int) -> None:
        """Compare `data` with what lies at `offset` (thread-safe)."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            try:
                piece = self._read_some(len(view) - done, offset + done)
            except OSError as error:
                raise self._explain(error) from error
            if not piece or piece != view[done : done + len(piece)]:
                raise RefusedError("model.target-exists", path=self.target)
            done += len(piece)

    def sync(self) -> None: ...

    def commit(self) -> None: ...

    def discard(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _read_some(self, size: int, offset: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, offset)
        with self._lock:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, size)

    def _explain(self, error: OSError) -> RfctlError:
        what = error.strerror or str(error)
        return RfctlError("model.file-unreadable", file=self.target.name, what=what)


def find_existing(
    targets: Sequence[Path], layouts: Sequence[Layout], *, overwrite: bool
) -> list[ExistingFile] | None:
    """The files to compare with, None when there is something to write.

    Sizes and headers (keys, names, types, shapes) are compared here, before any weight is read. Raises
    RefusedError `model.target-exists` for a file that differs, or that is only a part of the set.
    """
    present = [path for path in targets if path.exists()]
    if overwrite or not present:
        return None
    if len(present) < len(targets) or not all(path.is_file() for path in present):
        raise RefusedError("model.target-exists", path=present[0])
    files = [ExistingFile(path) for path in targets]
    for file, layout in zip(files, layouts, strict=True):
        try:
            file.open(layout.size)
            file.write(layout.head, 0)
        finally:
            file.discard()
    return files
