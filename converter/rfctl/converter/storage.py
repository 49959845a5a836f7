"""Positional reading and writing of files by several threads, with a locked fallback where the system has
none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rfctl.converter.header import SourceTensor
from rfctl.core.error import RfctlError

_BINARY = getattr(os, "O_BINARY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class SourceReader:
    """Reads bytes of tensors; holds one open file per source file."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()
        try:
            for file in sorted(set(files)):
                self._files[file] = os.open(file, os.O_RDONLY | _BINARY)
        except OSError as error:
            self.close()
            raise RfctlError("model.file-unreadable", file=file.name, what=error.strerror or "") from error

    def read(self, tensor: SourceTensor, begin: int, size: int) -> NDArray[np.uint8]:
        """`size` bytes from byte `begin` of the tensor.

        Raises RfctlError `model.shard-truncated`, `model.file-unreadable`.
        """
        descriptor = self._files[tensor.file]
        buffer = np.empty(size, np.uint8)  # not zeroed, unlike a bytearray
        view = memoryview(buffer)
        done = 0
        while done < size:
            try:
                count = self._read_some(descriptor, view[done:], tensor.offset + begin + done)
            except OSError as error:
                raise RfctlError(
                    "model.file-unreadable", file=tensor.file.name, what=error.strerror or ""
                ) from error
            if count == 0:
                end = tensor.offset + tensor.size
                raise RfctlError(
                    "model.shard-truncated",
                    file=tensor.file.name,
                    needed=end,
                    found=tensor.offset + begin + done,
                )
            done += count
        return buffer

    def _read_some(self, descriptor: int, view: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(descriptor, [view], offset)
        with self._lock:
            os.lseek(descriptor, offset, os.SEEK_SET)
            data = os.read(descriptor, len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PartialFile:
    """`NAME.partial` beside the target, of its full size from the start; it becomes the target, or it
    vanishes.

    Raises RfctlError `model.target-full`, `model.target-unwritable`, `model.target-busy`.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".partial")
        self._lock = threading.Lock()
        self._descriptor = -1
        self._is_ours = False

    def open(self, size: int) -> None:
        """Make the file. `discard` must be sure to follow, whatever happens: an interruption may come at any
        step, after the file is there and before this returns.
        """
        self._is_ours = True
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | _BINARY | _NO_FOLLOW, 0o644)
            self._claim()
            os.ftruncate(self._descriptor, 0)
            self._reserve(size)
        except OSError as error:
            self._is_ours = self._descriptor >= 0
            self.discard()
            raise self._explain(error, size) from error
        except RfctlError:
            self._let_go()  # another process writes it: it stays
            raise

    def write(self, data: memoryview | bytes, offset: int) -> None:
        """Write all of `data` at `offset` (thread-safe)."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view):
                done += self._write_some(view[done:], offset + done)
        except OSError as error:
            raise self._explain(error, len(view)) from error

    def sync(self) -> None:
        """Bring all that was written to the disk; what goes wrong there goes wrong before any renaming."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._explain(error, 0) from error

    def commit(self) -> None:
        """Sync, and take the target's place."""
        try:
            os.fsync(self._descriptor)
            if os.name == "nt":  # an open file keeps its name there
                self._close()
            os.replace(self.path, self.target)
            self._is_ours = False
            self._close()
        except OSError as error:
            self._drop()
            raise self._explain(error, 0) from error

    def discard(self) -> None:
        """Remove the partial file, if it has not become the target."""
        if not self._is_ours:
            return
        try:
            if self._descriptor < 0:  # interrupted while it was opened or renamed
                self._descriptor = os.open(self.path, os.O_RDWR | _BINARY | _NO_FOLLOW)
            self._claim()
        except (OSError, RfctlError):
            self._let_go()  # it is not there, or it is another's by now
            return
        self._drop()

    def _let_go(self) -> None:
        self._is_ours = False
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _write_some(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._descriptor, view, offset)
        with self._lock:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.write(self._descriptor, view)

    def _claim(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows: a second writer cannot rename over an open file anyway
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RfctlError("model.target-busy", path=self.target) from error
        except OSError:
            return  # a file system without locks

    def _reserve(self, size: int) -> None:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._descriptor, 0, size)
                return
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV):
                    raise
        os.ftruncate(self._descriptor, size)

    def _drop(self) -> None:
        self._is_ours = False
        if self._descriptor >= 0:
            if os.name != "nt":
                with contextlib.suppress(OSError):
                    self.path.unlink()
            self._close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _explain(self, error: OSError, size: int) -> RfctlError:
        if error.errno in _FULL:
            return RfctlError("model.target-full", path=self.target, needed=size)
        return RfctlError("model.target-unwritable", path=self.target, what=error.strerror or str(error))
