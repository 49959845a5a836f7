"""Gathers evidence for the checks: several collectors at once, each with its own deadlines.

No collector raises for what it finds: what could not be had is left out, and its checks say "unknown".
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfctl.core.error import RfctlError
from rfctl.stack.adopt import read_adopted
from rfctl.stack.check import UNNEEDED
from rfctl.stack.child import run
from rfctl.stack.collector_docker import collect_docker
from rfctl.stack.collector_http import DEFAULT_OLLAMA, collect_ollama, collect_ragflow
from rfctl.stack.collector_windows import collect_windows
from rfctl.stack.compose import Compose
from rfctl.stack.evidence import Evidence, plain
from rfctl.stack.ollama_address import local_url
from rfctl.stack.project import Project, public_values, secret_faults

TOTAL_SECONDS = 4.5
COMMAND_SECONDS = 3.0
# For a model that has to be loaded, where somebody asks about models.
CALL_SECONDS = 60.0
_LLAMA = "import xllamacpp; print(getattr(xllamacpp, '__version__', 'xllamacpp'))"
_GROUP_OF_COLLECTOR: Mapping[str, frozenset[str]] = {
    "docker": frozenset({"host", "docker", "wsl", "net", "rag", "kb"}),
    "windows": frozenset({"wsl", "net"}),
    "engine": frozenset({"engine"}),
    "ollama": frozenset({"ollama", "model", "kb", "net", "wsl"}),
    "ragflow": frozenset({"rag", "kb", "host", "net"}),
}


@dataclass(frozen=True)
class Target:
    """What to look at. ollama_url, ragflow_url: "" for the defaults of this machine (and the stack's own);
    api_key: of RAGFlow, "" when there is none; engine: folder of the embedded engine; uses_docker: False
    where the embedded engine serves everything, then Docker is not looked at; overrides: further compose
    files."""

    project: Project
    engine: Path
    environment: Mapping[str, str]
    ollama_url: str = ""
    ragflow_url: str = ""
    api_key: str = ""
    uses_docker: bool = True
    overrides: tuple[str, ...] = ()


def collect(target: Target, groups: frozenset[str] = frozenset()) -> Evidence:
    """Evidence for all checks, or for `groups`; ends after five seconds with what there is by then.

    Who names the group "model" waits until a model of each kind was loaded and called.
    """
    values: dict[str, Any] = collect_host(target)
    if not target.uses_docker:
        values[UNNEEDED] = True
    known = dict(values)
    patience = CALL_SECONDS if "model" in groups else 0.0
    ollama_url = target.ollama_url or local_url(known["stack.env"])
    ragflow_url = target.ragflow_url or _stack_url(known)
    compose = Compose(target.project, target.environment, overrides=target.overrides)
    jobs: dict[str, Callable[[], dict[str, Any]]] = {
        "docker": lambda: collect_docker(
            compose, known, ollama_url=ollama_url or DEFAULT_OLLAMA, ragflow_url=ragflow_url
        ),
        "windows": lambda: collect_windows(target.environment, known["platform"]),
        "engine": lambda: collect_engine(target.engine, target.environment),
        "ollama": lambda: collect_ollama(ollama_url, patience=patience),
        "ragflow": lambda: collect_ragflow(ragflow_url, target.api_key, _stack_web(known)),
    }
    pool = ThreadPoolExecutor(len(jobs))
    wanted = [
        job
        for name, job in jobs.items()
        if (not groups or groups & _GROUP_OF_COLLECTOR[name]) and (target.uses_docker or name != "docker")
    ]
    futures = [pool.submit(job) for job in wanted]
    done, _ = wait(futures, timeout=TOTAL_SECONDS + 2 * patience)
    for future in done:
        values |= future.result()
    pool.shutdown(wait=False, cancel_futures=True)
    return Evidence({name: plain(value) for name, value in values.items()})


def collect_host(target: Target) -> dict[str, Any]:
    """Facts about the machine and the stack's settings; quick and without child processes (but `ss`)."""
    values: dict[str, Any] = {
        "platform": platform_name(),
        "host.machine": platform.machine(),
        "host.time": time.time(),
        "host.cpu-flags": _cpu_flags(),
        "host.has-gpu": Path("/proc/driver/nvidia/version").exists() or Path("/dev/kfd").exists(),
        "net.proxies": {
            # Names are enough for proxies: their addresses may hold passwords.
            name: (value if name.lower() == "no_proxy" else "set")
            for name, value in target.environment.items()
            if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") and value
        },
    }
    if memory := machine_memory():
        values["host.memory"] = memory
    with contextlib.suppress(OSError, ValueError):
        values["host.max-map-count"] = int(Path("/proc/sys/vm/max_map_count").read_text("ascii"))
    docker_root = Path("/var/lib/docker")
    root = docker_root if docker_root.is_dir() else Path(target.engine.anchor or "/")
    with contextlib.suppress(OSError):
        values["host.disk"] = {"path": str(root), "free": shutil.disk_usage(root).free}
    models = Path.home() / ".ollama" / "models"
    with contextlib.suppress(OSError):
        if models.is_dir():
            values["ollama.disk"] = {"path": str(models), "free": shutil.disk_usage(models).free}
    lister = ["netstat.exe", "-ano", "-p", "TCP"] if sys.platform == "win32" else ["ss", "-Hltnp"]
    listed = run(lister, timeout=COMMAND_SECONDS, environment=target.environment)
    if listed.state != "missing":
        values["net.listeners"] = listed
    values |= _stack(target.project)
    return values


def machine_memory() -> int:
    """Bytes of memory of this machine (of the WSL machine inside WSL); 0 where the platform does not tell."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        total = next(line for line in lines if line.startswith("MemTotal:"))
        return int(total.split()[1]) * 1024
    if sys.platform == "win32":
        return _windows_memory()
    if hasattr(os, "sysconf"):
        with contextlib.suppress(OSError, ValueError):
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def _windows_memory() -> int:
    """`GlobalMemoryStatusEx`: eight numbers behind its own length and the load in percent."""
    import ctypes

    status = (ctypes.c_ulonglong * 8)()
    status[0] = ctypes.sizeof(status)
    library = getattr(ctypes, "windll", None)
    if library is None or not library.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return 0
    return int(status[1])


def _stack(project: Project) -> dict[str, Any]:
    values: dict[str, Any] = {
        "stack.is-initialised": project.is_initialised,
        "stack.env": {},
        "stack.addons": [],
        "stack.ports": {},
        "stack.project": "rfctl",
    }
    if not project.is_initialised:
        values["stack.images"] = []
        if adopted := read_adopted(project):
            values |= {"stack.adopted": adopted, "stack.project": adopted.get("project", "")}
        return values
    try:
        env = project.read()
    except RfctlError:
        return values
    host = env.get("RFCTL_BIND", "127.0.0.1")
    names = {"RFCTL_WEB_PORT": "8080", "RFCTL_API_PORT": "9380"}
    ports = [env.get(name, default) for name, default in names.items()]
    mode = -1 if os.name == "nt" else project.env_file.stat().st_mode & 0o777
    return values | {
        "stack.env": public_values(env),
        "stack.addons": [name for name in env.get("RFCTL_ADDONS", "").split(",") if name],
        "stack.project": env.get("RFCTL_PROJECT", "rfctl"),
        "stack.ports": {port: _port_state(host, port) for port in ports},
        "stack.secrets": {"mode": mode, "path": str(project.env_file), "faults": secret_faults(env)},
    }


def _port_state(host: str, port: str) -> str:
    """ "free" or "taken"; the collector of Docker makes "ours" of what the stack itself listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, int(port)))
        except (OSError, ValueError, OverflowError):
            return "taken"
    return "free"


