"""`docker compose` for one project: explicit files, explicit env file, a deadline for every call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rfctl.core.error import RfctlError, UnreachableError, UsageError
from rfctl.core.redact import redact
from rfctl.stack.child import Capture, run
from rfctl.stack.image_lock import lock_files
from rfctl.stack.project import SECRETS, Project

QUICK_SECONDS = 30.0
_PORT_SETTINGS = "RFCTL_WEB_PORT, RFCTL_API_PORT, RFCTL_OLLAMA_PORT"
# What Compose and the engine say (recorded with Compose 5.6.1 and engine 20.10), and the id of its error.
_FAILURES: tuple[tuple[str, str], ...] = (
    (
        r"Cannot connect to the Docker daemon|error during connect|Is the docker daemon running"
        r"|failed to connect to the docker API",
        "stack.engine-down",
    ),
    (
        r"permission denied while trying to connect|dial unix \S+: connect: permission denied",
        "stack.engine-denied",
    ),
    (r"required variable (?P<name>\w+) is missing a value", "stack.secret-missing"),
    (
        r"(?:Bind for |listen tcp4? )(?P<name>\S+?:\d+):?.*"
        r"(?:port is already allocated|address already in use)",
        "stack.port-taken",
    ),
    (r"address already in use|port is already allocated", "stack.port-taken"),
    (r"could not select device driver", "stack.no-gpu"),
    (r"error setting rlimit", "stack.rlimit"),
    (r"no space left on device", "stack.disk-full"),
    (
        r"(?:lookup \S+|dial tcp).*(?:network is unreachable|no such host|i/o timeout|server misbehaving"
        r"|connection refused)",
        "stack.image-offline",
    ),
    (
        r"(?:manifest|image|repository) .*(?:not found|does not exist|unknown)|pull access denied",
        "stack.image-missing",
    ),
    # Without the plugin docker takes our first option for its own.
    (r"unknown flag: --ansi|'compose' is not a docker command|unknown command", "stack.no-compose"),
    (r"unknown (?:shorthand )?flag", "stack.old-compose"),
)


@dataclass(frozen=True)
class Compose:
    """The command line of one project.

    environment: of the child processes; secrets come from the env file and never from arguments.
    is_locked: whether the images of the lock file, where there is one, win over those of the other files.
    """

    project: Project
    environment: Mapping[str, str]
    extra: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    is_locked: bool = True

    @property
    def name(self) -> str:
        """Compose's project name. Raises UsageError when the stack is not initialised."""
        return self.project.read().get("RFCTL_PROJECT", "rfctl")

    def command(self, *arguments: str) -> list[str]:
        """Raises UsageError when the stack is not initialised."""
        parts = ["docker", "compose", "--ansi", "never", "--progress", "plain"]
        files = self.project.compose_files(self.extra)
        # The files extend each other by names relative to this folder.
        parts += ["--project-directory", str(files[0].parent), "--env-file", str(self.project.env_file)]
        for path in files:
            parts += ["-f", str(path)]
        for override in self.overrides:
            parts += ["-f", override]
        if self.is_locked:
            executors = any(path.name == "compose.executors.yaml" for path in files)
            for path in lock_files(self.project, executors=executors):
                parts += ["-f", str(path)]
        return [*parts, *arguments]

    def call(self, *arguments: str, timeout: float = QUICK_SECONDS) -> Capture:
        """Run a command and return what it said; a failure is not raised."""
        # A variable of the shell beats the env file in Compose: the file alone decides here.
        own = set(self.project.read())
        clean = {name: value for name, value in self.environment.items() if name not in own}
        clean.pop("COMPOSE_FILE", None)
        clean.pop("COMPOSE_PROJECT_NAME", None)
        return run(self.command(*arguments), timeout=timeout, environment=clean)

    def ask(self, *arguments: str, timeout: float = QUICK_SECONDS) -> str:
        """Standard output of a command. Raises what `explain` makes of a failure."""
        found = self.call(*arguments, timeout=timeout)
        if not found.is_ok:
            raise explain(found, timeout=timeout)
        return found.out


def explain(found: Capture, *, timeout: float = 0) -> RfctlError:
    """The error for a failed `docker` call (ids `stack.*`)."""
    if found.state == "missing":
        return UsageError("stack.no-docker")
    text = found.text
    for pattern, id in _FAILURES:
        match = re.search(pattern, text, re.IGNORECASE)
        if match is None:
            continue
        name = match.groupdict().get("name") or ""
        if id == "stack.secret-missing" and name not in SECRETS:
            return UsageError("stack.value-missing", name=name, detail=_line(text, match))
        if id == "stack.secret-missing":
            return RfctlError(id, name=name, detail="missing")
        if id in ("stack.engine-down", "stack.engine-denied"):
            return UnreachableError(id, detail=_line(text, match))
        if id == "stack.port-taken":
            return RfctlError(id, name=name or "-", detail=_line(text, match), setting=_PORT_SETTINGS)
        return RfctlError(id, name=name, detail=_line(text, match))
    if found.state == "timeout":
        return UnreachableError("stack.timeout", seconds=round(timeout), detail=_last(text))
    return RfctlError("stack.failed", detail=_last(text), code=found.code)


def _line(text: str, match: re.Match[str]) -> str:
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", match.end())
    line = text[start : end if end >= 0 else None].strip()
    # What stands before the id of a container or an endpoint is the engine's way there.
    return redact(re.sub(r"^.*\([0-9a-f]{64}\): ", "", line)[-300:])


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return redact(lines[-1].strip()[-300:]) if lines else "-"
