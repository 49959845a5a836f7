"""The model store on disk in Ollama's layout: `blobs/sha256-<hex>` and `manifests/<host>/<ns>/<model>/<tag>`.

Facts: Ollama v0.33.0-rc2, manifest/{layer,manifest,paths}.go, server/images.go. Unlike Ollama, every file is
written beside its place, synced and renamed, so the store is valid after a kill at any moment: a blob is
there with its whole content or not at all, and a manifest appears after its blobs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rfctl.core.error import RfctlError
from rfctl.core.file import CHUNK_BYTES, sync_directory
from rfctl.ollama.manifest import Layer, Manifest, digest_of, normalise_digest, parse_manifest
from rfctl.ollama.name import ModelName

GRACE_SECONDS = 3600.0
_PARTIAL = ".partial"


class StoreError(RfctlError):
    """The store cannot do what was asked (ids `store.*`)."""


@dataclass(frozen=True)
class StoredModel:
    """digest: 64 hex, the SHA-256 of the manifest file; modified: seconds since the epoch."""

    name: ModelName
    manifest: Manifest
    digest: str
    modified: float


class ModelStore:
    """The store below `root`; thread-safe. Folders are made on the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.manifests = root / "manifests"
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """While it is held no other thread removes blobs: for adding layers and then the manifest."""
        with self._lock:
            yield

    # -- blobs ----------------------------------------------------------------------------------

    def blob_path(self, digest: str) -> Path:
        """Where the blob is or would be. Raises ValueError for a text that is no digest."""
        return self.blobs / normalise_digest(digest).replace(":", "-")

    def has_blob(self, digest: str) -> bool:
        return self.blob_path(digest).is_file()

    def add_bytes(self, data: bytes, media_type: str) -> tuple[Layer, bool]:
        """Store `data`; True when the blob is new. Raises OSError."""
        digest = digest_of(data)
        path = self.blob_path(digest)
        is_new = not path.is_file()
        if is_new:
            with self.writer() as writer:
                writer.write(data)
                writer.commit()
        else:
            self._touch(path)
        return Layer(media_type, digest, len(data)), is_new

    def layer_of(self, digest: str, media_type: str, *, source: str = "") -> Layer:
        """The layer for a blob that is in the store. Raises FileNotFoundError, ValueError."""
        path = self.blob_path(digest)
        size = path.stat().st_size
        self._touch(path)
        return Layer(media_type, normalise_digest(digest), size, source)

    def read_blob(self, layer: Layer, limit: int = 64 << 20) -> bytes:
        """The content of a small blob. Raises OSError, StoreError when it is larger than `limit` bytes."""
        path = self.blob_path(layer.digest)
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise StoreError("store.blob-too-large", digest=layer.digest, limit=limit)
        return data

    def writer(self) -> BlobWriter:
        """A new blob whose digest is known at the end. Raises OSError."""
        self.blobs.mkdir(parents=True, exist_ok=True)
        return BlobWriter(self.blobs)

    def add_file(self, path: Path, digest: str, *, media_type: str, link: bool) -> Layer:
        """Put a file of known SHA-256 into the store by a hard link (`link`, only for files that nobody
        edits) or by a checked copy. Raises OSError, StoreError `store.digest-mismatch`."""
        if not self.has_blob(digest):
            if link:
                self.adopt(path, digest, os.link)
            else:
                with path.open("rb") as source, self.writer() as writer:
                    while piece := source.read(CHUNK_BYTES):
                        writer.write(piece)
                    writer.commit(digest)
        return self.layer_of(digest, media_type)

    def adopt(self, path: Path, digest: str, place: Callable[[Path, Path], None]) -> None:
        """Make a file of known SHA-256 a blob unread: `place(path, temporary)` links or clones it.

        Raises OSError; the blob is then not there, or still the old one.
        """
        self.blobs.mkdir(parents=True, exist_ok=True)
        temporary = self.blobs / _temporary_name()
        try:
            place(path, temporary)
            os.replace(temporary, self.blob_path(digest))
        finally:
            # A rename onto another link of the same file leaves the temporary name behind.
            temporary.unlink(missing_ok=True)
        sync_directory(self.blobs)

    # -- manifests ------------------------------------------------------------------------------

    def find(self, name: ModelName) -> ModelName:
        """The spelling under which `name` exists (letter case is ignored), else `name` itself."""
        if (self.manifests / name.path).is_file():
            return name
        return next((stored for stored, _ in self._scan() if stored.same(name)), name)

    def read(self, name: ModelName) -> StoredModel | None:
        """The model, or None when there is none of that name (or its manifest is no manifest)."""
        name = self.find(name)
        return _load(name, self.manifests / name.path)

    def models(self) -> list[StoredModel]:
        """All models, the newest first. Files that are no manifests are passed over."""
        models = [model for name, path in self._scan() if (model := _load(name, path))]
        return sorted(models, key=lambda model: (-model.modified, str(model.name)))

    def write(self, name: ModelName, manifest: Manifest) -> StoredModel:
        """Make `name` that model; blobs that only its former manifest used are removed.

        Raises StoreError `store.blob-missing` when a blob is not there, OSError.
        """
        with self._lock:
            for digest in sorted(manifest.digests):
                if not self.has_blob(digest):
                    raise StoreError("store.blob-missing", digest=digest)
            name = self.find(name)
            former = self.read(name)
            self._place(self.manifests / name.path, manifest.to_bytes())
            if former is not None:
                self._drop(former.manifest.digests - manifest.digests)
            model = self.read(name)
        if model is None:
            raise StoreError("store.model-missing", name=str(name))
        return model

    def copy(self, source: ModelName, destination: ModelName) -> StoredModel:
        """A second name for the same model. Raises StoreError `store.model-missing`, OSError."""
        with self._lock:
            model = self.read(source)
            if model is None:
                raise StoreError("store.model-missing", name=str(source))
            return self.write(destination, model.manifest)

    def delete(self, name: ModelName) -> StoredModel:
        """Remove the manifest, then the blobs that no other manifest uses.

        Raises StoreError `store.model-missing`, OSError.
        """
        with self._lock:
            model = self.read(name)
            if model is None:
                raise StoreError("store.model-missing", name=str(name))
            path = self.manifests / model.name.path
            path.unlink()
            for folder in list(path.parents)[:3]:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            self._drop(model.manifest.digests)
        return model

    def collect_garbage(self, *, grace: float = GRACE_SECONDS) -> list[Path]:
        """Remove leftovers of a killed process: temporary files, and unused blobs older than `grace` seconds.

        Nothing but temporary files goes while any manifest cannot be read (as Ollama does). For the start of
        the one process that writes to the store. Returns the removed paths.
        """
        with self._lock:
            if not self.blobs.is_dir():
                return []
            models = [_load(name, path) for name, path in self._scan(strict=False)]
            used = {digest for model in models if model for digest in model.manifest.digests}
            limit = time.time() - grace
            removed = []
            for path in sorted(self.blobs.iterdir()):
                if path.name.endswith(_PARTIAL) or (
                    all(models)
                    and path.name.replace("-", ":", 1) not in used
                    and path.stat().st_mtime < limit
                ):
                    with contextlib.suppress(OSError):
                        path.unlink()
                        removed.append(path)
            return removed

    # -- inside ---------------------------------------------------------------------------------

    def _scan(self, *, strict: bool = True) -> Iterator[tuple[ModelName, Path]]:
        """Manifest files with their names; without `strict` also those whose path is no valid name."""
        for path in sorted(self.manifests.glob("*/*/*/*")):
            parts = path.relative_to(self.manifests).parts
            if path.is_file() and not (strict and path.name.startswith(".")):
                yield ModelName(*parts), path

    def _place(self, path: Path, data: bytes) -> None:
        # The temporary file is in `blobs`: at manifest depth even a server that scans would meet it.
        self.blobs.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.blobs / _temporary_name()
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)

    def _drop(self, digests: frozenset[str]) -> None:
        models = [_load(name, path) for name, path in self._scan(strict=False)]
        if not all(models):
            return  # what cannot be read may use them
        used = {digest for model in models if model for digest in model.manifest.digests}
        for digest in digests - used:
            with contextlib.suppress(OSError):
                self.blob_path(digest).unlink()

    @staticmethod
    def _touch(path: Path) -> None:
        # Within the grace time a blob without a manifest is not garbage.
        with contextlib.suppress(OSError):
            os.utime(path)


class BlobWriter:
    """A blob in the making; a context manager that removes what was not committed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / _temporary_name()
        self._hash = hashlib.sha256()
        self._file = self._path.open("xb")

    def write(self, piece: bytes) -> None:
        """Raises OSError (disk full)."""
        self._hash.update(piece)
        self._file.write(piece)

    def commit(self, expected: str = "") -> str:
        """Put the blob in place under its true digest, which is returned (`sha256:<hex>`).

        Raises StoreError `store.digest-mismatch` if that is not `expected`; as in Ollama the content stays,
        under the digest that it has.
        """
        digest = "sha256:" + self._hash.hexdigest()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._path, self._folder / digest.replace(":", "-"))
        sync_directory(self._folder)
        if expected and expected != digest:
            raise StoreError("store.digest-mismatch", expected=expected, found=digest)
        return digest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def _temporary_name() -> str:
    return f"upload-{secrets.token_hex(8)}{_PARTIAL}"


def _load(name: ModelName, path: Path) -> StoredModel | None:
    try:
        data = path.read_bytes()
        modified = path.stat().st_mtime
        manifest = parse_manifest(data)
    except (OSError, ValueError):
        return None
    return StoredModel(name, manifest, digest_of(data).removeprefix("sha256:"), modified)
