"""What this machine can hold: memory and cores, as its containers are allowed to use them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

_DEVICES = (Path("/dev/nvidia0"), Path("/dev/kfd"), Path("/dev/dxg"))
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Machine:
    """memory: bytes in all; free: bytes that a new program may have now; cores: processors that this process
    may use. 0: not known. has_gpu: whether a device for inference is there (None: not known)."""

    memory: int
    free: int
    cores: int
    has_gpu: bool | None = None


def read_machine() -> Machine:
    """Ask the operating system (Linux, macOS, Windows); never raises."""
    memory, free = _read_windows() if sys.platform == "win32" else _read_posix()
    for path in _LIMITS:
        with contextlib.suppress(OSError, ValueError):
            limit = int(path.read_text("ascii"))
            memory, free = min(memory or limit, limit), min(free or limit, limit)
    return Machine(memory, free or memory, os.process_cpu_count() or 1, _find_gpu())


def _find_gpu() -> bool | None:
    """Device files of NVIDIA and AMD on Linux, the chip on macOS."""
    system = platform.system()
    if system == "Darwin":
        return platform.machine() == "arm64"
    if system == "Linux":
        return any(path.exists() for path in _DEVICES)
    return None


def _read_posix() -> tuple[int, int]:
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return values["MemTotal"], values.get("MemAvailable", values["MemTotal"])
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), 0
    return 0, 0


def _read_windows() -> tuple[int, int]:
    """GlobalMemoryStatusEx: total and available physical memory."""

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            ("total", ctypes.c_ulonglong),
            ("available", ctypes.c_ulonglong),
            ("rest", ctypes.c_ulonglong * 5),
        )

    status = Status(length=ctypes.sizeof(Status))
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009  (only there on Windows)
    return (status.total, status.available) if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else (0, 0)
