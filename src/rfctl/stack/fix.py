"""Repairs that are safe: each one is small, says what it did, and can be done by hand as its text shows.

What only a person can decide (a password, a firewall, a package to install) has no repair here. Settings of
the stack take effect at the next `rfctl stack up`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rfctl.stack.check import Finding, Verdict
from rfctl.stack.check_host import MIN_MAP_COUNT
from rfctl.stack.project import Project, pins, restrict, set_values

SYSCTL = Path("/proc/sys/vm/max_map_count")
SYSCTL_FILE = Path("/etc/sysctl.d/99-rfctl.conf")
PORTS: Mapping[str, int] = {"RFCTL_WEB_PORT": 8080, "RFCTL_API_PORT": 9380}
_TRIES = 200


@dataclass(frozen=True)
class Repair:
    """What happened to one finding. done: False with the reason in `detail`."""

    check: str
    done: bool
    detail: str


def possible(findings: Iterable[Finding], project: Project) -> list[Finding]:
    """The findings that `repair` has an action for here."""
    known = {text for text, action in _ACTIONS.items() if project.is_initialised or action in _WITHOUT_STACK}
    return [
        finding
        for finding in findings
        if finding.fixable and finding.verdict in (Verdict.WARN, Verdict.FAIL) and finding.text in known
    ]


def intention(finding: Finding) -> str:
    """Catalog id of what `repair` will do about a finding that is `possible`."""
    return f"doctor.will.{_ACTIONS[finding.text].__name__.strip('_').replace('_', '-')}"


def repair(finding: Finding, *, project: Project, engine: Path) -> Repair:
    """Carry out the action of one finding; a refusal of the system is part of the answer."""
    try:
        return Repair(finding.id, True, _ACTIONS[finding.text](finding, project, engine))
    except OSError as error:
        return Repair(finding.id, False, str(error))


def _raise_map_count(finding: Finding, project: Project, engine: Path) -> str:
    SYSCTL.write_text(f"{MIN_MAP_COUNT}\n", encoding="ascii")
    SYSCTL_FILE.parent.mkdir(parents=True, exist_ok=True)
    SYSCTL_FILE.write_text(f"vm.max_map_count={MIN_MAP_COUNT}\n", encoding="ascii")
    return f"vm.max_map_count={MIN_MAP_COUNT}, {SYSCTL_FILE}"


def _restrict_env(finding: Finding, project: Project, engine: Path) -> str:
    restrict(project.env_file)
    return f"chmod 600 {project.env_file}"


def _restrict_folder(finding: Finding, project: Project, engine: Path) -> str:
    if os.name != "nt":
        engine.chmod(0o700)
    return f"chmod 700 {engine}"


def _move_ports(finding: Finding, project: Project, engine: Path) -> str:
    """The next port that nothing listens on, for each one that is taken."""
    values = project.read()
    host = values.get("RFCTL_BIND", "127.0.0.1")
    taken = str(finding.params.get("found", ""))
    used = {values.get(name, str(default)) for name, default in PORTS.items()}
    changes = {}
    for name, default in PORTS.items():
        port = values.get(name, str(default))
        if port not in taken.replace("(", " ").replace(",", " ").split():
            continue
        changes[name] = str(_free_port(host, int(port) + 1, used, _ranges(finding)))
        used.add(changes[name])
    set_values(project, changes)
    return _tell(changes)


def _ranges(finding: Finding) -> list[range]:
    """What Windows keeps: inside WSL, binding a port does not show it."""
    kept = finding.params.get("ranges", ())
    return [range(low, high + 1) for low, high in kept] if isinstance(kept, tuple) else []


def _free_port(host: str, first: int, used: set[str], kept: Sequence[range]) -> int:
    """Raises OSError when there is none near `first`."""
    for port in range(first, min(first + _TRIES, 65536)):
        if str(port) in used or any(port in one for one in kept):
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, port))
            except OSError:
                continue
            return port
    raise OSError(f"{first}-{first + _TRIES - 1}")


def _bind_loopback(finding: Finding, project: Project, engine: Path) -> str:
    changes = {"RFCTL_BIND": "127.0.0.1"}
    set_values(project, changes)
    return _tell(changes)


def _use_elasticsearch(finding: Finding, project: Project, engine: Path) -> str:
    if project.images_file.exists():
        # Documents are in Infinity's index already; another engine would start without them.
        raise OSError("DOC_ENGINE")
    changes = {"DOC_ENGINE": "elasticsearch", "COMPOSE_PROFILES": "elasticsearch"}
    set_values(project, changes)
    return _tell(changes)


def _use_small_limits(finding: Finding, project: Project, engine: Path) -> str:
    changes = {"RFCTL_SIZE": "small", **pins()["sizes"]["small"]["env"]}
    set_values(project, changes)
    return _tell(changes)


def _tell(changes: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in changes.items())


_ACTIONS: Mapping[str, Callable[[Finding, Project, Path], str]] = {
    "doctor.host.max-map-count": _raise_map_count,
    "doctor.host.avx2.missing": _use_elasticsearch,
    "doctor.host.ram": _use_small_limits,
    "doctor.host.ram.stack": _use_small_limits,
    "doctor.rag.secrets.mode": _restrict_env,
    "doctor.engine.store.open": _restrict_folder,
    "doctor.net.ports": _move_ports,
    "doctor.net.excluded-ports": _move_ports,
    "doctor.net.exposed": _bind_loopback,
}
_WITHOUT_STACK = (_raise_map_count, _restrict_folder)
