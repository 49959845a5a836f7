"""The engine's folder: state, port, API key, log, and the lock that makes it the only engine there."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rfctl.core.error import RfctlError
from rfctl.core.file import write_atomic
from rfctl.core.lock import FileLock, is_locked

# RAGFlow's own keys look like this.
_KEY_PREFIX = "ragflow-"
_KEY_SECONDS = 2.0


class EngineError(RfctlError):
    """The engine does not do what was asked (ids `engine.*`)."""


@dataclass(frozen=True)
class RunState:
    """What a running engine says of itself. started: seconds since the epoch."""

    pid: int
    url: str
    version: str
    started: float


class Home:
    """Paths and small files below the engine folder (`Directories.engine`)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state_file = directory / "state.json"
        self.port_file = directory / "port"
        self.lock_file = directory / "engine.lock"
        self.key_file = directory / "api_key"
        self.log_file = directory / "engine.log"
        # What the process writes outside its log, such as the trace of a crash; begun anew at each start.
        self.stderr_file = directory / "engine.err"

    def make(self) -> None:
        """Make the folder, readable by its owner only: it holds documents. Raises OSError."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def lock(self) -> FileLock:
        return FileLock(self.lock_file)

    def is_running(self) -> bool:
        """An engine holds the lock. A state file alone says nothing: it survives a kill."""
        return is_locked(self.lock_file)

    def read_state(self) -> RunState | None:
        """The state of the running engine; None when none runs or it is not ready."""
        try:
            values = json.loads(self.state_file.read_bytes())
            state = RunState(
                int(values["pid"]), str(values["url"]), str(values["version"]), float(values["started"])
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return state if self.is_running() else None

    def write_state(self, state: RunState) -> None:
        """Raises OSError."""
        write_atomic(self.state_file, json.dumps(asdict(state)).encode())

    def clear_state(self) -> None:
        with contextlib.suppress(OSError):
            self.state_file.unlink()

    def last_port(self) -> int:
        """The port of the last run, 0 when there was none."""
        try:
            port = int(self.port_file.read_text("ascii"))
        except (OSError, ValueError):
            return 0
        return port if 0 < port < 65536 else 0

    def remember_port(self, port: int) -> None:
        """Raises OSError."""
        write_atomic(self.port_file, str(port).encode())

    def api_key(self) -> str:
        """The key of the RAGFlow half, made with mode 0600 at the first call. Raises EngineError, OSError."""
        self.make()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        # Two processes may ask for the first time at once: only one makes the file, the other waits for it.
        with (
            contextlib.suppress(FileExistsError),
            os.fdopen(os.open(self.key_file, flags, 0o600), "w") as file,
        ):
            file.write(_KEY_PREFIX + secrets.token_urlsafe(32) + "\n")
        deadline = time.monotonic() + _KEY_SECONDS
        while not (key := self.key_file.read_text("utf-8", errors="replace").strip()):
            if time.monotonic() > deadline:
                raise EngineError("engine.key-damaged", path=self.key_file)
            time.sleep(0.05)
        if not key.isascii():
            raise EngineError("engine.key-damaged", path=self.key_file)
        if os.name != "nt" and self.key_file.stat().st_mode & 0o077:
            self.key_file.chmod(0o600)
        return key

    def tail(self, count: int) -> list[str]:
        """The last lines of the log, with the rotated file before it when that is needed."""
        lines: list[str] = []
        for path in (self.log_file, self.log_file.with_name(self.log_file.name + ".1")):
            if len(lines) >= count:
                break
            with contextlib.suppress(OSError):
                lines = path.read_text("utf-8", errors="replace").splitlines() + lines
        return lines[-count:] if count > 0 else []

    def last_stderr(self, count: int = 5) -> str:
        """The last lines that the process wrote outside its log."""
        with contextlib.suppress(OSError):
            lines = self.stderr_file.read_text("utf-8", errors="replace").splitlines()
            return "\n".join(lines[-count:])
        return ""
