"""Up, down, status and logs of the stack.

`docker compose up --wait` answers 0 for a service in a crash loop that has no health check of its own, so the
restart counts and out-of-memory marks of every container are read afterwards.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rfctl.core.error import RefusedError, RfctlError, UnreachableError, UsageError
from rfctl.core.progress import SILENT, Reporter
from rfctl.core.redact import redact
from rfctl.stack.check_docker import service_name
from rfctl.stack.check_stack import describe
from rfctl.stack.compose import Compose, explain
from rfctl.stack.image import changes, inspect_project, record_images, running_images, wanted_images
from rfctl.stack.project import Project, missing_values, secret_faults

UP_SECONDS = 1200.0
DOWN_SECONDS = 180.0
LOOK_SECONDS = 5.0
# Faults that say why; the others only say that.
_CAUSES = ("oom", "instruction", "bootstrap")


@dataclass(frozen=True)
class Service:
    """One container. state: Docker's word; health: "healthy", "unhealthy", "starting" or "" (no check);
    fault: "" or one of oom, instruction, bootstrap, loop, stopped, unhealthy, starting."""

    name: str
    state: str
    health: str
    restarts: int
    ports: str
    fault: str
    detail: str


@dataclass(frozen=True)
class Status:
    """running: there are containers and none has a fault."""

    running: bool
    web_url: str
    api_url: str
    services: tuple[Service, ...]


def web_url(values: dict[str, str]) -> str:
    """Address of the web UI for this machine."""
    host = values.get("RFCTL_BIND", "127.0.0.1")
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{values.get('RFCTL_WEB_PORT', '8080')}"  # noqa: S104


def api_url(values: dict[str, str]) -> str:
    """Address of RAGFlow's API for this machine."""
    host = values.get("RFCTL_BIND", "127.0.0.1")
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{values.get('RFCTL_API_PORT', '9380')}"  # noqa: S104


def up(
    compose: Compose,
    *,
    timeout: float = UP_SECONDS,
    executors: int = 0,
    is_upgrade: bool = False,
    reporter: Reporter = SILENT,
) -> Status:
    """Start everything and return when all of it is healthy.

    Raises UsageError (`stack.not-initialised`, `stack.no-docker`), RefusedError (`stack.upgrade-first`,
    `stack.restore-unfinished`), RfctlError with an id of the failure (`stack.secret-missing`,
    `stack.port-taken`, `stack.oom`, `stack.loop`, ...), UnreachableError.
    """
    values = compose.project.read()
    if missing := missing_values(values):
        addons = values.get("RFCTL_ADDONS", "")
        raise UsageError("stack.value-missing", name=", ".join(missing), detail=f"RFCTL_ADDONS={addons}")
    if faults := secret_faults(values):
        raise RfctlError(
            "stack.secret-missing",
            name=", ".join(sorted(faults)),
            detail=", ".join(sorted(set(faults.values()))),
        )
    _require_whole(compose.project)
    if not is_upgrade:
        _require_same_images(compose)
    arguments = ["up", "-d", "--wait", "--wait-timeout", str(round(timeout))]
    if executors:
        arguments += ["--scale", f"executor={executors}"]
    with reporter.stage("stack.bringing-up", unit="seconds"):
        found = compose.call(*arguments, timeout=timeout + 60)
    if not found.is_ok:
        general = explain(found, timeout=timeout)
        # A container that died explains more than Compose's word about it. A busy engine may drop one
        # connection only; one that is down fails here again.
        if general.id in ("stack.failed", "stack.timeout", "stack.engine-down"):
            _raise_for_faults(compose, patient=True)
        raise general
    _raise_for_faults(compose)
    try:
        record_images(compose.project, running_images(compose))
    except OSError as error:
        raise RfctlError("stack.unwritable", path=compose.project.images_file, detail=str(error)) from error
    return status(compose)


def _require_whole(project: Project) -> None:
    with contextlib.suppress(FileNotFoundError):
        path = project.unfinished_file.read_text("utf-8").strip()
        raise RefusedError("stack.restore-unfinished", path=path)


