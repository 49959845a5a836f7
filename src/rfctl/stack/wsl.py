"""The state of a Windows machine, read from captured evidence only, so that a recording is a test.

Sources: Microsoft's WSL documentation (basic-commands, wsl-config, networking) of 2026-07; the names of
evidence are those of `wsl_capture`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from rfctl.core.error import UsageError
from rfctl.stack.check_docker import version_tuple
from rfctl.stack.child import Capture
from rfctl.stack.evidence import Evidence
from rfctl.stack.windows import MIN_STORE, Distribution, is_wslc, read_distributions, read_excluded

DESKTOP, DISTRO, WINDOWS = "desktop", "distro", "windows"
# Distributions that belong to a program and are nobody's home.
_INTERNAL = ("docker-desktop", "rancher-desktop", "podman-machine")
_PROXY = re.compile(r"^\s*(\S+)\s+(\d+)\s+(\S+)\s+(\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Machine:
    """What matters for the plan.

    wsl: "missing", "inbox" (the one built into Windows), "old" (store version below 2.0) or "store";
    mode: "nat", "mirrored" or "" (not known); engines: of {"desktop", "distro"}; ollama: of {"windows",
    "distro"}; ollama_host, distro_ollama_host: OLLAMA_HOST of the Windows user and of the service in the
    distribution; memory: bytes of the whole machine, 0 unknown; excluded: port ranges that Windows keeps;
    proxied: listen port -> WSL address of `netsh portproxy`; config, conf: text of `.wslconfig` and
    `/etc/wsl.conf`; config_is_plain: False for a `.wslconfig` in a form that WSL does not read; address: of
    the distribution in NAT mode; wslc: the program behind the name `docker` when it is WSL's own, else "".
    """

    wsl: str
    distributions: tuple[Distribution, ...] = ()
    mode: str = ""
    engines: frozenset[str] = frozenset()
    ollama: frozenset[str] = frozenset()
    ollama_host: str = ""
    distro_ollama_host: str = ""
    has_systemd: bool | None = None
    memory: int = 0
    profile: str = ""
    is_elevated: bool = False
    has_rule: bool = False
    has_lan_rule: bool = False
    has_autostart: bool = False
    excluded: tuple[tuple[int, int], ...] = ()
    proxied: dict[int, str] = field(default_factory=dict)
    config: str = ""
    conf: str = ""
    address: str = ""
    config_is_plain: bool = True
    wslc: str = ""

    @property
    def distribution(self) -> Distribution | None:
        """The default one, else the first that is a person's."""
        own = [one for one in self.distributions if not one.name.startswith(_INTERNAL)]
        return next((one for one in own if one.is_default), own[0] if own else None)


def read_machine(evidence: Evidence) -> Machine:
    """The machine that `evidence` was captured on. Raises UsageError when it holds no answer of Windows."""
    facts = _facts(evidence)
    distributions = read_distributions(_capture(evidence, "wsl.list"))
    engines, ollama = set(), set()
    inside = _capture(evidence, "distro.docker").out.strip()
    if facts.get("desktop") or "Desktop" in _capture(evidence, "docker.info").out:
        engines.add(DESKTOP)
    if _capture(evidence, "distro.docker").is_ok and inside and "Desktop" not in inside:
        engines.add(DISTRO)
    if facts.get("ollama"):
        ollama.add(WINDOWS)
    service = _capture(evidence, "distro.ollama").out
    if "LoadState=loaded" in service:
        ollama.add(DISTRO)
    init = _capture(evidence, "distro.init")
    return Machine(
        wsl=_wsl_state(evidence),
        distributions=distributions,
        mode=_capture(evidence, "distro.networking").out.strip().lower(),
        engines=frozenset(engines),
        ollama=frozenset(ollama),
        ollama_host=str(facts.get("ollama_host") or ""),
        distro_ollama_host=_setting(service, "OLLAMA_HOST"),
        has_systemd=init.out.strip() == "systemd" if init.is_ok else None,
        memory=facts["memory"] if type(facts.get("memory")) is int else 0,
        profile=str(facts.get("profile") or ""),
        is_elevated=bool(facts.get("elevated")),
        has_rule=bool(facts.get("rule")),
        has_lan_rule=bool(facts.get("lan_rule")),
        has_autostart=bool(facts.get("autostart")),
        excluded=read_excluded(_capture(evidence, "netsh.excluded").out),
        proxied={
            int(port): target
            for _, port, target, _ in _PROXY.findall(_capture(evidence, "netsh.portproxy").out)
        },
        config=evidence.text("wsl.config") if evidence.has("wsl.config") else "",
        conf=_capture(evidence, "distro.conf").out,
        address=(_capture(evidence, "distro.address").out.split() or [""])[0],
        config_is_plain=bool(evidence.fact("wsl.config-is-plain"))
        if evidence.has("wsl.config-is-plain")
        else True,
        wslc=next(
            (
                path
                for path in (
                    str(facts.get("docker") or ""),
                    *_capture(evidence, "distro.docker-path").out.splitlines(),
                )
                if is_wslc(path)
            ),
            "",
        ),
    )


def _wsl_state(evidence: Evidence) -> str:
    status, version = _capture(evidence, "wsl.status"), _capture(evidence, "wsl.version")
    if not status.is_ok and not version.is_ok and not _capture(evidence, "wsl.list").is_ok:
        return "missing"
    if not version.is_ok:
        return "inbox"
    first = next((line for line in version.out.splitlines() if re.search(r"\d\.\d", line)), "0.0")
    return "store" if version_tuple(first) >= MIN_STORE else "old"


def _facts(evidence: Evidence) -> dict[str, Any]:
    """The JSON object of `inspect.ps1`, which may stand behind other lines of a profile script."""
    found = _capture(evidence, "windows.facts")
    line = next((line for line in found.out.splitlines() if line.lstrip().startswith("{")), "")
    try:
        facts = json.loads(line)
    except ValueError as error:
        raise UsageError("wsl.no-facts", detail=found.text[:200] or found.state) from error
    return dict(facts)


def _capture(evidence: Evidence, name: str) -> Capture:
    return evidence.command(name) if evidence.has(name) else Capture("missing")


def _setting(service: str, name: str) -> str:
    """A variable of the line `Environment=A=1 B=2` that `systemctl show` prints."""
    match = re.search(rf"(?:^Environment=|\s){name}=(\S+)", service, re.MULTILINE)
    return match.group(1) if match else ""
