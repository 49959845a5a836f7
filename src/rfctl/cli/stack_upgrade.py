"""`rfctl stack upgrade` and `rfctl stack pin`."""

from __future__ import annotations

from pathlib import Path

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.consent import confirm
from rfctl.cli.stack_backup import new_folder
from rfctl.cli.stack_context import print_services, stack_compose
from rfctl.stack import lifecycle, upgrade
from rfctl.stack.image import running_images


@command("upgrade")
@click.option("--backup", "folder", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER")
@click.option("--no-backup", is_flag=True)
@click.option(
    "--timeout", type=click.IntRange(1, 86400), default=int(lifecycle.UP_SECONDS), metavar="SECONDS"
)
@click.option("--dry-run", is_flag=True)
@click.option("--yes", is_flag=True)
def run(app: App, folder: Path | None, no_backup: bool, timeout: int, dry_run: bool, yes: bool) -> None:
    """Backs up first; RAGFlow migrates its tables at the first start of the new image."""
    compose = stack_compose(app)
    changes = upgrade.plan_upgrade(compose)
    if not changes or dry_run:
        app.out.report({"changes": changes, "backup": None, "status": None})
        if changes:
            rows = [(item.service, item.before, item.after) for item in changes]
            app.out.table(
                [
                    app.out.text("output.column-service"),
                    app.out.text("output.column-from"),
                    app.out.text("output.column-to"),
                ],
                rows,
            )
        else:
            app.out.say("stack.upgrade-none" if running_images(compose) else "stack.upgrade-never")
        return
    steps = "; ".join(f"{item.service}: {item.before} -> {item.after}" for item in changes)
    confirm(app, app.out.text("stack.upgrade-plan", steps=steps), yes=yes)
    target = None if no_backup else (folder.absolute() if folder else new_folder(compose.project))
    done = upgrade.upgrade(compose, folder=target, timeout=timeout, reporter=app.reporter())
    app.out.report(done)
    print_services(app, done.status)
    app.out.say("stack.upgraded", url=done.status.web_url)
    if target is not None:
        app.out.note("stack.upgrade-back", path=target)


@command("pin")
@click.option("--remove", is_flag=True)
def pin(app: App, remove: bool) -> None:
    """Asks the registries for the digest of every image, so it needs them in reach."""
    compose = stack_compose(app)
    path = compose.project.lock_file
    if remove:
        removed = upgrade.unpin(compose)
        app.out.report({"path": path, "images": {}, "removed": removed})
        app.out.say("stack.unpinned" if removed else "stack.pin-absent", path=path)
        return
    images = upgrade.pin(compose)
    app.out.report({"path": path, "images": images, "removed": False})
    app.out.table(
        [app.out.text("output.column-service"), app.out.text("output.column-image")], sorted(images.items())
    )
    app.out.say("stack.pinned", path=path)
