"""Locks between processes."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rfctl.core.lock import FileLock, is_locked

_HOLD = (
    "import sys, time; from pathlib import Path; from rfctl.core.lock import FileLock;"
    "lock = FileLock(Path(sys.argv[1])); assert lock.acquire(); print('held', flush=True); time.sleep(60)"
)


def test_a_lock_ends_with_its_holder_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    assert not is_locked(path)
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert is_locked(path)
        assert FileLock(path).acquire() is False
    finally:
        holder.kill()
        holder.wait()
    deadline = time.monotonic() + 5
    while is_locked(path):
        assert time.monotonic() < deadline
    lock = FileLock(path)
    assert lock.acquire()
    lock.release()


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
def test_a_file_system_without_locks_is_not_a_busy_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network drives have none: that was told as another process at work, for ever."""
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="No locks"):
        FileLock(tmp_path / "a.lock").acquire()
    assert not is_locked(tmp_path / "a.lock")