def _stack_url(values: Mapping[str, Any]) -> str:
    if adopted := values.get("stack.adopted"):
        return str(adopted.get("api_url") or adopted.get("web_url", ""))
    env = values["stack.env"]
    return f"http://127.0.0.1:{env.get('RFCTL_API_PORT', '9380')}" if values["stack.is-initialised"] else ""


def _stack_web(values: Mapping[str, Any]) -> str:
    if adopted := values.get("stack.adopted"):
        return str(adopted.get("web_url", ""))
    env = values["stack.env"]
    return f"http://127.0.0.1:{env.get('RFCTL_WEB_PORT', '8080')}" if values["stack.is-initialised"] else ""


def collect_engine(directory: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """The embedded engine: its library loaded in a process of its own, its state and its store."""
    from rfctl.converter.quantization.kernel import kernel_info
    from rfctl.engine import daemon
    from rfctl.engine.home import Home

    found = daemon.status(directory)
    values: dict[str, Any] = {
        "engine.state": {"locked": Home(directory).is_running(), "answers": found.running, "url": found.url},
        "engine.store": _store(directory),
        "engine.quantize": dict(kernel_info(("Q4_K",))),
    }
    if sys.platform.startswith("linux"):
        values["engine.libgomp"] = _has_library("libgomp.so.1")
    values["engine.llama"] = run([sys.executable, "-c", _LLAMA], timeout=4.0, environment=environment)
    return values


def _has_library(name: str) -> bool:
    """Whether the loader finds it, or a package brings its own copy along (in a folder `*.libs`)."""
    import ctypes
    import importlib.util

    with contextlib.suppress(OSError):
        ctypes.CDLL(name)
        return True
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        return False
    stem = name.partition(".so")[0]
    return any(Path(spec.origin).parent.parent.glob(f"xllamacpp*.libs/{stem}*"))


def _store(directory: Path) -> dict[str, Any]:
    # A store that is not there yet is made in the nearest folder that is.
    place = next((one for one in (directory, *directory.parents) if one.exists()), directory)
    store: dict[str, Any] = {
        "path": str(directory),
        "exists": directory.is_dir(),
        "writable": place.is_dir() and os.access(place, os.W_OK),
        "free": 0,
        "mode": 0,
        "missing_blobs": [],
    }
    if not store["exists"]:
        return store
    with contextlib.suppress(OSError):
        store["free"] = shutil.disk_usage(directory).free
        store["mode"] = directory.stat().st_mode & 0o777 if os.name != "nt" else 0
        store["missing_blobs"] = _missing_blobs(directory / "models")
    return store


def _missing_blobs(models: Path) -> list[str]:
    from rfctl.ollama.store import ModelStore

    if not models.is_dir():
        return []
    store = ModelStore(models)
    missing = []
    for model in store.models():
        layers = [model.manifest.config, *model.manifest.layers]
        if any(not store.has_blob(layer.digest) for layer in layers):
            missing.append(str(model.name))
    return missing


def _cpu_flags() -> list[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines():
            if line.startswith("flags"):
                return line.partition(":")[2].split()
    return []


def platform_name() -> str:
    """ "linux", "wsl", "windows" or "darwin"."""
    with contextlib.suppress(OSError):
        release = Path("/proc/sys/kernel/osrelease").read_text("utf-8", errors="replace").lower()
        if "microsoft" in release:
            return "wsl"
    return {"win32": "windows", "darwin": "darwin"}.get(sys.platform, "linux")
