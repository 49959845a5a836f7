"""`rfctl config`: show where each setting comes from, set and unset values of the user file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.core.error import UsageError
from rfctl.core.file import write_atomic
from rfctl.core.near import find_near
from rfctl.core.setting import EMBEDDED, KEYS, check_key, resolve

_SCHEMES = ("http", "https")


@command("show")
@click.option("--origin", is_flag=True)
def show(app: App, origin: bool) -> None:
    """Show every setting with its value."""
    values = list(app.settings.values.values())
    app.out.report(
        {"settings": values, "user_file": app.settings.user_file, "project_file": app.settings.project_file}
    )
    if origin:
        default = app.out.text("config.origin-default")
        app.out.table(
            [
                app.out.text("output.column-setting"),
                app.out.text("output.column-value"),
                app.out.text("output.column-origin"),
            ],
            [(v.name, v.value or "-", default if v.origin == "default" else v.origin) for v in values],
        )
    else:
        app.out.table(
            [app.out.text("output.column-setting"), app.out.text("output.column-value")],
            [(v.name, v.value or "-") for v in values],
        )


@command("set")
@click.argument("key")
@click.argument("value")
def set_value(app: App, key: str, value: str) -> None:
    """Write a setting into the user file."""
    check_key(key)
    _check_value(app, key, value)
    change(app, key, value)


@command("unset")
@click.argument("key")
def unset(app: App, key: str) -> None:
    """Remove a setting from the user file."""
    check_key(key)
    change(app, key, None)


def _check_value(app: App, key: str, value: str) -> None:
    """Refuse what would leave every later command with an error."""
    if key == "profile" and value != EMBEDDED and value not in app.settings.profiles:
        known = ", ".join([EMBEDDED, *app.settings.profiles])
        near = find_near(value, [EMBEDDED, *app.settings.profiles])
        raise UsageError("config.profile-unknown", profile=value, known=known, near=near)
    choices = {one.name: one.choices for one in KEYS}.get(key, ())
    if key == "language" and not value.lower().startswith(("en", "zh")):
        choices = ("en", "zh")
    if choices and value not in choices:
        raise UsageError("config.value-choice", key=key, value=value, choices=", ".join(choices))
    if key == "hub.endpoint":
        check_address(value, needs_scheme=True)
    elif key.endswith(("url", "endpoint")):
        check_address(value)


def check_address(url: str, *, needs_scheme: bool = False) -> None:
    """Refuse what is no address, and a password in one: a settings file is no place for secrets.

    Raises UsageError `profile.url-invalid`, `config.url-secret` (which does not repeat it).
    """
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    authority, _, path = rest.partition("/")
    login, _, host = authority.rpartition("@")
    if login:
        raise UsageError("config.url-secret", url=f"{scheme}{separator}{host}/{path}".rstrip("/"))
    if needs_scheme and scheme.lower() not in _SCHEMES:
        raise UsageError("profile.url-invalid", url=url)


def change(app: App, key: str, value: str | None) -> None:
    """Set (or with None remove) `key` in the user file, keeping its comments, and say what was done."""
    path = app.settings.user_file
    changed = edit(path, key, value)
    resolve({}, {}, path.parent, path.parent)
    app.out.result({"key": key, "value": value, "path": path, "changed": changed})
    if not changed:
        app.out.say("config.unchanged", key=key, path=path)
    elif value is None:
        app.out.say("config.unset", key=key, path=path)
    else:
        app.out.say("config.set", key=key, value=value, path=path)


def edit(path: Path, key: str, value: str | None) -> bool:
    import tomlkit

    document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
    *parents, leaf = key.split(".")
    table: Any = document
    for name in parents:
        if name not in table:
            if value is None:
                return False
            table[name] = tomlkit.table()
        table = table[name]
    if value is None:
        if leaf not in table:
            return False
        del table[leaf]
    else:
        if table.get(leaf) == value:
            return False
        table[leaf] = value
    write_atomic(path, tomlkit.dumps(document).encode())
    return True
