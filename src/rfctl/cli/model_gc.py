"""`rfctl model gc`: free the space of files that no model uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.output import human_bytes
from rfctl.core.error import RfctlError, UsageError

if TYPE_CHECKING:
    from rfctl.ollama.garbage import Leftover
    from rfctl.ollama.store import ModelStore


@command("gc")
@click.option("--dry-run", is_flag=True)
@click.option("--store", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--yes", is_flag=True)
def gc(app: App, dry_run: bool, store: Path | None, yes: bool) -> None:
    """Only files older than an hour go: a younger one may belong to a push that runs."""
    from rfctl.cli.consent import confirm
    from rfctl.ollama.direct import check_owner
    from rfctl.ollama.garbage import find_garbage, remove_garbage

    found = _find_store(app, store)
    try:
        garbage = find_garbage(found)
        removed: tuple[Leftover, ...] = ()
        for item in garbage.removable:
            app.out.line(f"{human_bytes(item.size):>10}  {item.path.name}")
        if garbage.unreadable:
            app.out.warn("gc.unreadable", path=garbage.unreadable[0], count=len(garbage.unreadable))
        if garbage.removable and not dry_run:
            check_owner(found.root)
            size, count = human_bytes(garbage.size), len(garbage.removable)
            confirm(app, app.out.text("gc.action", path=found.root, count=count, size=size), yes=yes)
            removed = remove_garbage(found, garbage.removable)
    except OSError as error:
        raise RfctlError("gc.failed", path=found.root, detail=error.strerror or str(error)) from error
    app.out.report(
        {
            "store": found.root,
            "dry_run": dry_run,
            "size": garbage.size,
            "garbage": garbage.removable,
            "young": garbage.young,
            "unreadable": garbage.unreadable,
            "removed": [item.path for item in removed],
        }
    )
    if garbage.young and not garbage.unreadable:
        app.out.note("gc.young", count=len(garbage.young))
    if removed:
        app.out.say("gc.removed", count=len(removed), size=human_bytes(sum(item.size for item in removed)))
    elif not garbage.removable:
        app.out.say("gc.nothing", path=found.root)


def _find_store(app: App, given: Path | None) -> ModelStore:
    from rfctl.cli.model_store import configured_store
    from rfctl.ollama.direct import find_store
    from rfctl.ollama.store import ModelStore

    root = configured_store(app, given)
    if root is None:
        with app.ollama() as client:
            return find_store(client)
    if given is not None and not (given / "blobs").is_dir():
        raise UsageError("gc.no-store", path=given)
    return ModelStore(root)
