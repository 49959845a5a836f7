"""A real sshd on a free port of loopback, with keys of its own and a configuration file for ssh."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


class SshServer:
    """`config` is for `ssh -F`; the host is called `cloud` in it."""

    def __init__(self, folder: Path, gateway_ports: str = "no") -> None:
        self.folder = folder
        self.port = free_port()
        self.config = folder / "config"
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("host", "client"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
            )
        shutil.copy(folder / "client.pub", folder / "authorized")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile {folder}/pid\n"
            f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nLogLevel ERROR\n"
            f"MaxStartups 100\nGatewayPorts {gateway_ports}\n",
            encoding="ascii",
        )
        host_key = (folder / "host.pub").read_text(encoding="ascii").split()
        (folder / "known").write_text(
            f"[127.0.0.1]:{self.port} {host_key[0]} {host_key[1]}\n", encoding="ascii"
        )
        self.config.write_text(
            f"Host cloud\n  HostName 127.0.0.1\n  Port {self.port}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {folder}/client\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {folder}/known\n  StrictHostKeyChecking yes\n",
            encoding="ascii",
        )

    def start(self) -> None:
        program = shutil.which("sshd", path=SEARCH)
        assert program is not None
        self._process = subprocess.Popen(
            [program, "-D", "-e", "-f", str(self.folder / "sshd_config")], stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._process.poll() is None:
            if is_open(self.port):
                return
            time.sleep(0.02)
        said = self._process.stderr.read().decode() if self._process.stderr else ""
        self.stop()
        pytest.skip(f"sshd does not start here: {said.strip()[:200]}")

    def force(self, script: str) -> None:
        """Whatever the client asks for, this bash script runs; "" for what it asked for."""
        key = (self.folder / "client.pub").read_text(encoding="ascii")
        program = self.folder / "forced.sh"
        program.write_text(script, encoding="utf-8")
        forced = f'command="bash {program}" ' if script else ""
        (self.folder / "authorized").write_text(forced + key, encoding="ascii")

    def stop(self) -> None:
        """End the server; sessions that are open go on."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def is_open(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def run_server(folder: Path, gateway_ports: str = "no") -> Iterator[SshServer]:
    """For a fixture; skips with a reason where there is no sshd."""
    if shutil.which("sshd", path=SEARCH) is None or shutil.which("ssh") is None:
        pytest.skip("sshd is not installed (Debian: openssh-server)")
    if os.geteuid() == 0:
        # What the package's service makes at boot; sshd does not start without it.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    server = SshServer(folder, gateway_ports)
    server.start()
    probe = subprocess.run(
        ["ssh", "-F", str(server.config), "-o", "BatchMode=yes", "cloud", "true"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    if probe.returncode != 0:
        server.stop()
        pytest.skip(f"this account may not log in through sshd: {probe.stderr.strip()[-200:]}")
    yield server
    server.stop()
