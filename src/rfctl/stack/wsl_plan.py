"""From the state of a Windows machine to the ordered steps that make it ready for RAGFlow beside Ollama.

A pure function: nothing is asked and nothing is changed here. Rules: the topologies A to D of RAGFlow,
Ollama and WSL (microsoft/WSL#12626, #9667; ollama#14947; Docker's and Microsoft's documentation, 2026-07).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rfctl.core.error import RefusedError
from rfctl.stack.windows import Distribution
from rfctl.stack.wsl import DESKTOP, DISTRO, WINDOWS, Machine
from rfctl.stack.wsl_capture import Folders, join, powershell
from rfctl.stack.wsl_config import CONF, difference, merge, wanted

ADMIN, HAND, USER = "admin", "hand", "user"
DEFAULT_DISTRIBUTION = "Ubuntu"
OLLAMA_PORT = 11434
MIN_MEMORY_GB = 11
_SIZE = re.compile(r"^\s*(\d+)\s*([KMGT])B?\s*$", re.IGNORECASE)
_UNIT = {"K": 1 / 1024**2, "M": 1 / 1024, "G": 1, "T": 1024}
_OPEN_HOSTS = ("0.0.0.0", "::", "[::]")  # noqa: S104
_BRIDGE = "172.17.0.1"


@dataclass(frozen=True)
class Wish:
    """What the person wants; "" leaves it to what is there. engine: "desktop" or "distro"; ollama: "windows"
    or "distro"; memory: as `.wslconfig` writes it; lan_port: port for other machines, 0 for none;
    web_port, api_port: the stack's; mirror: another server of Docker's packages."""

    engine: str = ""
    ollama: str = ""
    memory: str = ""
    lan_port: int = 0
    web_port: int = 8080
    api_port: int = 9380
    mirror: str = ""


@dataclass(frozen=True)
class Step:
    """One change. Its words are the catalog entry `wsl.step.<id>`.

    place: "user" (an ordinary console), "admin" (an elevated one) or "hand" (rfctl shows it only);
    preview, undo: () where there is none; change: lines of a diff.
    """

    id: str
    place: str
    command: tuple[str, ...]
    preview: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    params: Mapping[str, object] = field(default_factory=dict)
    change: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """steps in order. is_partial: more can only be said after the first steps (a restart of Windows)."""

    engine: str
    ollama: str
    distribution: str
    steps: tuple[Step, ...]
    is_partial: bool = False


def make_plan(machine: Machine, wish: Wish, folders: Folders, python: str) -> Plan:
    """What `machine` still needs, in the order in which it must be done; nothing for a machine that is ready.

    python: interpreter that has rfctl, for the merge of `.wslconfig`. Raises RefusedError `wsl.wslc`: what is
    called docker there cannot run the stack.
    """
    if machine.wslc:
        raise RefusedError("wsl.wslc", path=machine.wslc)
    engine, ollama = _choose(machine, wish)
    home = machine.distribution
    name = home.name if home else DEFAULT_DISTRIBUTION
    make = _Maker(folders, name)
    if machine.wsl == "missing" or home is None:
        step = make.script("install", ADMIN, "01-install-wsl.ps1", "-Distribution", name, distribution=name)
        return Plan(engine, ollama, name, (step,), is_partial=True)
    first = _configure(machine, wish, folders, python, make, engine, home)
    steps = [*first, *_engine(machine, wish, make, engine), *_ollama(machine, make, engine, ollama)]
    steps += _ports(machine, wish, ollama)
    if engine == DISTRO and not machine.has_autostart:
        steps.append(
            make.script("autostart", USER, "06-autostart.ps1", "-Distribution", name, distribution=name)
        )
    if wish.lan_port:
        steps += _expose(machine, make, engine, wish.lan_port)
    return Plan(engine, ollama, name, tuple(steps))


@dataclass(frozen=True)
class _Maker:
    folders: Folders
    distribution: str

    def script(self, id: str, place: str, script: str, *arguments: str, **params: object) -> Step:
        path = join(self.folders.windows, "windows", script)
        return Step(
            id,
            place,
            powershell(path, *arguments),
            powershell(path, *arguments, "-WhatIf"),
            powershell(path, *arguments, "-Undo"),
            params,
        )

    def inside(self, id: str, folder: str, script: str, *arguments: str, **params: object) -> Step:
        place = join(self.folders.distribution, folder)
        head = ("wsl.exe", "-d", self.distribution, "-u", "root", "--cd", place, "--exec", "sh", script)
        return Step(
            id,
            USER,
            (*head, *arguments),
            (*head, "--what-if", *arguments),
            (*head, "--undo"),
            params,
        )


def is_size(text: str) -> bool:
    """Whether `.wslconfig` understands it as an amount of memory ("12GB")."""
    return _SIZE.match(text) is not None


def _choose(machine: Machine, wish: Wish) -> tuple[str, str]:
    engine = wish.engine or (DISTRO if machine.engines == {DISTRO} else DESKTOP)
    beside = WINDOWS if engine == DESKTOP else DISTRO
    found = next(iter(machine.ollama)) if len(machine.ollama) == 1 else beside
    # Containers of Docker Desktop see Windows, not the distribution: Ollama belongs beside them.
    return engine, wish.ollama or (beside if engine == DESKTOP else found)


def _configure(
    machine: Machine,
    wish: Wish,
    folders: Folders,
    python: str,
    make: _Maker,
    engine: str,
    home: Distribution,
) -> list[Step]:
    steps = []
    if machine.wsl in ("inbox", "old"):
        steps.append(Step("update", USER, ("wsl.exe", "--update")))
    if home.generation == 1:
        change = ("wsl.exe", "--set-version", home.name)
        steps.append(
            Step("generation", USER, (*change, "2"), (), (*change, "1"), {"distribution": home.name})
        )
    memory = _memory(machine, wish)
    new = merge(machine.config, wanted(memory))
    if new != machine.config or not machine.config_is_plain:
        command = (python, "-m", "rfctl.stack.wsl_config", str(folders.config), "--memory", memory)
        lines = difference(machine.config, new, ".wslconfig")
        steps.append(
            Step(
                "config",
                USER,
                command,
                (*command, "--what-if"),
                (*command[:4], "--undo"),
                {"memory": memory, "path": Path(folders.config)},
                tuple(lines[2:]),
            )
        )
    if engine == DISTRO and machine.has_systemd is False:
        # WSL ignores a file with Windows' line ends without a word (microsoft/WSL#8002, #12502).
        conf = merge(machine.conf.replace("\r\n", "\n"), CONF, newline="\n")
        text = base64.b64encode(conf.encode()).decode()
        lines = difference(machine.conf, conf, "/etc/wsl.conf")
        step = make.inside("systemd", "windows", "write-wsl-conf.sh", text, distribution=home.name)
        steps.append(
            Step(step.id, step.place, step.command, step.preview, step.undo, step.params, tuple(lines[2:]))
        )
    # The plan's settings say NAT: what still runs mirrored has not been restarted since.
    if steps or machine.mode == "mirrored":
        steps.append(Step("restart", HAND, ("wsl.exe", "--shutdown")))
    return steps


def _memory(machine: Machine, wish: Wish) -> str:
    """The wish, else what the file says when that suffices, else three quarters of the machine.

    At least 5 GB are left to Windows, and to an Ollama on it.
    """
    if wish.memory:
        return wish.memory
    match = re.search(r"^\s*memory\s*=\s*([^#\n\r]+)", machine.config, re.IGNORECASE | re.MULTILINE)
    size = _SIZE.match(match.group(1)) if match else None
    if match and size and int(size.group(1)) * _UNIT[size.group(2).upper()] >= MIN_MEMORY_GB:
        return match.group(1).strip()
    if not machine.memory:
        return f"{MIN_MEMORY_GB + 1}GB"
    whole = machine.memory / 1024**3
    return f"{max(4, round(min(whole * 0.75, whole - 5)))}GB"


def _engine(machine: Machine, wish: Wish, make: _Maker, engine: str) -> list[Step]:
    if machine.engines == {DESKTOP, DISTRO} and not wish.engine:
        command = ("wsl.exe", "-d", make.distribution, "--exec", "docker", "context", "ls")
        return [Step("one-engine", HAND, command, params={"distribution": make.distribution})]
    if engine in machine.engines:
        return []
    if engine == DESKTOP:
        return [make.script("desktop", ADMIN, "03-docker-desktop.ps1")]
    mirror = ("--mirror", wish.mirror) if wish.mirror else ()
    return [make.inside("engine", "linux", "install-docker.sh", *mirror, distribution=make.distribution)]


def _ollama(machine: Machine, make: _Maker, engine: str, ollama: str) -> list[Step]:
    steps = []
    if ollama == WINDOWS:
        if WINDOWS not in machine.ollama:
            steps.append(make.script("ollama-windows", USER, "04-ollama.ps1", "-Install"))
        is_open = machine.ollama_host.partition("//")[2] or machine.ollama_host
        is_open = is_open.removesuffix(f":{OLLAMA_PORT}")
        if engine == DISTRO and not (is_open in _OPEN_HOSTS and machine.has_rule):
            steps.append(make.script("ollama-reach", ADMIN, "04-ollama.ps1", "-Expose"))
        return steps
    if DISTRO not in machine.ollama:
        steps.append(
            make.inside("ollama-distro", "linux", "install-ollama.sh", distribution=make.distribution)
        )
    host = machine.distro_ollama_host.removesuffix(f":{OLLAMA_PORT}")
    if engine == DISTRO and host not in (*_OPEN_HOSTS, _BRIDGE):
        steps.append(make.inside("ollama-bridge", "linux", "install-host.sh", distribution=make.distribution))
    return steps


def _ports(machine: Machine, wish: Wish, ollama: str) -> list[Step]:
    """Ports of the stack, and of an Ollama on Windows, inside ranges that Windows keeps for itself."""

    def is_kept(port: int) -> bool:
        return any(low <= port <= high for low, high in machine.excluded)

    steps = []
    wanted_ports = (wish.web_port, wish.api_port)
    if kept := ", ".join(str(port) for port in wanted_ports if is_kept(port)):
        free: list[int] = []
        for port in wanted_ports:
            while port < 65535 and (is_kept(port) or port in free):
                port += 1
            free.append(port)
        command = ("rfctl", "stack", "init", "--web-port", str(free[0]), "--api-port", str(free[1]))
        steps.append(Step("ports", HAND, command, params={"ports": kept}))
    if ollama == WINDOWS and is_kept(OLLAMA_PORT):
        reserve = f"startport={OLLAMA_PORT}"
        command = ("netsh.exe", "interface", "ipv4", "add", "excludedportrange", "protocol=tcp", reserve)
        steps.append(
            Step(
                "ollama-port",
                HAND,
                (*command, "numberofports=1", "store=persistent"),
                undo=(*command[:3], "delete", *command[4:], "numberofports=1", "store=persistent"),
                params={"port": OLLAMA_PORT},
            )
        )
    return steps


def _expose(machine: Machine, make: _Maker, engine: str, port: int) -> list[Step]:
    if engine == DESKTOP:
        way = "Desktop"
    else:
        # The plan itself turns mirrored mode off.
        way = "Nat"
    is_done = machine.has_lan_rule and (way != "Nat" or machine.proxied.get(port) == machine.address != "")
    if is_done:
        return []
    arguments = ["-Way", way, "-Port", str(port)]
    if way == "Nat":
        arguments += ["-Distribution", make.distribution]
    return [make.script("lan", ADMIN, "05-expose-lan.ps1", *arguments, port=port)]
