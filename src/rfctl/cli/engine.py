"""`rfctl engine`: the embedded backend as a process of its own."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlsplit

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.engine import daemon
from rfctl.engine.daemon import Status


@command("start")
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="N")
@click.option("--host", default=daemon.LOOPBACK, metavar="ADDRESS")
def start(app: App, port: int, host: str) -> None:
    """Start the engine in the background; one that runs is left as it is."""
    before = daemon.status(app.directories.engine)
    if not before.running:
        _warn_exposed(app, host)
    status = daemon.start(app.directories.engine, host=host, port=port, reporter=app.reporter())
    app.out.report(status)
    app.out.say("engine.ready", url=status.url)
    place = urlsplit(status.url)
    if before.running and (port not in (0, place.port) or host not in (daemon.LOOPBACK, place.hostname)):
        app.out.warn("engine.kept", url=status.url)


@command("stop")
def stop(app: App) -> None:
    """Stop the engine; models and knowledge bases stay."""
    stopped = daemon.stop(app.directories.engine)
    app.out.report({"stopped": stopped})
    app.out.say("engine.stopped" if stopped else "engine.not-running")


@command("status")
def status(app: App) -> None:
    """Show address, key file and loaded models."""
    found = daemon.status(app.directories.engine)
    app.out.report(found)
    if not found.running:
        app.out.note("engine.not-running")
        return
    app.out.table(
        [app.out.text("output.column-field"), app.out.text("output.column-value")], _rows(app, found)
    )


@command("logs")
@click.option("-n", "--lines", type=click.IntRange(1, 100_000), default=100, metavar="N")
def logs(app: App, lines: int) -> None:
    """Show the end of the engine's log."""
    found = daemon.read_log(app.directories.engine, lines)
    app.out.report({"log_file": daemon.status(app.directories.engine).log_file, "lines": found})
    for line in found:
        app.out.line(line)
    if not found:
        app.out.note("engine.no-log")


@command("serve")
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="N")
@click.option("--host", default=daemon.LOOPBACK, metavar="ADDRESS")
def serve(app: App, port: int, host: str) -> None:
    """Run the engine in the foreground until Ctrl-C."""
    _warn_exposed(app, host)

    def ready(url: str) -> None:
        app.out.report({"url": url})
        app.out.say("engine.serving", url=url)

    daemon.serve(app.directories.engine, host=host, port=port, on_ready=ready)


def _warn_exposed(app: App, host: str) -> None:
    if not daemon.is_loopback(host):
        app.out.warn("engine.exposed", host=host)


def _rows(app: App, status: Status) -> list[tuple[str, object]]:
    return [
        (app.out.text("engine.row-url"), status.url),
        (app.out.text("engine.row-api-key-file"), status.api_key_file),
        (app.out.text("engine.row-pid"), status.pid),
        (app.out.text("engine.row-version"), status.version),
        (app.out.text("engine.row-uptime"), timedelta(seconds=round(status.uptime_seconds))),
        (app.out.text("engine.row-models"), ", ".join(status.models) or "-"),
        (app.out.text("engine.row-log-file"), status.log_file),
    ]
