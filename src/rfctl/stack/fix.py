"""Repairs that are safe: each one is small, says what it did, and can be done by hand as its text shows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rfctl.stack.check import Finding, Verdict
from rfctl.stack.check_host import MIN_MAP_COUNT
from rfctl.stack.project import Project, restrict

SYSCTL = Path("/proc/sys/vm/max_map_count")
SYSCTL_FILE = Path("/etc/sysctl.d/99-rfctl.conf")


@dataclass(frozen=True)
class Repair:
    """What happened to one finding. done: False with the reason in `detail`."""

    check: str
    done: bool
    detail: str


def possible(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that `repair` has an action for."""
    return [
        finding
        for finding in findings
        if finding.fixable
        and finding.verdict in (Verdict.WARN, Verdict.FAIL)
        and finding.text
        in ("doctor.host.max-map-count", "doctor.rag.secrets.mode", "doctor.engine.store.open")
    ]


def repair(finding: Finding, *, project: Project, engine: Path) -> Repair:
    """Carry out the action of one finding; a refusal of the system is part of the answer."""
    actions: Mapping[str, Callable[[], str]] = {
        "host.max-map-count": _raise_map_count,
        "rag.secrets": lambda: _restrict_env(project),
        "engine.store": lambda: _restrict_folder(engine),
    }
    try:
        return Repair(finding.id, True, actions[finding.id]())
    except OSError as error:
        return Repair(finding.id, False, str(error))


def _raise_map_count() -> str:
    SYSCTL.write_text(f"{MIN_MAP_COUNT}\n", encoding="ascii")
    SYSCTL_FILE.parent.mkdir(parents=True, exist_ok=True)
    SYSCTL_FILE.write_text(f"vm.max_map_count={MIN_MAP_COUNT}\n", encoding="ascii")
    return f"vm.max_map_count={MIN_MAP_COUNT}, {SYSCTL_FILE}"


def _restrict_env(project: Project) -> str:
    restrict(project.env_file)
    return f"chmod 600 {project.env_file}"


def _restrict_folder(engine: Path) -> str:
    if os.name != "nt":
        engine.chmod(0o700)
    return f"chmod 700 {engine}"
