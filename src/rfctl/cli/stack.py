"""`rfctl stack`: RAGFlow in Docker on this machine."""

from __future__ import annotations

import os

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.stack_context import print_services, stack_compose, stack_project
from rfctl.core.error import RefusedError
from rfctl.stack import lifecycle
from rfctl.stack.adopt import adopted_name, look
from rfctl.stack.change import change
from rfctl.stack.check_network import is_loopback_address
from rfctl.stack.collector import machine_memory
from rfctl.stack.project import ADDONS, SIZES, choose_size, initialise


@command("init")
@click.option("--size", type=click.Choice(SIZES))
@click.option("--add", multiple=True, type=click.Choice(list(ADDONS)), metavar="NAME")
@click.option("--name", metavar="NAME")
@click.option("--web-port", type=click.IntRange(1, 65535), metavar="N")
@click.option("--api-port", type=click.IntRange(1, 65535), metavar="N")
def init(
    app: App,
    size: str | None,
    add: tuple[str, ...],
    name: str | None,
    web_port: int | None,
    api_port: int | None,
) -> None:
    """In a file that is there only what the options say is changed; its passwords stay."""
    project = stack_project(app)
    addons = tuple(dict.fromkeys(add))
    if project.is_initialised:
        made = change(
            project,
            size=size or "",
            addons=addons,
            name=name or "",
            web_port=web_port or 0,
            api_port=api_port or 0,
        )
    else:
        made = initialise(
            project,
            size=size or choose_size(machine_memory()),
            addons=addons,
            name=name or "rfctl",
            web_port=web_port or 8080,
            api_port=api_port or 9380,
            time_zone=os.environ.get("TZ", "").lstrip(":") or "UTC",
        )
    app.out.report(made)
    if made.created:
        app.out.say("stack.made", path=made.path, size=made.size)
    elif made.changed:
        app.out.say("stack.changed", path=made.path, names=", ".join(made.changed))
    else:
        app.out.say("stack.kept", path=made.path)
    app.out.say("stack.login", email=made.admin_email, path=made.path)
    if made.missing:
        app.out.note("stack.fill-in", names=", ".join(made.missing), path=made.path)
    app.out.note("stack.next-up")


@command("up")
@click.option(
    "--timeout", type=click.IntRange(1, 86400), default=int(lifecycle.UP_SECONDS), metavar="SECONDS"
)
@click.option("--executors", type=click.IntRange(0, 64), default=0, metavar="N")
@click.option("--i-know", is_flag=True)
@click.option("--own-data", is_flag=True)
def up(app: App, timeout: int, executors: int, i_know: bool, own_data: bool) -> None:
    """Downloads about 5 GB of images the first time."""
    compose = stack_compose(app, extra=("executors",) if executors else ())
    project = compose.project
    host = project.read().get("RFCTL_BIND", "127.0.0.1")
    if not is_loopback_address(host) and "tls" not in project.addons() and not i_know:
        raise RefusedError("stack.exposed-refused", host=host)
    status = lifecycle.up(
        compose, timeout=timeout, executors=executors, owns_data=own_data, reporter=app.reporter()
    )
    app.out.report(status)
    print_services(app, status)
    if status.cut_off:
        app.out.note("stack.backup-cleared", path=status.cut_off)
    app.out.note("stack.login", email=project.read().get("RFCTL_ADMIN_EMAIL", "-"), path=project.env_file)
    app.out.note("setup.after-up")
    app.out.say("stack.ready", url=status.web_url)


@command("down")
def down(app: App) -> None:
    """Volumes are never removed."""
    stopped = lifecycle.down(stack_compose(app))
    app.out.report({"stopped": stopped})
    app.out.say("stack.down" if stopped else "stack.not-running")


@command("status")
def status(app: App) -> None:
    """Reads containers only."""
    if name := _foreign(app):
        place = look(name, dict(os.environ))
        found = lifecycle.describe_project(name, dict(os.environ), place.web_url, place.api_url)
    else:
        found = lifecycle.status(stack_compose(app))
    app.out.report(found)
    if found.cut_off:
        app.out.warn("stack.backup-cut-off", path=found.cut_off)
    if not found.services:
        app.out.say("stack.not-running")
        return
    print_services(app, found)
    app.out.line(f"{found.web_url}  {found.api_url}")


@command("logs")
@click.argument("service", default="", required=False)
@click.option("-n", "--lines", type=click.IntRange(1, 100_000), default=100, metavar="N")
def logs(app: App, service: str, lines: int) -> None:
    """Services: ragflow, es01, mysql, minio, redis, infinity, ollama, tei, executor, caddy."""
    if name := _foreign(app):
        found = lifecycle.read_logs(name, dict(os.environ), service=service, lines=lines)
    else:
        compose = stack_compose(app)
        found = lifecycle.read_logs(
            compose.name, compose.environment, service=service, lines=lines, secrets=compose.project.read()
        )
    app.out.report({"service": service, "lines": found})
    if not found:
        app.out.note("stack.no-logs")
    for line in found:
        app.out.line(line)


def _foreign(app: App) -> str:
    """The adopted project, "" where there is a stack of one's own or nothing."""
    project = stack_project(app)
    return "" if project.is_initialised else adopted_name(project)
