"""Up, down, status and logs of the stack.

`docker compose up --wait` answers 0 for a service in a crash loop that has no health check of its own, so the
restart counts and out-of-memory marks of every container are read afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rfctl.core.error import RefusedError, RfctlError, UnreachableError, UsageError
from rfctl.core.progress import SILENT, Reporter
from rfctl.core.redact import redact
from rfctl.stack.check_docker import service_name
from rfctl.stack.check_stack import describe
from rfctl.stack.child import run
from rfctl.stack.claim import claim_data
from rfctl.stack.compose import QUICK_SECONDS, Compose, explain
from rfctl.stack.image import changes, inspect_project, record_images, running_images, wanted_images
from rfctl.stack.project import Project, missing_values, parse_env, secret_faults
from rfctl.stack.unfinished import clear_stop, hold, read_stop, require_idle
from rfctl.stack.volume import pull_images, remove_helpers

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
    """running: there are containers and none has a fault; cut_off: the folder of a backup that was killed
    and has left them stopped, "" when there is none."""

    running: bool
    web_url: str
    api_url: str
    services: tuple[Service, ...]
    cut_off: str = ""


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
    owns_data: bool = False,
    reporter: Reporter = SILENT,
) -> Status:
    """Download what is missing, start everything, and return when all of it is healthy.

    timeout: seconds for the start alone; owns_data: data that another home made is started too.
    What a killed backup left stopped is started with the rest, and its part is removed.
    Raises UsageError (`stack.not-initialised`, `stack.no-docker`), RefusedError (`stack.upgrade-first`,
    `stack.restore-unfinished`, `stack.busy`, `stack.foreign-data`), RfctlError with an id of the failure
    (`stack.secret-missing`, `stack.port-taken`, `stack.oom`, `stack.loop`, ...), UnreachableError.
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
    require_idle(compose.project)
    _require_whole(compose.project)
    wanted = wanted_images(compose)
    claim_data(compose, is_known=owns_data)
    if not is_upgrade:
        _require_same_images(compose, wanted)
    # Apart from the start, because a slow line takes longer than any database.
    pull_images(wanted.values(), compose.environment, reporter=reporter)
    arguments = ["up", "-d", "--wait", "--wait-timeout", str(round(timeout))]
    if executors:
        arguments += ["--scale", f"executor={executors}"]
    with reporter.stage("stack.bringing-up", unit="seconds"):
        found = compose.call(*arguments, timeout=timeout + 60)
    cut_off = _clear_stop(compose)
    if not found.is_ok:
        general = _name_port(explain(found, timeout=timeout), values)
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
    return dataclasses.replace(status(compose), cut_off=cut_off)


def _clear_stop(compose: Compose) -> str:
    """Remove what a killed backup left behind; the folder of its part, "" when there was none.

    A backup that began while the containers came up is under way: its part is none that was left.
    """
    if read_stop(compose.project) is None:
        return ""
    try:
        with hold(compose.project):
            found = clear_stop(compose.project)
            remove_helpers(compose.name, compose.environment)
    except OSError as error:
        raise RfctlError("stack.unwritable", path=compose.project.directory, detail=str(error)) from error
    except RefusedError:
        return ""
    return str(found.partial) if found is not None else ""


def _name_port(error: RfctlError, values: Mapping[str, str]) -> RfctlError:
    """A taken port with the settings that choose it."""
    if error.id != "stack.port-taken":
        return error
    port = str(error.params["name"]).rpartition(":")[2]
    defaults = {"RFCTL_WEB_PORT": "8080", "RFCTL_API_PORT": "9380"}
    chosen = [
        name for name, value in (defaults | dict(values)).items() if name.endswith("_PORT") and value == port
    ]
    if not chosen:
        return error
    params: dict[str, Any] = {**error.params, "setting": ", ".join(chosen)}
    return RfctlError(error.id, **params)


def _require_whole(project: Project) -> None:
    with contextlib.suppress(FileNotFoundError):
        path = project.unfinished_file.read_text("utf-8").strip()
        raise RefusedError("stack.restore-unfinished", path=path)


def _require_same_images(compose: Compose, wanted: Mapping[str, str]) -> None:
    """A newer rfctl names newer images; RAGFlow would migrate its data without a backup."""
    for change in changes(running_images(compose), wanted):
        kind = "stack.upgrade-first" if change.direction != "down" else "stack.downgrade"
        raise RefusedError(kind, service=change.service, before=change.before, after=change.after)


def down(compose: Compose, *, timeout: float = DOWN_SECONDS) -> bool:
    """Stop and remove the containers; volumes stay. False when nothing was there.

    Raises RefusedError `stack.busy`, RfctlError.
    """
    require_idle(compose.project)
    had = bool(inspect_project(compose.name, compose.environment))
    compose.ask("down", "--remove-orphans", timeout=timeout)
    _clear_stop(compose)
    return had


def status(compose: Compose) -> Status:
    """What the containers are doing. Raises RfctlError as `up` does."""
    values = compose.project.read()
    found = describe_project(compose.name, compose.environment, web_url(values), api_url(values))
    stopped = read_stop(compose.project)
    return dataclasses.replace(found, cut_off=str(stopped.partial)) if stopped else found


def describe_project(name: str, environment: Mapping[str, str], web: str, api: str) -> Status:
    """The containers of any Compose project. Raises RfctlError as `up` does."""
    services = tuple(sorted(_services(name, environment), key=lambda service: service.name))
    running = bool(services) and not any(service.fault for service in services)
    return Status(running, web, api, services)


def read_logs(
    name: str,
    environment: Mapping[str, str],
    *,
    service: str = "",
    lines: int = 100,
    secrets: Mapping[str, str] | None = None,
) -> list[str]:
    """The last lines of each container of a Compose project, or of one service; [] when there is none.

    secrets: settings whose values are hidden, beside those of the containers. Raises UsageError
    `stack.service-unknown`, RfctlError.
    """
    containers = sorted(inspect_project(name, environment), key=_label)
    known = sorted({service_name(container) for container in containers})
    if containers and service and service not in known:
        raise UsageError("stack.service-unknown", name=service, known=", ".join(known))
    chosen = [container for container in containers if not service or service_name(container) == service]
    found = []
    for container in chosen:
        command = ["docker", "logs", "--tail", str(lines), str(container["Id"])]
        said = run(command, timeout=QUICK_SECONDS, environment=environment)
        if not said.is_ok:
            raise explain(said, timeout=QUICK_SECONDS)
        values = parse_env("\n".join(container["Config"].get("Env") or ())) | dict(secrets or {})
        text = mask(said.out + said.err, values)
        label = _label(container) if len(chosen) > 1 else ""
        found += [f"{label}  | {line}" if label else line for line in text.splitlines()]
    return found


def _label(container: dict[str, Any]) -> str:
    """ "executor-2"."""
    number = container["Config"]["Labels"].get("com.docker.compose.container-number", "1")
    return f"{service_name(container)}-{number}"


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


def _service(container: dict[str, Any]) -> Service:
    state: dict[str, Any] = container["State"]
    fault, detail = describe(container)
    health = state.get("Health") or {}
    published: dict[str, Sequence[dict[str, str]] | None] = (container.get("NetworkSettings") or {}).get(
        "Ports"
    ) or {}
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
        health=str(health.get("Status", "")),
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
