"""`rfctl auth`: keep the API key of a RAGFlow server. The key comes from a prompt or standard input."""

from __future__ import annotations

import sys

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.core.credential import forget_ragflow_key, store_ragflow_key
from rfctl.core.error import UsageError

SERVICES = click.Choice(["ragflow"])


@command("login")
@click.argument("service", type=SERVICES, default="ragflow")
def login(app: App, service: str) -> None:
    """Store the API key of a server; it is read from a prompt, or from standard input in a pipe."""
    url = _url(app)
    if sys.stdin.isatty():
        key = click.prompt(app.out.text("auth.prompt", url=url), hide_input=True, err=True)
    else:
        key = sys.stdin.readline()
    key = key.strip().strip("\"'")
    if not key.startswith("ragflow-") or any(char.isspace() for char in key):
        raise UsageError("auth.key-malformed")
    path = store_ragflow_key(url, key, app.directories.config)
    app.out.result({"url": url, "path": path})
    app.out.say("auth.stored", url=url, path=path)


@command("logout")
@click.argument("service", type=SERVICES, default="ragflow")
def logout(app: App, service: str) -> None:
    """Remove the stored API key of a server."""
    url = _url(app)
    removed = forget_ragflow_key(url, app.directories.config)
    app.out.result({"url": url, "removed": removed})
    app.out.say("auth.forgotten" if removed else "auth.absent", url=url)


def _url(app: App) -> str:
    url = app.settings.endpoints().ragflow_url
    if not url:
        raise UsageError("auth.embedded")
    return url
