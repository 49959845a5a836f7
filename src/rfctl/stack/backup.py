"""Backup and restore of everything the stack keeps: its volumes, its settings, the images that wrote them.

A backup is a folder: `manifest.json`, one `NAME.tar.gz` for each volume, `stack.env`. It is written under
another name and renamed when it is whole. Databases are stopped meanwhile: the files of one that runs do not
fit together.
"""

from __future__ import annotations

import datetime as dt
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rfctl.core.error import RfctlError, UsageError
from rfctl.core.file import sync_directory, write_atomic
from rfctl.core.progress import SILENT, Reporter
from rfctl.core.version import __version__
from rfctl.stack.claim import note_claim
from rfctl.stack.compose import Compose
from rfctl.stack.container import find_running, start_containers, stop_containers
from rfctl.stack.image import inspect_project, running_images, wanted_images
from rfctl.stack.image_lock import remove_lock, write_lock
from rfctl.stack.manifest import MANIFEST, SETTINGS, Archive, Manifest, dump_manifest
from rfctl.stack.project import Project, parse_env
from rfctl.stack.unfinished import clear_part, clear_stop, forget_stop, hold, note_stop
from rfctl.stack.volume import (
    Volume,
    fetch_image,
    find_image,
    is_empty,
    list_volumes,
    load,
    make_volume,
    remove_helpers,
    save,
)
from rfctl.stack.volume import docker as call_docker

# Settings of a machine, not of the data: they stay as they are here.
_OF_THE_MACHINE = re.compile(
    r"RFCTL_(PROJECT|SIZE|BIND|HOST_GATEWAY|TLS_\w+|\w+_PORT)|\w+_MEM_LIMIT|TZ|HF_ENDPOINT|OLLAMA_\w+"
)


@dataclass(frozen=True)
class Restored:
    """settings: "written", "kept" or "changed"; locked: the images of the backup are used from now on."""

    project: str
    volumes: tuple[str, ...]
    settings: str
    locked: bool


def backup(
    compose: Compose,
    folder: Path,
    *,
    skip: tuple[str, ...] = (),
    resume: bool = True,
    reporter: Reporter = SILENT,
) -> Manifest:
    """Write a backup to `folder`, which must not exist; containers that run are stopped and started again.

    skip: volumes that are left out; resume: whether to start the containers again after success (if not, the
    note that they are stopped stays until `lifecycle.up`).
    Containers that a backup left stopped when it was killed are started again too.
    Raises UsageError `stack.volume-unknown`, RefusedError `stack.busy`, RfctlError `stack.backup-exists`,
    `stack.backup-nothing`, `stack.unwritable` and those of `volume.save`; then nothing is left behind.
    """
    with hold(compose.project):
        return _backup(compose, folder, skip, resume, reporter)


def _backup(
    compose: Compose, folder: Path, skip: tuple[str, ...], resume: bool, reporter: Reporter
) -> Manifest:
    name, environment, project = compose.name, compose.environment, compose.project
    if folder.exists():
        raise RfctlError("stack.backup-exists", path=folder)
    volumes = list_volumes(name, environment)
    if strange := set(skip) - {volume.name for volume in volumes}:
        known = ", ".join(volume.name for volume in volumes) or "-"
        raise UsageError("stack.volume-unknown", name=min(strange), known=known)
    volumes = [volume for volume in volumes if volume.name not in skip]
    if not volumes:
        raise RfctlError("stack.backup-nothing", name=name)
    images = running_images(compose) or wanted_images(compose)
    remove_helpers(name, environment)
    helper = find_image([*_present_images(name, environment), *images.values()], environment)
    engine = call_docker(environment, "version", "--format", "{{.Server.Version}}").strip()
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        # First, because the part of the one that was cut off may have the same name. Its note stays until the
        # next one names its containers too.
        before = clear_part(project)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, mode=0o700)
        running = find_running(name, environment, also=before.containers if before else ())
        note_stop(project, partial, running.ids)
        done = False
        try:
            stop_containers(running, environment, reporter=reporter)
            archives = []
            for volume in volumes:
                file = f"{volume.name}.tar.gz"
                with reporter.stage("stack.saving", volume=volume.name) as stage:
                    saved = save(volume, partial / file, helper, name, environment, stage.advance)
                archives.append(Archive(volume.name, file, saved.sha256, saved.size, saved.content))
            manifest = Manifest(
                folder=folder,
                project=name,
                made=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
                rfctl=__version__,
                engine=engine,
                images=images,
                archives=tuple(archives),
            )
            write_atomic(partial / SETTINGS, project.env_file.read_bytes(), mode=0o600)
            write_atomic(partial / MANIFEST, dump_manifest(manifest), mode=0o600)
            partial.rename(folder)
            sync_directory(folder.parent)
            done = True
        finally:
            if running and (resume or not done):
                start_containers(running, environment, reporter=reporter)
            if resume or not done:
                forget_stop(project)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise RfctlError("stack.unwritable", path=folder, detail=str(error)) from error
        raise
    return manifest


