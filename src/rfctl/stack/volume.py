"""The bytes of a volume, in and out of the engine, as a tar stream.

`docker cp` reads and writes through a helper container that is created and never started, so any image will
do that is present: nothing runs, no program of the image is needed, and owners, modes and links are kept.
The archive holds one folder, `volume/`: owner and mode of the volume's own root would be lost otherwise.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tarfile
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rfctl.core.error import RfctlError, UnreachableError
from rfctl.core.progress import SILENT, Reporter
from rfctl.stack.check_docker import json_lines
from rfctl.stack.child import Capture, decode, run
from rfctl.stack.compose import QUICK_SECONDS, explain

STALL_SECONDS = 300.0
# For one image: 2 GB at a slow line.
PULL_SECONDS = 7200.0
PIECE = 1 << 20
_HELPER = "rfctl.helper"
_GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True)
class Volume:
    """name: as in the compose file, "mysql_data"; full: the engine's name, "rfctl_mysql_data"."""

    name: str
    full: str


@dataclass(frozen=True)
class Saved:
    """sha256 and size (bytes) of the compressed archive, content: bytes of the tar stream in it."""

    sha256: str
    size: int
    content: int


def docker(environment: Mapping[str, str], *arguments: str, timeout: float = QUICK_SECONDS) -> str:
    """Standard output of a docker command. Raises RfctlError."""
    found = run(["docker", *arguments], timeout=timeout, environment=environment)
    if not found.is_ok:
        raise explain(found, timeout=timeout)
    return found.out


def list_volumes(project: str, environment: Mapping[str, str]) -> list[Volume]:
    """The volumes that Compose made for `project`, by name. Raises RfctlError."""
    label = f"label=com.docker.compose.project={project}"
    found = []
    for row in json_lines(docker(environment, "volume", "ls", "--filter", label, "--format", "{{json .}}")):
        labels = dict(part.partition("=")[::2] for part in str(row.get("Labels", "")).split(","))
        if name := labels.get("com.docker.compose.volume"):
            found.append(Volume(name, str(row["Name"])))
    return sorted(found, key=lambda volume: volume.name)


def make_volume(project: str, name: str, environment: Mapping[str, str]) -> Volume:
    """A fresh volume with the labels by which Compose takes it for its own. Raises RfctlError."""
    full = f"{project}_{name}"
    labels = {"project": project, "volume": name}
    options = [
        part for key, value in labels.items() for part in ("--label", f"com.docker.compose.{key}={value}")
    ]
    docker(environment, "volume", "create", *options, full)
    return Volume(name, full)


def find_image(candidates: Sequence[str], environment: Mapping[str, str]) -> str:
    """The first image that is present. Raises RfctlError `stack.no-helper-image`."""
    for image in candidates:
        if id := image_id(image, environment):
            return id
    raise RfctlError("stack.no-helper-image")


def image_id(image: str, environment: Mapping[str, str]) -> str:
    """The id of an image that is present, else "". Raises RfctlError."""
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", image]
    found = run(command, timeout=QUICK_SECONDS, environment=environment)
    if not found.is_ok and "no such image" not in found.text.lower():
        raise explain(found, timeout=QUICK_SECONDS)
    return found.out.strip() if found.is_ok else ""


def pull_images(
    images: Collection[str], environment: Mapping[str, str], *, reporter: Reporter = SILENT
) -> None:
    """Download those that are not present, one after the other; "" is one that Compose builds.

    Raises RfctlError.
    """
    missing = [image for image in dict.fromkeys(images) if image and not image_id(image, environment)]
    if not missing:
        return
    with reporter.stage("stack.pulling", total=len(missing), unit="items") as stage:
        for number, image in enumerate(missing):
            stage.update(done=number, detail=image)
            _pull(image, environment)
            stage.update(done=number + 1, detail=image)


def _pull(image: str, environment: Mapping[str, str]) -> None:
    try:
        docker(environment, "pull", "--quiet", image, timeout=PULL_SECONDS)
    except RfctlError as error:
        # Registries do not say which image it is about.
        if error.id in ("stack.image-missing", "stack.image-offline"):
            raise RfctlError(error.id, detail=f"{image}: {error.params['detail']}") from error
        raise


def fetch_image(candidates: Sequence[str], environment: Mapping[str, str]) -> str:
    """The first image that is present, else the first of all, downloaded. Raises RfctlError."""
    try:
        return find_image(candidates, environment)
    except RfctlError as error:
        if error.id != "stack.no-helper-image" or not candidates:
            raise
    pull_images(candidates[:1], environment)
    return find_image(candidates[:1], environment)


def remove_helpers(project: str, environment: Mapping[str, str]) -> None:
    """Containers that a killed backup left behind. Raises RfctlError."""
    ids = docker(environment, "ps", "-aq", "--filter", f"label={_HELPER}={project}").split()
    if ids:
        docker(environment, "rm", "-f", "-v", *ids)


