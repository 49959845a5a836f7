"""From the images that run to those of this rfctl, with a backup in front; and images held by digest.

RAGFlow migrates its own tables when it starts (`--init-superuser`, `--init-model-provider-tables` in
compose.yaml, RAGFlow v0.27 entrypoint), so the way back is the backup: `restore` brings its images along.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import yaml

from rfctl.core.error import RefusedError, RfctlError
from rfctl.core.progress import SILENT, Reporter
from rfctl.stack.backup import backup
from rfctl.stack.check_docker import service_name
from rfctl.stack.compose import Compose
from rfctl.stack.image import Change, changes, inspect_project, running_images, wanted_images
from rfctl.stack.image_lock import remove_lock, write_lock
from rfctl.stack.lifecycle import UP_SECONDS, Status, up
from rfctl.stack.volume import pull_images


@dataclass(frozen=True)
class Upgraded:
    """backup: None when none was wanted."""

    changes: tuple[Change, ...]
    backup: Path | None
    status: Status


def plan_upgrade(compose: Compose) -> tuple[Change, ...]:
    """What would change; () when nothing does or nothing was ever started.

    Raises RefusedError `stack.downgrade` where an older version would meet newer data.
    """
    found = changes(running_images(compose), wanted_images(_unlocked(compose)))
    if back := [change for change in found if change.direction == "down"]:
        raise RefusedError(
            "stack.downgrade", service=back[0].service, before=back[0].before, after=back[0].after
        )
    return found


def upgrade(
    compose: Compose, *, folder: Path | None, timeout: float = UP_SECONDS, reporter: Reporter = SILENT
) -> Upgraded:
    """Download, back up to `folder` (None: no backup), start the new images, wait until all is healthy.

    Nothing has changed when the download or the backup fails. Raises RfctlError `stack.upgrade-failed` when
    the new images do not get healthy, and those of `backup` and `up`.
    """
    found = plan_upgrade(compose)
    # Executors of `up --executors` are upgraded along, as many as there are.
    executors = sum(
        service_name(entry) == "executor" for entry in inspect_project(compose.name, compose.environment)
    )
    fresh = _unlocked(compose)
    if executors and "executors" not in (*compose.extra, *compose.project.addons()):
        fresh = dataclasses.replace(fresh, extra=(*fresh.extra, "executors"))
    pull_images(wanted_images(fresh).values(), compose.environment, reporter=reporter)
    if folder is not None:
        backup(compose, folder, resume=False, reporter=reporter)
    unpin(compose)
    try:
        status = up(fresh, timeout=timeout, executors=executors, is_upgrade=True, reporter=reporter)
    except RfctlError as error:
        raise RfctlError(
            "stack.upgrade-failed",
            detail=error.text("en").message,
            path=folder or "-",
            exit_code=error.exit_code,
        ) from error
    # What our own backup left stopped was left on purpose.
    return Upgraded(found, folder, dataclasses.replace(status, cut_off=""))


def pin(compose: Compose) -> dict[str, str]:
    """Hold every image by the digest that the registry names now; from then on `up` uses exactly those, for
    executors RAGFlow's.

    Returns image by service. Raises RfctlError (`stack.image-offline`, `stack.image-missing`, ...).
    """
    try:
        text = _unlocked(compose).ask("config", "--lock-image-digests", timeout=300)
    except RfctlError as error:
        if error.id == "stack.old-compose":
            raise RfctlError("stack.pin-compose", detail=error.params.get("detail", "-")) from error
        raise
    document = yaml.safe_load(text) or {}
    images = {
        str(name): str(entry["image"])
        for name, entry in (document.get("services") or {}).items()
        if "@sha256:" in str(entry.get("image", ""))
    }
    if not images:
        raise RfctlError("stack.pin-nothing")
    try:
        return write_lock(compose.project, images)
    except OSError as error:
        raise RfctlError("stack.unwritable", path=compose.project.lock_file, detail=str(error)) from error


def unpin(compose: Compose) -> bool:
    """Forget what is held. False when nothing was. Raises RfctlError `stack.unwritable`."""
    try:
        return remove_lock(compose.project)
    except OSError as error:
        raise RfctlError("stack.unwritable", path=compose.project.lock_file, detail=str(error)) from error


def _unlocked(compose: Compose) -> Compose:
    return dataclasses.replace(compose, is_locked=False)
