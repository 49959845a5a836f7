"""`rfctl stack backup` and `rfctl stack restore`."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.consent import confirm
from rfctl.cli.stack_context import stack_compose, stack_project
from rfctl.stack.backup import backup, occupied_volumes, restore
from rfctl.stack.manifest import Manifest, read_backup
from rfctl.stack.project import Project


@command("backup")
@click.argument("folder", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--skip", multiple=True, metavar="VOLUME")
def save(app: App, folder: Path | None, skip: tuple[str, ...]) -> None:
    """Stops the containers meanwhile. The folder holds the passwords too, for you alone to read."""
    compose = stack_compose(app)
    target = folder.absolute() if folder else new_folder(compose.project)
    manifest = backup(compose, target, skip=skip, reporter=app.reporter())
    app.out.report(document(manifest))
    rows = [
        (archive.volume, archive.content, archive.size, archive.sha256[:12]) for archive in manifest.archives
    ]
    app.out.table(
        [
            app.out.text("output.column-volume"),
            app.out.text("output.column-bytes"),
            app.out.text("output.column-stored"),
            app.out.text("output.column-sha256"),
        ],
        rows,
    )
    app.out.say("stack.backed-up", path=target)
    app.out.note("stack.backup-secret", path=target)


@command("restore")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--yes", is_flag=True)
def load(app: App, folder: Path, yes: bool) -> None:
    """Compares every hash first. The stack is down afterwards."""
    compose = stack_compose(app)
    manifest = read_backup(folder.absolute(), reporter=app.reporter())
    project = stack_project(app)
    name = compose.name if project.is_initialised else manifest.project
    if held := occupied_volumes(manifest, name, dict(os.environ)):
        volumes = ", ".join(volume.full for volume in held)
        confirm(app, app.out.text("stack.restore-plan", volumes=volumes, made=manifest.made), yes=yes)
    done = restore(compose, manifest, reporter=app.reporter())
    app.out.report(done)
    app.out.say("stack.restored", volumes=", ".join(done.volumes), made=manifest.made)
    if done.settings == "changed":
        app.out.note("stack.restored-settings", path=project.env_file)
    if done.locked:
        app.out.note("stack.restored-images", path=project.lock_file)
    app.out.note("stack.next-up")


def new_folder(project: Project) -> Path:
    """A folder of its own for this second, beside the stack's settings."""
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    return project.directory / "backup" / stamp


def document(manifest: Manifest) -> dict[str, object]:
    return {**vars(manifest), "archives": [vars(archive) for archive in manifest.archives]}
