"""Stopping containers of a project and starting them again, in the order in which they need each other."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rfctl.core.progress import SILENT, Reporter
from rfctl.stack.check_docker import service_name
from rfctl.stack.image import inspect_project
from rfctl.stack.volume import docker

STOP_SECONDS = 180.0
HEALTH_SECONDS = 180.0
# They keep data; the others are their clients.
DATA_SERVICES = frozenset({"mysql", "es01", "infinity", "minio", "redis"})


@dataclass(frozen=True)
class Containers:
    """Ids: those that keep data, and their clients."""

    data: tuple[str, ...]
    clients: tuple[str, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        return self.data + self.clients

    def __bool__(self) -> bool:
        return bool(self.ids)


def find_running(name: str, environment: Mapping[str, str], *, also: Collection[str] = ()) -> Containers:
    """What runs of the project, and those of the ids in `also` that exist. Raises RfctlError."""
    parts: dict[bool, list[str]] = {True: [], False: []}
    for entry in inspect_project(name, environment):
        id = str(entry["Id"])
        if entry["State"]["Status"] in ("running", "restarting", "paused") or id in also:
            parts[service_name(entry) in DATA_SERVICES].append(id)
    return Containers(tuple(parts[True]), tuple(parts[False]))


def stop_containers(
    containers: Containers, environment: Mapping[str, str], *, reporter: Reporter = SILENT
) -> None:
    """Stop them, clients first; each container has its own grace period. Raises RfctlError."""
    with reporter.stage("stack.stopping", unit="seconds"):
        for ids in (containers.clients, containers.data):
            if ids:
                docker(environment, "stop", *ids, timeout=STOP_SECONDS)


def start_containers(
    containers: Containers, environment: Mapping[str, str], *, reporter: Reporter = SILENT
) -> None:
    """Start them: the databases, their clients as soon as those are healthy. Raises RfctlError."""
    with reporter.stage("stack.starting-again", unit="seconds"):
        if containers.data:
            docker(environment, "start", *containers.data, timeout=STOP_SECONDS)
            _wait_healthy(containers.data, environment)
        if containers.clients:
            docker(environment, "start", *containers.clients, timeout=STOP_SECONDS)


def _wait_healthy(ids: tuple[str, ...], environment: Mapping[str, str]) -> None:
    """Until all are healthy or the time is over: their clients try again by themselves."""
    deadline = time.monotonic() + HEALTH_SECONDS
    while time.monotonic() < deadline:
        states = [entry["State"] for entry in json.loads(docker(environment, "inspect", *ids))]
        if all((state.get("Health") or {}).get("Status", "healthy") == "healthy" for state in states):
            return
        time.sleep(0.5)
