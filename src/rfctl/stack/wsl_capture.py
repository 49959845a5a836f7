"""Asks Windows and the default distribution what `wsl.read_machine` needs; nothing is changed.

Works from Windows and from inside WSL: both find `wsl.exe`, `powershell.exe`, `netsh.exe` and `docker.exe`.
"""

from __future__ import annotations

import contextlib
import ntpath
import posixpath
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfctl.core.error import UsageError
from rfctl.stack.child import Capture, run
from rfctl.stack.evidence import Evidence, plain
from rfctl.stack.wsl import read_machine
from rfctl.stack.wsl_config import plain_bytes, read_text

QUICK_SECONDS = 15.0
# PowerShell starts slowly on a cold machine, and the first `wsl.exe -d` boots the virtual machine.
SLOW_SECONDS = 90.0
_WINDOWS: Mapping[str, tuple[str, ...]] = {
    "wsl.status": ("wsl.exe", "--status"),
    "wsl.list": ("wsl.exe", "-l", "-v"),
    "wsl.version": ("wsl.exe", "--version"),
    "docker.info": ("docker.exe", "info", "-f", "{{.OperatingSystem}}"),
    "netsh.excluded": ("netsh.exe", "interface", "ipv4", "show", "excludedportrange", "protocol=tcp"),
    "netsh.portproxy": ("netsh.exe", "interface", "portproxy", "show", "v4tov4"),
}
_DISTRIBUTION: Mapping[str, tuple[str, ...]] = {
    "distro.networking": ("wslinfo", "--networking-mode"),
    "distro.conf": ("cat", "/etc/wsl.conf"),
    "distro.init": ("cat", "/proc/1/comm"),
    "distro.docker-path": ("readlink", "-f", "/usr/local/bin/docker", "/usr/bin/docker"),
    "distro.docker": ("docker", "info", "-f", "{{.OperatingSystem}}"),
    "distro.ollama": ("systemctl", "show", "ollama", "-p", "LoadState", "-p", "Environment"),
    "distro.address": ("hostname", "-I"),
}


@dataclass(frozen=True)
class Folders:
    """deploy: the data folder as Windows names it, and as the distribution can enter it;
    config: `.wslconfig` as this process names it."""

    windows: str
    distribution: str
    config: Path


def capture(deploy: Path, environment: Mapping[str, str]) -> tuple[Evidence, Folders]:
    """Evidence for `read_machine`, and where the scripts are. Raises UsageError outside Windows and WSL."""
    child = {**environment, "WSL_UTF8": "1"}
    if shutil.which("powershell.exe", path=child.get("PATH")) is None:
        raise UsageError("wsl.not-windows")
    windows = _translate("-w", str(deploy), child)
    script = powershell(join(windows, "windows", "inspect.ps1"))
    values: dict[str, Any] = _run_all({**_WINDOWS, "windows.facts": script}, child)
    machine = read_machine(Evidence({name: plain(value) for name, value in values.items()}))
    if (own := machine.distribution) is not None:
        head = ("wsl.exe", "-d", own.name, "--exec")
        values |= _run_all({name: (*head, *command) for name, command in _DISTRIBUTION.items()}, child)
    if not machine.profile:
        raise UsageError("wsl.no-facts", detail="profile")
    config = Path(_translate("-u", machine.profile, child)) / ".wslconfig"
    with contextlib.suppress(FileNotFoundError):
        data = config.read_bytes()
        try:
            values["wsl.config"] = read_text(data)
        except UnicodeDecodeError as error:
            # Half a plan would call it a new file.
            raise UsageError("wsl.config-unread", path=config, detail=str(error)) from error
        values["wsl.config-is-plain"] = plain_bytes(values["wsl.config"]) == data
    is_inside = shutil.which("wslpath", path=child.get("PATH")) is not None
    folders = Folders(windows, str(deploy) if is_inside else windows, config)
    return Evidence({name: plain(value) for name, value in values.items()}), folders


def _run_all(commands: Mapping[str, tuple[str, ...]], environment: Mapping[str, str]) -> dict[str, Capture]:
    """At once: programs of Windows start slowly, and none of these waits for another."""
    with ThreadPoolExecutor(len(commands)) as pool:
        futures = {
            name: pool.submit(run, command, timeout=SLOW_SECONDS, environment=environment)
            for name, command in commands.items()
        }
        return {name: future.result() for name, future in futures.items()}


def powershell(script: str, *arguments: str) -> tuple[str, ...]:
    """The command line of a script; Bypass holds for this one process."""
    head = ("powershell.exe", "-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass")
    return (*head, "-File", script, *arguments)


def join(folder: str, *names: str) -> str:
    """A path in `folder`, which is Windows' or Linux' by its form."""
    if folder.startswith("/"):
        return posixpath.join(folder, *names)
    return ntpath.join(folder, *names)


def _translate(way: str, path: str, environment: Mapping[str, str]) -> str:
    """The other system's name of a path where there are two systems; else the path itself."""
    found: Capture = run(("wslpath", way, path), timeout=QUICK_SECONDS, environment=environment)
    return found.out.strip() if found.is_ok and found.out.strip() else path
