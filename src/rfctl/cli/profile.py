"""`rfctl profile`: names for pairs of servers."""

from __future__ import annotations

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.config import change, check_address, edit
from rfctl.core.error import UsageError
from rfctl.core.near import find_near
from rfctl.core.setting import EMBEDDED, Profile


@command("ls")
def ls(app: App) -> None:
    """List the profiles; the one in use is marked."""
    # The list is also how somebody finds out of a profile that is not there any more.
    used = app.settings.get("profile") or app.settings.endpoints().name
    profiles = [Profile(EMBEDDED), *app.settings.profiles.values()]
    app.out.records({**vars(profile), "used": profile.name == used} for profile in profiles)
    rows = [
        ("*" if p.name == used else "", p.name, p.ollama_url or EMBEDDED, p.ragflow_url or EMBEDDED)
        for p in profiles
    ]
    app.out.table(
        [
            "",
            app.out.text("output.column-name"),
            app.out.text("output.column-ollama"),
            app.out.text("output.column-ragflow"),
        ],
        rows,
    )


@command("add")
@click.argument("name")
@click.option("--ollama", "ollama_url", metavar="URL")
@click.option("--ragflow", "ragflow_url", metavar="URL")
def add(app: App, name: str, ollama_url: str | None, ragflow_url: str | None) -> None:
    """Add or change a profile; a server that is left out is the embedded engine."""
    _check_name(name)
    path = app.settings.user_file
    for url in (ollama_url, ragflow_url):
        if url is not None:
            check_address(url, needs_scheme=True)
    changed = edit(path, f"profiles.{name}.ollama_url", ollama_url or "")
    changed = edit(path, f"profiles.{name}.ragflow_url", ragflow_url or "") or changed
    app.out.result(Profile(name, ollama_url or "", ragflow_url or ""))
    if changed:
        app.out.say("profile.added", profile=name, path=path)
    else:
        app.out.say("config.unchanged", key=f"profiles.{name}", path=path)


@command("use")
@click.argument("name")
def use(app: App, name: str) -> None:
    """Use a profile from now on."""
    if name != EMBEDDED and name not in app.settings.profiles:
        known = ", ".join([EMBEDDED, *app.settings.profiles])
        near = find_near(name, [EMBEDDED, *app.settings.profiles])
        raise UsageError("config.profile-unknown", profile=name, known=known, near=near)
    change(app, "profile", name)


@command("rm")
@click.argument("name")
def rm(app: App, name: str) -> None:
    """Remove a profile (the servers are not touched)."""
    _check_name(name)
    if name not in app.settings.profiles:
        known = ", ".join([EMBEDDED, *app.settings.profiles])
        near = find_near(name, [EMBEDDED, *app.settings.profiles])
        raise UsageError("config.profile-unknown", profile=name, known=known, near=near)
    path = app.settings.user_file
    if app.settings.get("profile") == name:
        edit(path, "profile", None)
    edit(path, f"profiles.{name}", None)
    app.out.result({"profile": name, "removed": True})
    app.out.say("profile.removed", profile=name)


def _check_name(name: str) -> None:
    if name == EMBEDDED:
        raise UsageError("profile.reserved", profile=name)
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError("profile.name-invalid", profile=name)
