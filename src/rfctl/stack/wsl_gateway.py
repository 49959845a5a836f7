"""Which address containers must take for "the host" inside WSL.

In NAT mode Docker's `host-gateway` is the distribution, but Ollama on Windows is at the default gateway of
the distribution, which changes with every start of WSL (ollama/ollama#14947). So each `stack up` reads it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from rfctl.stack.child import run
from rfctl.stack.collector import platform_name

VARIABLE = "RFCTL_HOST_GATEWAY"
ROUTES = Path("/proc/net/route")
UNIT = Path("/etc/systemd/system/ollama.service")
PORT = 11434


def host_gateway(environment: Mapping[str, str], addons: tuple[str, ...] = ()) -> dict[str, str]:
    """{RFCTL_HOST_GATEWAY: address of Windows} for an engine in a distribution without an Ollama, else {}."""
    if platform_name() != "wsl" or environment.get(VARIABLE):
        return {}
    docker = shutil.which("docker", path=environment.get("PATH")) or ""
    if any(name.startswith("ollama") for name in addons) or "docker-desktop" in os.path.realpath(docker):
        return {}
    if has_own_ollama(environment):
        return {}
    found = run(["wslinfo", "--networking-mode"], timeout=3, environment=environment)
    if not found.is_ok or found.out.strip().lower() != "nat":
        return {}
    with contextlib.suppress(OSError):
        if address := default_gateway(ROUTES.read_text("ascii", errors="replace")):
            return {VARIABLE: address}
    return {}


def has_own_ollama(environment: Mapping[str, str], unit: Path = UNIT, port: int = PORT) -> bool:
    """Whether this distribution has an Ollama: its service, its program (not Windows'), or a listener."""
    program = shutil.which("ollama", path=environment.get("PATH")) or ""
    if unit.exists() or (program and not program.startswith("/mnt/")):
        return True
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(0.5)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def default_gateway(routes: str) -> str:
    """The gateway of the default route in the form of /proc/net/route, "" when there is none."""
    for line in routes.splitlines()[1:]:
        fields = line.split()
        # Interface, destination, gateway, flags, ...: numbers in the byte order of the machine.
        if len(fields) > 7 and fields[1] == "00000000" and fields[7] == "00000000":
            with contextlib.suppress(ValueError, struct.error):
                return socket.inet_ntoa(struct.pack("=L", int(fields[2], 16)))
    return ""
