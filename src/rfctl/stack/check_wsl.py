"""Checks of WSL 2. Sources: Microsoft's WSL documentation (wsl-config, systemd, networking) of 2026-07."""

from __future__ import annotations

import configparser
from urllib.parse import urlsplit

from rfctl.stack.check import Result, Verdict, check, fail, judge, skip, unknown, warn
from rfctl.stack.check_docker import has_own_engine, info, version_tuple
from rfctl.stack.check_network import listeners
from rfctl.stack.evidence import Evidence
from rfctl.stack.windows import MIN_STORE, is_wslc, read_distributions

MIN_MEMORY = 10.5 * 1000**3
OLLAMA_PORT = 11434


def _is_wsl(evidence: Evidence) -> bool:
    return evidence.text("platform") == "wsl"


def _elsewhere(evidence: Evidence) -> Result:
    """On Windows itself the engine is Docker Desktop's, which looks after its own distribution."""
    return skip("desktop" if evidence.text("platform") == "windows" else "not-wsl")


def wsl_config(text: str) -> configparser.ConfigParser:
    """`.wslconfig` or `wsl.conf`; keys without regard to case. Raises ValueError for a broken file."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    try:
        parser.read_string(text.lstrip("\ufeff"))
    except configparser.Error as error:
        raise ValueError(str(error).splitlines()[0]) from error
    return parser


@check("wsl.version")
def version(evidence: Evidence) -> Result:
    if evidence.text("platform") not in ("wsl", "windows"):
        return skip("not-wsl")
    listed = evidence.command("wsl.list")
    if listed.state == "missing":
        return fail("missing")
    # Only the distribution that is used: what else somebody keeps in WSL 1 is in nobody's way.
    own = evidence.text("wsl.distribution") if evidence.has("wsl.distribution") else ""
    for one in read_distributions(listed):
        if one.generation == 1 and (one.name == own if own else one.is_default):
            return fail("one", found=one.name)
    stated = evidence.command("wsl.version")
    if not stated.is_ok:
        return warn("inbox")
    first = next(line for line in stated.out.splitlines() if line.strip())
    return judge(version_tuple(first) >= MIN_STORE, otherwise=Verdict.WARN, found=first.strip())


@check("wsl.memory")
def memory(evidence: Evidence) -> Result:
    if evidence.text("platform") == "windows":
        # Docker Desktop runs in the same machine of WSL and tells its memory.
        if not evidence.has("docker.info"):
            return skip("no-engine")
        total = int(info(evidence)["MemTotal"])
    elif _is_wsl(evidence):
        total = evidence.number("host.memory")
    else:
        return skip("not-wsl")
    return judge(total >= MIN_MEMORY, found=f"{total / 1000**3:.1f} GB")


@check("wsl.keepalive")
def keepalive(evidence: Evidence) -> Result:
    if not _is_wsl(evidence):
        return _elsewhere(evidence)
    if not has_own_engine(evidence):
        return skip("desktop")
    config = wsl_config(evidence.text("wsl.config"))
    instance = config.get("general", "instanceIdleTimeout", fallback="")
    machine = config.get("wsl2", "vmIdleTimeout", fallback="")
    return judge((instance, machine) == ("-1", "-1"), instance=instance or "-", machine=machine or "-")


@check("wsl.systemd")
def systemd(evidence: Evidence) -> Result:
    if not _is_wsl(evidence):
        return _elsewhere(evidence)
    if not has_own_engine(evidence):
        return skip("desktop")
    found = evidence.text("wsl.init").strip()
    return judge(found == "systemd", otherwise=Verdict.WARN, found=found)


@check("wsl.mirrored")
def mirrored(evidence: Evidence) -> Result:
    if not _is_wsl(evidence):
        return _elsewhere(evidence)
    found = evidence.command("wsl.networking")
    if not found.is_ok:
        return unknown("wslinfo --networking-mode")
    mode = found.out.strip()
    broken = mode == "mirrored" and has_own_engine(evidence) and _is_on_windows(evidence)
    return judge(not broken, found=mode)


def _is_on_windows(evidence: Evidence) -> bool:
    """Whether Ollama is outside this distribution. In mirrored mode Windows' own answers on 127.0.0.1 too,
    but no program of the distribution listens there."""
    if not evidence.fact("ollama.is-local"):
        return True
    answers = evidence.has("ollama.version") and evidence.reply("ollama.version").status == 200
    if not answers or not evidence.has("net.listeners"):
        return False
    port = urlsplit(evidence.text("ollama.url")).port or OLLAMA_PORT
    return all(one != port for _, one, _ in listeners(evidence.command("net.listeners").out))


@check("wsl.placement")
def placement(evidence: Evidence) -> Result:
    if not _is_wsl(evidence):
        return _elsewhere(evidence)
    slow = [path for path, kind in evidence.fact("wsl.mounts").items() if kind in ("9p", "drvfs", "v9fs")]
    return judge(not slow, otherwise=Verdict.WARN, found=", ".join(slow) or "-")


@check("wsl.wslc", after=("docker.cli",))
def wslc(evidence: Evidence) -> Result:
    if evidence.text("platform") not in ("wsl", "windows"):
        return skip("not-wsl")
    found = evidence.text("docker.path")
    # A person calls it by another name: a link is followed before its name is told.
    real = evidence.text("docker.real-path") if evidence.has("docker.real-path") else found
    return judge(not is_wslc(found) and not is_wslc(real), found=real)
