"""Stopping and starting the containers of a project again, in the order in which they need each other."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
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
class Stopped:
    """Ids of containers that ran: those that keep data, and their clients."""

    data: tuple[str, ...]
    clients: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.data or self.clients)


def stop_containers(name: str, environment: Mapping[str, str], *, reporter: Reporter = SILENT) -> Stopped:
    """Stop what runs of the project, clients first; each container has its own grace period.

    Raises RfctlError.
    """
    running = [
        entry
        for entry in inspect_project(name, environment)
        if entry["State"]["Status"] in ("running", "restarting", "paused")
    ]
    parts: dict[bool, list[str]] = {True: [], False: []}
    for entry in running:
        parts[service_name(entry) in DATA_SERVICES].append(str(entry["Id"]))
    stopped = Stopped(tuple(parts[True]), tuple(parts[False]))
    if stopped:
        with reporter.stage("stack.stopping", unit="seconds"):
            for ids in (stopped.clients, stopped.data):
                if ids:
                    docker(environment, "stop", *ids, timeout=STOP_SECONDS)
    return stopped


def start_containers(
    stopped: Stopped, environment: Mapping[str, str], *, reporter: Reporter = SILENT
) -> None:
    """Start them again: the databases, their clients as soon as those are healthy. Raises RfctlError."""
    with reporter.stage("stack.starting-again", unit="seconds"):
        if stopped.data:
            docker(environment, "start", *stopped.data, timeout=STOP_SECONDS)
            _wait_healthy(stopped.data, environment)
        if stopped.clients:
            docker(environment, "start", *stopped.clients, timeout=STOP_SECONDS)


def _wait_healthy(ids: tuple[str, ...], environment: Mapping[str, str]) -> None:
    """Until all are healthy or the time is over: their clients try again by themselves."""
    deadline = time.monotonic() + HEALTH_SECONDS
    while time.monotonic() < deadline:
        states = [entry["State"] for entry in json.loads(docker(environment, "inspect", *ids))]
        if all((state.get("Health") or {}).get("Status", "healthy") == "healthy" for state in states):
            return
        time.sleep(0.5)