def _require_same_images(compose: Compose) -> None:
    """A newer rfctl names newer images; RAGFlow would migrate its data without a backup."""
    for change in changes(running_images(compose), wanted_images(compose)):
        kind = "stack.upgrade-first" if change.direction != "down" else "stack.downgrade"
        raise RefusedError(kind, service=change.service, before=change.before, after=change.after)


def down(compose: Compose, *, timeout: float = DOWN_SECONDS) -> bool:
    """Stop and remove the containers; volumes stay. False when nothing was there. Raises RfctlError."""
    had = bool(inspect_project(compose.name, compose.environment))
    compose.ask("down", "--remove-orphans", timeout=timeout)
    return had


def status(compose: Compose) -> Status:
    """What the containers are doing. Raises RfctlError as `up` does."""
    values = compose.project.read()
    return describe_project(compose.name, compose.environment, web_url(values), api_url(values))


def describe_project(name: str, environment: Mapping[str, str], web: str, api: str) -> Status:
    """The containers of any Compose project. Raises RfctlError as `up` does."""
    services = tuple(sorted(_services(name, environment), key=lambda service: service.name))
    running = bool(services) and not any(service.fault for service in services)
    return Status(running, web, api, services)


def logs(compose: Compose, *, service: str = "", lines: int = 100) -> list[str]:
    """The last lines of one service or of all, redacted. Raises RfctlError."""
    arguments = ["logs", "--no-color", "--tail", str(lines)]
    text = compose.ask(*arguments, *([service] if service else []))
    return mask(text, compose.project.read()).splitlines()


def mask(text: str, values: Mapping[str, str]) -> str:
    """`text` without the secrets among `values`, and without what looks like one."""
    for secret in {value for name, value in values.items() if secret_like(name) and len(value) >= 4}:
        text = text.replace(secret, "***")
    return redact(text)


def secret_like(name: str) -> bool:
    """Whether a setting of that name holds a secret."""
    return any(word in name for word in ("PASSWORD", "SECRET", "TOKEN"))


def _services(name: str, environment: Mapping[str, str]) -> list[Service]:
    return [_service(container) for container in inspect_project(name, environment)]


def _service(container: dict[str, object]) -> Service:
    state: dict[str, object] = container["State"]  # type: ignore[assignment]
    fault, detail = describe(container)
    health = state.get("Health") or {}
    network: dict[str, object] = container.get("NetworkSettings") or {}  # type: ignore[assignment]
    published: dict[str, Sequence[dict[str, str]] | None] = network.get("Ports") or {}  # type: ignore[assignment]
    ports = sorted(
        {
            f"{entry['HostIp']}:{entry['HostPort']}"
            for entries in published.values()
            for entry in entries or ()
        }
    )
    return Service(
        name=service_name(container),
        state=str(state.get("Status", "")),
        health=str(health.get("Status", "")) if isinstance(health, dict) else "",
        restarts=int(str(container.get("RestartCount", 0))),
        ports=", ".join(ports),
        fault=fault,
        detail=redact(detail),
    )


def _raise_for_faults(compose: Compose, *, patient: bool = False) -> None:
    """Raises the error of the gravest fault; `patient`: give faults a moment to show.

    A container in a crash loop shows its exit code only between two starts, so a bare "loop" is looked at
    again for a better reason.
    """
    seen: dict[str, Service] = {}
    begun = time.monotonic()
    while True:
        now = {
            service.fault: service
            for service in _services(compose.name, compose.environment)
            if service.fault
        }
        seen = {fault: service for fault, service in seen.items() if fault != "starting"} | now
        waited = time.monotonic() - begun
        enough = waited >= (LOOK_SECONDS if patient or "loop" in seen or "starting" in seen else 0)
        if enough or set(seen) & set(_CAUSES):
            break
        time.sleep(0.3)
    for fault in (*_CAUSES, "loop", "unhealthy", "stopped", "starting"):
        if fault in seen:
            kind = UnreachableError if fault == "starting" else RfctlError
            raise kind(f"stack.{fault}", service=seen[fault].name, detail=seen[fault].detail)
