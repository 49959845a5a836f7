"""Checks of WSL 2. Sources: Microsoft's WSL documentation (wsl-config, systemd, networking) of 2026-07."""

from __future__ import annotations

import configparser
import json
import re

from rfctl.stack.check import Result, Verdict, check, fail, judge, ok, skip, unknown, warn
from rfctl.stack.check_docker import version_tuple
from rfctl.stack.evidence import Evidence

MIN_STORE = (2, 0, 0)
MIN_MEMORY = 10.5 * 1000**3


def _is_wsl(evidence: Evidence) -> bool:
    return evidence.text("platform") == "wsl"


def wsl_config(text: str) -> configparser.ConfigParser:
    """`.wslconfig` or `wsl.conf`; keys without regard to case. Raises ValueError for a broken file."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    try:
        parser.read_string(text.lstrip("\ufeff"))
    except configparser.Error as error:
        raise ValueError(str(error).splitlines()[0]) from error
    return parser


def has_own_engine(evidence: Evidence) -> bool:
    """Whether the engine runs in this distribution (not Docker Desktop); without an engine: as planned."""
    found = evidence.command("docker.info")
    if not found.out.strip():
        return True
    return "Desktop" not in str(json.loads(found.out).get("OperatingSystem", ""))


@check("wsl.version")
def version(evidence: Evidence) -> Result:
    if evidence.text("platform") not in ("wsl", "windows"):
        return skip("not-wsl")
    listed = evidence.command("wsl.list")
    if listed.state == "missing":
        return fail("missing")
    # The heading is translated by Windows; a row is [*] name state version.
    rows = [re.match(r"^[*\s]\s*(\S+)\s+.*\s([12])\s*$", line) for line in listed.out.splitlines()]
    old = [match.group(1) for match in rows if match and match.group(2) == "1"]
    if old:
        return fail("one", found=", ".join(old))
    stated = evidence.command("wsl.version")
    if not stated.is_ok:
        return warn("inbox")
    first = next(line for line in stated.out.splitlines() if line.strip())
    return judge(version_tuple(first) >= MIN_STORE, otherwise=Verdict.WARN, found=first.strip())


@check("wsl.memory")
def memory(evidence: Evidence) -> Result:
    if not _is_wsl(evidence):
        return skip("not-wsl")
    total = evidence.number("host.memory")
    return judge(total >= MIN_MEMORY, found=f"{total / 1000**3:.1f} GB")


@check("wsl.keepalive")
def keepalive(evidence: Evidence) -> Result:
    if not _is_wsl(evidence):
        return skip("not-wsl")
    if not has_own_engine(evidence):
        return skip("desktop")
    config = wsl_config(evidence.text("wsl.config"))
    instance = config.get("general", "instanceIdleTimeout", fallback="")
    machine = config.get("wsl2", "vmIdleTimeout", fallback="")
    return judge((instance, machine) == ("-1", "-1"), instance=instance or "-", machine=machine or "-")


@check("wsl.systemd")
def systemd(evidence: Evidence) -> Result:
    if not _is_wsl(evidence):
        return skip("not-wsl")
    if not has_own_engine(evidence):
        return skip("desktop")
    found = evidence.text("wsl.init").strip()
    return judge(found == "systemd", otherwise=Verdict.WARN, found=found)


@check("wsl.mirrored")
def mirrored(evidence: Evidence) -> Result:
    if not _is_wsl(evidence):
        return skip("not-wsl")
    found = evidence.command("wsl.networking")
    if not found.is_ok:
        return unknown("wslinfo --networking-mode")
    mode = found.out.strip()
    broken = mode == "mirrored" and has_own_engine(evidence) and not evidence.fact("ollama.is-local")
    return judge(not broken, found=mode)


@check("wsl.placement")
def placement(evidence: Evidence) -> Result:
    if not _is_wsl(evidence):
        return skip("not-wsl")
    slow = [path for path, kind in evidence.fact("wsl.mounts").items() if kind in ("9p", "drvfs", "v9fs")]
    return judge(not slow, otherwise=Verdict.WARN, found=", ".join(slow) or "-")


@check("wsl.wslc", after=("docker.cli",))
def wslc(evidence: Evidence) -> Result:
    if evidence.text("platform") not in ("wsl", "windows"):
        return skip("not-wsl")
    found = evidence.text("docker.path")
    if "wslc" in found.lower():
        return fail(found=found)
    return ok(found=found)
