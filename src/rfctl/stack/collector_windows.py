"""Evidence that only Windows has, asked from Windows or from inside WSL."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rfctl.stack.child import Capture, run

SECONDS = 3.0


def collect_windows(environment: Mapping[str, str], name: str) -> dict[str, Any]:
    """What only Windows knows, asked from Windows or from inside WSL. name: of the platform."""
    if name not in ("wsl", "windows"):
        return {}
    child = {**environment, "WSL_UTF8": "1"}
    ranges = ["netsh.exe", "interface", "ipv4", "show", "excludedportrange", "protocol=tcp"]
    jobs: dict[str, Callable[[], Any]] = {
        "wsl.list": lambda: run(["wsl.exe", "-l", "-v"], timeout=SECONDS, environment=child),
        "wsl.version": lambda: run(["wsl.exe", "--version"], timeout=SECONDS, environment=child),
        "windows.excluded-ports": lambda: run(ranges, timeout=SECONDS, environment=child),
    }
    values: dict[str, Any] = {}
    if name == "wsl":
        jobs |= {
            "wsl.networking": lambda: run(["wslinfo", "--networking-mode"], timeout=1, environment=child),
            "wsl.config": lambda: _windows_file(child),
        }
        values["wsl.distribution"] = environment.get("WSL_DISTRO_NAME", "")
        with contextlib.suppress(OSError):
            values["wsl.init"] = Path("/proc/1/comm").read_text("ascii")
        values["wsl.mounts"] = {str(path): _mount_kind(path) for path in (Path.cwd(), Path.home())}
    # Programs of Windows start slowly from inside WSL: one after the other they would not end in time.
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = {key: pool.submit(job) for key, job in jobs.items()}
        return values | {key: future.result() for key, future in futures.items()}


def _windows_file(environment: Mapping[str, str]) -> str:
    # /u: UTF-16, because a code page that is not GBK cannot be told from one that is.
    home: Capture = run(["cmd.exe", "/u", "/c", "echo %USERPROFILE%"], timeout=2, environment=environment)
    place = run(["wslpath", "-u", home.out.strip()], timeout=1, environment=environment)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (Path(place.out.strip()) / ".wslconfig").read_text("utf-8")
    return ""


def _mount_kind(path: Path) -> str:
    best = ("", "")
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text("utf-8", errors="replace").splitlines():
            _, point, kind, *_rest = line.split(" ")
            if path.is_relative_to(point) and len(point) >= len(best[0]):
                best = (point, kind)
    return best[1]
