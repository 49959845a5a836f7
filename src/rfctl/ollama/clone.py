"""A second file with the same content that shares its blocks (reflink): btrfs, xfs, zfs, bcachefs, APFS."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path

_FICLONE = 0x40049409  # linux/fs.h


def clone_file(source: Path, target: Path) -> None:
    """Make `target`, which must not exist, a clone of `source`; no byte is copied.

    Raises OSError where the file system (or the platform) cannot do that; nothing is left then.
    """
    if sys.platform == "linux":
        import fcntl

        with source.open("rb") as original, target.open("xb") as copy:
            try:
                fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
                os.fsync(copy.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    target.unlink()
                raise
    elif sys.platform == "darwin":
        import ctypes

        library = ctypes.CDLL(None, use_errno=True)
        if library.clonefile(os.fsencode(source), os.fsencode(target), 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(target))
    else:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), str(target))
