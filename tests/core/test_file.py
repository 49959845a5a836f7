"""Atomic files: the old content or the new one, whatever happens in between."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rfctl.core.file import sha256_file, write_atomic

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="uses POSIX limits and signals")


def test_content_mode_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    assert sha256_file(path) == hashlib.sha256(b"two").hexdigest()


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError):
            write_atomic(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_killed_writers_leave_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    program = (
        "import sys; from pathlib import Path; from rfctl.core.file import write_atomic\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    write_atomic(Path(sys.argv[1]), bytes([n % 256]) * 200_000)\n"
    )
    for pause in (0.25, 0.4, 0.55):
        writer = subprocess.Popen([sys.executable, "-c", program, str(path)])
        time.sleep(pause)
        writer.kill()
        writer.wait()
        if path.exists():
            content = path.read_bytes()
            assert len(content) == 200_000 and len(set(content)) == 1
    assert path.exists()