def occupied_volumes(manifest: Manifest, project: str, environment: Mapping[str, str]) -> list[Volume]:
    """The volumes of `project` that hold data and that a restore would replace. Raises RfctlError."""
    names = {archive.volume for archive in manifest.archives}
    volumes = [volume for volume in list_volumes(project, environment) if volume.name in names]
    if not volumes:
        return []
    helper = _helper_image(manifest, project, environment)
    return [volume for volume in volumes if not is_empty(volume, helper, project, environment)]


def restore(compose: Compose, manifest: Manifest, *, reporter: Reporter = SILENT) -> Restored:
    """Replace the project's volumes by those of the backup, and settings that belong to the data.

    The stack is down afterwards. When it is cut off, `up` refuses until a restore has ended.
    Raises RefusedError `stack.busy`, RfctlError as `volume.load` does, `stack.unwritable`.
    """
    with hold(compose.project):
        return _restore(compose, manifest, reporter)


def _restore(compose: Compose, manifest: Manifest, reporter: Reporter) -> Restored:
    project, environment = compose.project, compose.environment
    try:
        project.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(project.unfinished_file, f"{manifest.folder}\n".encode(), mode=0o600)
        settings = _restore_settings(project, manifest.folder)
        note_claim(project)
        name = compose.name
        helper = _helper_image(manifest, name, environment)
        remove_helpers(name, environment)
        clear_stop(project)
        if running := find_running(name, environment):
            stop_containers(running, environment, reporter=reporter)
        if ids := [str(entry["Id"]) for entry in inspect_project(name, environment)]:
            call_docker(environment, "rm", "-f", *ids)
        have = {volume.name: volume for volume in list_volumes(name, environment)}
        for archive in manifest.archives:
            if old := have.get(archive.volume):
                call_docker(environment, "volume", "rm", old.full)
            volume = make_volume(name, archive.volume, environment)
            with reporter.stage("stack.restoring", total=archive.size, volume=archive.volume) as stage:
                source = manifest.folder / archive.file
                load(volume, source, helper, name, environment, stage.advance)
        locked = _lock_images(compose, manifest)
        project.unfinished_file.unlink()
    except OSError as error:
        raise RfctlError("stack.unwritable", path=project.directory, detail=str(error)) from error
    return Restored(name, tuple(archive.volume for archive in manifest.archives), settings, locked)


def _restore_settings(project: Project, folder: Path) -> str:
    """Databases keep the passwords of their first start, so those come with the data."""
    theirs_text = (folder / SETTINGS).read_text(encoding="utf-8")
    if not project.is_initialised:
        write_atomic(project.env_file, theirs_text.encode(), mode=0o600)
        return "written"
    ours, theirs = project.read(), parse_env(theirs_text)
    merged = {name: value for name, value in ours.items() if _OF_THE_MACHINE.fullmatch(name)}
    merged = theirs | merged
    if merged == ours:
        return "kept"
    old = project.env_file.with_name(project.env_file.name + ".before-restore")
    write_atomic(old, project.env_file.read_bytes(), mode=0o600)
    text = "".join(f"{name}={value}\n" for name, value in merged.items())
    write_atomic(project.env_file, text.encode(), mode=0o600)
    return "changed"


def _lock_images(compose: Compose, manifest: Manifest) -> bool:
    """Data fits the images that wrote it: name them where the files name others."""
    project = compose.project
    remove_lock(project)
    project.images_file.unlink(missing_ok=True)
    wanted = wanted_images(compose)
    images = {name: image for name, image in manifest.images.items() if name in wanted}
    if all(wanted[name] == image for name, image in images.items()):
        return False
    write_lock(project, images)
    return True


def _helper_image(manifest: Manifest, project: str, environment: Mapping[str, str]) -> str:
    """A new machine has none of them: then the smallest, Redis, is downloaded."""
    names = sorted(manifest.images, key=lambda service: service != "redis")
    images = [manifest.images[name] for name in names]
    return fetch_image([*_present_images(project, environment), *images], environment)


def _present_images(project: str, environment: Mapping[str, str]) -> list[str]:
    return [str(entry["Image"]) for entry in inspect_project(project, environment)]
