"""Compiles the native kernels.

Standard library only: `hatch_build.py` runs this file before anything is installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

SOURCES = ("quantize.c", "lanes.h", "loop.h", "vector.h")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = (
    "-std=c11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno",
    "-fno-trapping-math",
)  # fmt: skip
# GCC only: without it the loops over lanes are taken apart, which costs compile time and speed.
_GCC_FLAGS = ("--param", "max-completely-peel-times=8")
TIMEOUT_S = 180.0
_FOLDER = Path(__file__).parent


class BuildError(Exception):
    """Why there is no library; for logs and reports, not for the screen."""


def source_id() -> str:
    """16 hex digits that stand for the C source and the flags; the library answers with the same."""
    digest = hashlib.sha256(" ".join(FLAGS + _GCC_FLAGS).encode())
    for name in SOURCES:
        digest.update(b"\0" + (_FOLDER / name).read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:16]


def library_suffix() -> str:
    """`.so`, `.dylib` or `.dll`."""
    return {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


def platform_id() -> str:
    """Operating system and architecture, such as `linux-x86_64`."""
    return f"{sys.platform}-{platform.machine().lower()}"


def find_compiler() -> Path | None:
    """The first C compiler of COMPILERS on the search path."""
    for name in COMPILERS:
        found = shutil.which(name)
        if found:
            return Path(found)
    return None


def compile_library(target: Path, compiler: Path, timeout: float = TIMEOUT_S) -> None:
    """Compile into `target`, which is the whole library or not there.

    Raises BuildError when the compiler fails, is missing or takes longer than `timeout` seconds, OSError when
    the folder of `target` cannot be written.
    """
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}.*.partial"):
        with contextlib.suppress(OSError):  # of a build that was killed; others may be at work right now
            if time.time() - left.stat().st_mtime > 3 * TIMEOUT_S:
                left.unlink()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.partial")
    command = [str(compiler), *FLAGS, f'-DKERNEL_SOURCE="{source_id()}"']
    tail = ["-o", str(temporary), str(_FOLDER / SOURCES[0]), *([] if sys.platform == "win32" else ["-lm"])]
    try:
        reason = _run([*command, *_GCC_FLAGS, *tail], timeout)
        if reason is not None:
            reason = _run([*command, *tail], timeout)  # another compiler than GCC
        if reason is not None:
            raise BuildError(reason)
        temporary.chmod(0o700)  # a loader refuses what others can write, whatever the umask
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _run(command: list[str], timeout: float) -> str | None:
    """None when the command succeeds, else why not."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            errors="replace",
            encoding="utf-8",
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} took longer than {timeout:g} s"
    except OSError as error:
        return f"{command[0]} cannot be run: {error.strerror}"
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return f"{command[0]} ended with {done.returncode}: {' | '.join(lines[-3:])[:400]}"
    return None
