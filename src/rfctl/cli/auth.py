"""`rfctl auth`: keep the API key of a RAGFlow server, from a pipe, the environment or a prompt."""

from __future__ import annotations

import sys

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.ragflow_model import read_secret
from rfctl.core.credential import RAGFLOW_VARIABLES, forget_ragflow_key, store_ragflow_key
from rfctl.core.error import AuthError, RfctlError, UsageError

SERVICES = click.Choice(["ragflow"])


@command("login")
@click.argument("service", type=SERVICES, default="ragflow")
def login(app: App, service: str) -> None:
    """Store the API key of a server: from a pipe, from RAGFLOW_API_KEY (or its _FILE form), or a prompt."""
    url = _url(app)
    key = "" if sys.stdin.isatty() else sys.stdin.readline()
    key = key.strip() or read_secret(*RAGFLOW_VARIABLES)
    if not key and sys.stdin.isatty():
        key = click.prompt(app.out.text("auth.prompt", url=url), hide_input=True, err=True)
    key = key.strip().strip("\"'")
    if not key.startswith("ragflow-") or any(char.isspace() for char in key):
        raise UsageError("auth.key-malformed")
    checked = _try_key(app, url, key)
    stored = store_ragflow_key(url, key, app.directories.config, keyring=app.settings.uses_keyring)
    if stored.problem:
        app.out.warn("auth.keyring-failed", path=stored.place, detail=stored.problem)
    problem = stored.problem or None
    app.out.result({"url": url, "path": stored.place, "checked": checked, "keyring_problem": problem})
    app.out.say("auth.stored", url=url, path=stored.place)


def _try_key(app: App, url: str, key: str) -> bool:
    """Whether the server took the key; one that cannot be asked now leaves it open.

    Raises AuthError for a key that it refuses.
    """
    from rfctl.ragflow_client.transport import Api

    try:
        with Api(url, key, retries=0) as api:
            api.call("GET", "/datasets", params={"page": 1, "page_size": 1})
    except AuthError:
        raise
    except RfctlError as error:
        app.out.warn("auth.unchecked", url=url, detail=error.text(app.language).message)
        return False
    return True


@command("logout")
@click.argument("service", type=SERVICES, default="ragflow")
def logout(app: App, service: str) -> None:
    """Remove the stored API key of a server."""
    url = _url(app)
    removed = forget_ragflow_key(url, app.directories.config, keyring=app.settings.uses_keyring)
    app.out.result({"url": url, "removed": removed})
    app.out.say("auth.forgotten" if removed else "auth.absent", url=url)


def _url(app: App) -> str:
    url = app.settings.endpoints().ragflow_url
    if not url:
        raise UsageError("auth.embedded")
    return url
