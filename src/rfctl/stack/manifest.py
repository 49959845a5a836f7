"""The manifest of a backup: what is in its folder, checked before anything is believed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfctl.core.error import RfctlError
from rfctl.core.file import sha256_file
from rfctl.core.progress import SILENT, Reporter
from rfctl.stack.project import parse_env

MANIFEST, SETTINGS = "manifest.json", "stack.env"
FORMAT = 1
MAX_MANIFEST = 1 << 20
_VOLUME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,400}")


@dataclass(frozen=True)
class Archive:
    """One volume. size: bytes of the file; content: bytes of the tar stream inside."""

    volume: str
    file: str
    sha256: str
    size: int
    content: int


@dataclass(frozen=True)
class Manifest:
    """made: ISO-8601 UTC; images: by service, those that wrote the data."""

    folder: Path
    project: str
    made: str
    rfctl: str
    engine: str
    images: Mapping[str, str]
    archives: tuple[Archive, ...]


def read_backup(folder: Path, *, reporter: Reporter = SILENT) -> Manifest:
    """The manifest, after the hash of every archive was compared. Raises RfctlError `stack.backup-broken`."""

    def broken(detail: str) -> RfctlError:
        return RfctlError("stack.backup-broken", path=folder, detail=detail)

    try:
        with (folder / MANIFEST).open("rb") as file:
            manifest = _parse(folder, json.loads(file.read(MAX_MANIFEST)))
        parse_env((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise broken(str(error)) from error
    for archive in manifest.archives:
        path = folder / archive.file
        with reporter.stage("stack.comparing", total=archive.size, volume=archive.volume) as stage:
            try:
                if path.stat().st_size != archive.size:
                    raise broken(f"{archive.file}: {path.stat().st_size} != {archive.size} bytes")
                digest = sha256_file(path, stage.advance)
            except OSError as error:
                raise broken(str(error)) from error
        if digest != archive.sha256:
            raise broken(f"{archive.file}: sha256 {digest}")
    return manifest


def dump_manifest(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`."""
    document = {
        "schema_version": FORMAT,
        "project": manifest.project,
        "made": manifest.made,
        "rfctl": manifest.rfctl,
        "engine": manifest.engine,
        "images": dict(manifest.images),
        "archives": [vars(archive) for archive in manifest.archives],
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def _parse(folder: Path, document: Any) -> Manifest:
    """Names become files and arguments, so they are held to a form.

    Raises ValueError, KeyError, TypeError, AttributeError.
    """
    if document["schema_version"] != FORMAT:
        raise ValueError(f"schema_version {document['schema_version']}")
    archives = []
    for entry in document["archives"]:
        name = str(entry["volume"])
        if not _VOLUME.fullmatch(name) or entry["file"] != f"{name}.tar.gz":
            raise ValueError(f"volume {name!r}")
        archives.append(
            Archive(name, f"{name}.tar.gz", str(entry["sha256"]), int(entry["size"]), int(entry["content"]))
        )
    if not archives or len({archive.volume for archive in archives}) != len(archives):
        raise ValueError("archives")
    images = {str(service): str(image) for service, image in document["images"].items()}
    if strange := [image for image in images.values() if not _IMAGE.fullmatch(image)]:
        raise ValueError(f"image {strange[0]!r}")
    made, version, engine = (str(document[name]) for name in ("made", "rfctl", "engine"))
    return Manifest(folder, str(document["project"]), made, version, engine, images, tuple(archives))