def is_empty(volume: Volume, image: str, project: str, environment: Mapping[str, str]) -> bool:
    """Whether nothing is in the volume. Raises RfctlError."""
    with _helper(volume, image, project, environment) as helper:
        stream = _Stream(["cp", f"{helper}:/volume", "-"], environment, reads=True)
        try:
            with tarfile.open(fileobj=stream.pipe, mode="r|") as archive:
                return archive.next() is None or archive.next() is None
        except tarfile.TarError as error:
            raise RfctlError("stack.volume-failed", volume=volume.full, detail=str(error)) from error
        finally:
            stream.abort()


def save(
    volume: Volume,
    target: Path,
    image: str,
    project: str,
    environment: Mapping[str, str],
    advance: Callable[[int], None],
) -> Saved:
    """Write the volume to the file `target` (mode 0600) as tar.gz. advance: gets tar bytes.

    Raises RfctlError `stack.volume-failed`, UnreachableError `stack.volume-stalled`, OSError.
    """
    digest = hashlib.sha256()
    packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    size = content = 0
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    with os.fdopen(descriptor, "wb") as file, _helper(volume, image, project, environment) as helper:
        stream = _Stream(["cp", f"{helper}:/volume", "-"], environment, reads=True)
        try:
            while piece := stream.pipe.read(PIECE):
                stream.beat()
                content += len(piece)
                advance(len(piece))
                packed = packer.compress(piece)
                digest.update(packed)
                size += file.write(packed)
            stream.finish(volume)
        finally:
            stream.abort()
        packed = packer.flush()
        digest.update(packed)
        size += file.write(packed)
        file.flush()
        os.fsync(file.fileno())
    return Saved(digest.hexdigest(), size, content)


def load(
    volume: Volume,
    source: Path,
    image: str,
    project: str,
    environment: Mapping[str, str],
    advance: Callable[[int], None],
) -> None:
    """Fill an empty volume from an archive of `save`. advance: gets bytes of the archive.

    Raises RfctlError `stack.volume-failed`, UnreachableError `stack.volume-stalled`, OSError.
    """
    unpacker = zlib.decompressobj(_GZIP)
    with source.open("rb") as file, _helper(volume, image, project, environment) as helper:
        stream = _Stream(["cp", "-", f"{helper}:/"], environment, reads=False)
        try:
            while piece := file.read(PIECE):
                advance(len(piece))
                pending = piece
                while pending:
                    stream.pipe.write(unpacker.decompress(pending, PIECE))
                    stream.beat()
                    pending = unpacker.unconsumed_tail
            stream.pipe.write(unpacker.flush())
            if not unpacker.eof:
                raise RfctlError(
                    "stack.volume-failed", volume=volume.full, detail=f"{source.name}: truncated"
                )
            stream.pipe.close()
            stream.finish(volume)
        except BrokenPipeError:
            stream.finish(volume)
            raise
        except zlib.error as error:
            raise RfctlError("stack.volume-failed", volume=volume.full, detail=str(error)) from error
        finally:
            stream.abort()


@contextlib.contextmanager
def _helper(volume: Volume, image: str, project: str, environment: Mapping[str, str]) -> Iterator[str]:
    """A created container with the volume at /volume. The command is never run."""
    helper = docker(
        environment, "create", "--network", "none", "--label", f"{_HELPER}={project}",
        "--volume", f"{volume.full}:/volume", image, "none",
    ).strip()  # fmt: skip
    try:
        yield helper
    finally:
        # -v: volumes that the image itself declares; a named volume is never removed by it.
        run(["docker", "rm", "-f", "-v", helper], timeout=QUICK_SECONDS, environment=environment)


class _Stream:
    """A docker command with one pipe, killed when nothing moves for STALL_SECONDS."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str], *, reads: bool) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in abort()
        kind = subprocess.PIPE
        self._process: subprocess.Popen[Any] = subprocess.Popen(
            ["docker", *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL if reads else kind,
            stdout=kind if reads else subprocess.DEVNULL,
            stderr=self._errors,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        pipe = self._process.stdout if reads else self._process.stdin
        assert pipe is not None
        self.pipe: IO[bytes] = pipe
        self._moved = time.monotonic()
        self._stalled = False
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._guard, daemon=True)
        self._watch.start()

    def beat(self) -> None:
        self._moved = time.monotonic()

    def _guard(self) -> None:
        while not self._ended.wait(1.0):
            if time.monotonic() - self._moved > STALL_SECONDS:
                self._stalled = True
                self._process.kill()
                return

    def finish(self, volume: Volume) -> None:
        """Wait for a good end. Raises RfctlError, UnreachableError."""
        self.beat()
        code = self._process.wait()
        if self._stalled:
            raise UnreachableError("stack.volume-stalled", volume=volume.full, seconds=round(STALL_SECONDS))
        if code:
            self._errors.seek(0)
            words = decode(self._errors.read(1 << 16))
            general = explain(Capture("done", code, "", words))
            if general.id != "stack.failed":
                raise general
            detail = words.strip().splitlines()[-1][-300:] if words.strip() else f"exit {code}"
            raise RfctlError("stack.volume-failed", volume=volume.full, detail=detail)

    def abort(self) -> None:
        """End it, whatever its state; harmless after `finish`."""
        self._ended.set()
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(OSError):
            self.pipe.close()
        self._process.wait()
        self._watch.join()
        self._errors.close()
