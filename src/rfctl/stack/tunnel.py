"""Tunnels through ssh: what they forward, the ssh command line, and the state that their watcher keeps.

Only `ssh -L` and `ssh -R`; keys, host keys and user names are ssh's own business (its configuration and its
agent), so that nothing here ever sees a secret. Options: OpenSSH's ssh_config manual, 9.2.
"""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import shlex
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rfctl.core.error import AuthError, UsageError
from rfctl.core.file import write_atomic
from rfctl.core.lock import is_locked

LOOPBACK = "127.0.0.1"
# Ports of the services as they listen by default; 9380 is RAGFlow's API, 8080 the page of `rfctl stack`.
SERVICES: Mapping[str, int] = {"ollama": 11434, "ragflow": 9380, "web": 8080}
CONNECTING, UP, WAITING, DOWN = "connecting", "up", "waiting", "down"
_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*@)?(?:[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# OpenSSH's channels.c, channel_fwd_bind_addr.
_REBOUND = "overridden by server GatewayPorts"
_CHATTER = ("debug", "OpenSSH_", "Authenticated to", "Transferred:", "Bytes per")
_AFTER_BIND = ("channel_setup_fwd_listener", "Could not request local forwarding")
# So long a far end that refuses the connection takes to say so, there and back.
PROBE_SECONDS = 2.0
_OPTIONS = (
    "BatchMode=yes",
    "ExitOnForwardFailure=yes",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=3",
    "ConnectTimeout=15",
    # A shared connection would carry the forwards away with it, and hide them from us.
    "ControlMaster=no",
    "ControlPath=none",
)


@dataclass(frozen=True)
class Forward:
    """bind:port is opened (on this machine, or on the other one when `is_reverse`) and leads to
    target:target_port as the other end sees it."""

    bind: str
    port: int
    target: str
    target_port: int
    is_reverse: bool = False

    @property
    def argument(self) -> tuple[str, str]:
        """The two words for ssh."""
        return ("-R" if self.is_reverse else "-L", str(self))

    def __str__(self) -> str:
        return f"{self.bind}:{self.port}:{self.target}:{self.target_port}"


@dataclass(frozen=True)
class Plan:
    """A tunnel as it is wanted. port: the ssh server's, 0 for ssh's choice; config: ssh's -F, "" for none."""

    name: str
    host: str
    forwards: tuple[Forward, ...]
    port: int = 0
    config: str = ""

    @property
    def login(self) -> str:
        return login_words(self.host, self.port, self.config)


@dataclass(frozen=True)
class State:
    """What the watcher last wrote. since: of the last change (epoch, seconds); detail: ssh's last words."""

    plan: Plan
    state: str = CONNECTING
    pid: int = 0
    ssh_pid: int = 0
    restarts: int = 0
    since: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Place:
    """The files of one tunnel."""

    folder: Path
    name: str

    @property
    def state_file(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def lock_file(self) -> Path:
        return self.folder / f"{self.name}.lock"

    @property
    def log_file(self) -> Path:
        return self.folder / f"{self.name}.log"

    def is_running(self) -> bool:
        return is_locked(self.lock_file)

    def read(self) -> State | None:
        """The state as written; None when there is none, or another program's file in its place."""
        try:
            return _state(json.loads(self.state_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, state: State) -> None:
        """Raises OSError."""
        write_atomic(self.state_file, json.dumps(asdict(state)).encode(), mode=0o600)

    def remove(self) -> None:
        for path in (self.state_file, self.lock_file):
            path.unlink(missing_ok=True)


def places(folder: Path) -> list[Place]:
    """Every tunnel that has a state."""
    return [Place(folder, path.stem) for path in sorted(folder.glob("*.json"))]


def current(place: Place) -> State | None:
    """The state, "down" when the watcher behind it is gone."""
    state = place.read()
    if state is None or place.is_running():
        return state
    return replace(state, state=DOWN, pid=0, ssh_pid=0)


def check_host(host: str) -> str:
    """`user@host`, an alias of ssh's configuration or an address; never an option or a piece of shell.

    Raises UsageError. Host names with shell characters have run commands in ssh before (CVE-2023-51385).
    """
    if _HOST.fullmatch(host) is None:
        raise UsageError("tunnel.host-invalid", host=host)
    return host


def login_words(host: str, port: int = 0, config: str = "") -> str:
    """What to type after `ssh` to get in by hand."""
    words = ["-F", config] if config else []
    return shlex.join([*words, *(["-p", str(port)] if port else []), host])


def login_error(host: str, login: str, detail: str) -> AuthError | None:
    """What ssh's last words say of the login, None when it is about something else.

    login: of `login_words`.
    """
    lower = detail.lower()
    if "host key" in lower:
        return AuthError("tunnel.host-key", host=host, login=login, detail=detail)
    if "permission denied" in lower or "too many authentication failures" in lower:
        return AuthError("tunnel.denied", host=host, login=login, detail=detail)
    return None


def check_name(name: str) -> str:
    """Raises UsageError."""
    if _NAME.fullmatch(name) is None:
        raise UsageError("tunnel.name-invalid", name=name)
    return name


def parse_forward(text: str, *, bind: str = LOOPBACK, is_reverse: bool = False) -> Forward:
    """ "ollama", "11434", "15000:11434" or "15000:other-host:11434". Raises UsageError."""
    parts = [str(SERVICES.get(part, part)) for part in text.split(":")]
    if len(parts) not in (1, 2, 3):
        raise UsageError("tunnel.map-invalid", map=text, known=", ".join(SERVICES))
    target = parts[1] if len(parts) == 3 else LOOPBACK
    ports = [parts[0], parts[-1]]
    if not all(port.isascii() and port.isdigit() and 0 < int(port) < 65536 for port in ports):
        raise UsageError("tunnel.map-invalid", map=text, known=", ".join(SERVICES))
    if _TARGET.fullmatch(target) is None:
        raise UsageError("tunnel.map-invalid", map=text, known=", ".join(SERVICES))
    return Forward(bind, int(ports[0]), target, int(ports[1]), is_reverse)


def ssh_command(plan: Plan) -> list[str]:
    """The argument list; the host stands behind `--`, so that it is never an option."""
    command = ["ssh", "-N", "-T", "-v"]
    if plan.config:
        command += ["-F", plan.config]
    if plan.port:
        command += ["-p", str(plan.port)]
    for option in _OPTIONS:
        command += ["-o", option]
    for forward in plan.forwards:
        command += forward.argument
    return [*command, "--", plan.host]


@dataclass
class Progress:
    """Reads ssh's `-v` lines and says when every forward stands."""

    forwards: Sequence[Forward]
    detail: str = ""
    is_rebound: bool = False
    _confirmed: int = 0
    _is_session: bool = field(default=False)

    def feed(self, line: str) -> bool:
        """True once all forwards are there. Lines that are no debug output are kept as `detail`."""
        text = line.strip()
        if text.startswith("debug1: remote forward success"):
            self._confirmed += 1
        elif text.startswith("debug1: Remote: ") and _REBOUND in text:
            # GatewayPorts yes: the server listens on every address, whatever was asked for.
            self.is_rebound, self.detail = True, text.removeprefix("debug1: Remote: ")[:300]
        elif text.startswith("debug1: Entering interactive session"):
            self._is_session = True
        elif text and not text.startswith(_CHATTER) and not self._is_said(text):
            self.detail = text[:300]
        return self.is_up

    def _is_said(self, text: str) -> bool:
        """ssh says which port it is, and then twice more that something went wrong."""
        return self.is_rebound or (self.detail.startswith("bind [") and text.startswith(_AFTER_BIND))

    @property
    def is_up(self) -> bool:
        return (
            not self.is_rebound
            and self._is_session
            and self._confirmed >= sum(one.is_reverse for one in self.forwards)
        )


def find_silent(forwards: Sequence[Forward], seconds: float = PROBE_SECONDS) -> list[Forward]:
    """The forwards from here behind which nobody listens: ssh accepts a connection and ends it again.

    A service that waits for a question keeps it open; nothing is sent to it.
    """
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        silent = []
        for one in forwards:
            if one.is_reverse:
                continue
            try:
                # Not every system connects to "any address" (0.0.0.0, ::).
                host = LOOPBACK if one.bind.strip("0.:*") == "" else one.bind
                connection = socket.create_connection((host, one.port), timeout=seconds)
            except OSError:
                silent.append(one)
                continue
            stack.enter_context(connection)
            selector.register(connection, selectors.EVENT_READ, (one, connection))
        deadline = time.monotonic() + seconds
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                forward, connection = key.data
                selector.unregister(connection)
                with contextlib.suppress(OSError):
                    if connection.recv(1):
                        continue  # it greets, as a database does
                silent.append(forward)
        return silent


def changed(old: State, /, **values: Any) -> State:
    """A copy with other values and the time of now."""
    return replace(old, since=time.time(), **values)


def _state(document: Mapping[str, Any]) -> State:
    plan = document["plan"]
    forwards = tuple(Forward(**one) for one in plan["forwards"])
    return State(**{**document, "plan": Plan(**{**plan, "forwards": forwards})})
