"""What the verbs of `rfctl stack` share: the stack of this home, its command line, and what was adopted."""

from __future__ import annotations

import os
from pathlib import Path

from rfctl.cli.app import App
from rfctl.core.error import RefusedError
from rfctl.stack.adopt import adopted_name
from rfctl.stack.compose import Compose
from rfctl.stack.lifecycle import Status
from rfctl.stack.project import Project
from rfctl.stack.wsl_gateway import host_gateway


def stack_project(app: App) -> Project:
    return Project(app.directories.data / "stack")


def stack_overrides() -> tuple[str, ...]:
    """Further compose files of one's own, such as a mirror of images; tests put their stub images here."""
    override = os.environ.get("RFCTL_STACK_OVERRIDE", "")
    return tuple(str(Path(part).absolute()) for part in override.split(os.pathsep) if part)


def stack_compose(app: App, extra: tuple[str, ...] = ()) -> Compose:
    """The command line of the own stack. Raises RefusedError where a foreign RAGFlow was adopted instead."""
    project = stack_project(app)
    if (name := adopted_name(project)) and not project.is_initialised:
        raise RefusedError("stack.adopted-only", name=name)
    addons = project.addons() if project.is_initialised else ()
    environment = dict(os.environ)
    return Compose(project, environment | host_gateway(environment, addons), extra, stack_overrides())


def print_services(app: App, found: Status) -> None:
    rows = [
        (
            service.name,
            service.state,
            service.health or "-",
            service.restarts,
            service.ports or "-",
            service.fault or "-",
        )
        for service in found.services
    ]
    app.out.table(
        [
            app.out.text("output.column-service"),
            app.out.text("output.column-state"),
            app.out.text("output.column-health"),
            app.out.text("output.column-restarts"),
            app.out.text("output.column-ports"),
            app.out.text("output.column-fault"),
        ],
        rows,
    )
