"""What was pushed where, so that the same push again is recognised without hashing gigabytes.

One JSON file. A real Ollama from 0.30 rewrites what it is given, so its own digests say nothing about the
source: the ledger ties the source digest and the settings to the manifest digest that the server reported.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rfctl.core.error import RfctlError
from rfctl.core.file import write_atomic
from rfctl.core.lock import FileLock
from rfctl.core.progress import SILENT, Reporter

SCHEMA = 1
MAX_BYTES = 16 << 20
MAX_FILES = 500
LOCK_SECONDS = 5.0


@dataclass(frozen=True)
class Entry:
    """source: `sha256:<hex>` of the uploaded bytes; settings: hex sha256 of the create request; manifest: hex
    digest that the server gives the model; verified: whether the checks ran; accepted: why a prompt that
    differs from the trained one is accepted; provenance: where the file came from and what made it."""

    source: str
    settings: str
    manifest: str
    size: int
    orphan_bytes: int = 0
    verified: bool = False
    checks: tuple[Mapping[str, Any], ...] = field(default=())
    accepted: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)


class Ledger:
    """A broken or missing file is an empty ledger; every change is written at once, on top of what another
    process may have written meanwhile. A ledger that cannot be written is a warning: the push is done."""

    def __init__(self, path: Path | None, reporter: Reporter = SILENT) -> None:
        self._path = path
        self._reporter = reporter
        self._document: dict[str, Any] = {"schema": SCHEMA, "models": {}, "files": {}}
        self._load()

    def _load(self) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                document = json.loads(file.read(MAX_BYTES))
        except (OSError, ValueError):
            return
        if (
            isinstance(document, dict)
            and document.get("schema") == SCHEMA
            and isinstance(document.get("models"), dict)
            and isinstance(document.get("files"), dict)
        ):
            self._document = document

    def find(self, url: str, name: str) -> Entry | None:
        """What was last pushed as `name` to `url`, else as `name` to any server.

        The manifest digest, which callers compare, identifies a model on whatever port its server is today.
        """
        models = self._document["models"]
        suffix = f" {name.lower()}"
        others = (item for key, item in reversed(models.items()) if key.endswith(suffix))
        item = models.get(f"{url}{suffix}") or next(others, None)
        if not isinstance(item, dict):
            return None
        try:
            return Entry(**(item | {"checks": tuple(item.get("checks", ()))}))
        except TypeError:
            return None

    def record(self, url: str, name: str, entry: Entry) -> None:
        self._change("models", {f"{url} {name.lower()}": asdict(entry)})

    def find_digest(self, path: Path, variant: str) -> str:
        """The remembered digest of an unchanged file; variant names what is put in front of it. "" if new."""
        item = self._document["files"].get(_key(path, variant))
        if isinstance(item, dict) and item.get("stamp") == _stamp(path):
            return str(item.get("digest", ""))
        return ""

    def record_digest(self, path: Path, variant: str, digest: str) -> None:
        self.record_digests({path: digest}, variant)

    def record_digests(self, digests: Mapping[Path, str], variant: str) -> None:
        """Remember the digests of several files at once."""
        self._change(
            "files",
            {
                _key(path, variant): {"stamp": _stamp(path), "digest": digest}
                for path, digest in digests.items()
            },
        )

    def find_source(self, fingerprint: str) -> Mapping[str, str]:
        """Digests of what a model directory was converted to, by variant; empty when it is new or changed."""
        item = self._document["files"].get(f"directory {fingerprint}")
        return item if isinstance(item, dict) else {}

    def record_source(self, fingerprint: str, digests: Mapping[str, str]) -> None:
        self._change("files", {f"directory {fingerprint}": dict(digests)})

    def is_supported(self, key: str) -> bool:
        """Whether a probe with this key (server version and header) has been answered with yes."""
        return f"probe {key}" in self._document["files"]

    def record_support(self, key: str) -> None:
        self._change("files", {f"probe {key}": {}})

    @contextlib.contextmanager
    def hold(self, url: str, name: str) -> Iterator[None]:
        """While it is held no other process of this user pushes `name` to `url`: each would record its own
        settings for the other's model. Raises RfctlError `ollama.push-running` when one does."""
        if self._path is None:
            yield
            return
        key = hashlib.sha256(f"{url} {name.lower()}".encode()).hexdigest()[:16]
        lock = FileLock(self._path.with_name(f".push-{key}.lock"))
        try:
            taken = lock.acquire()
        except OSError:  # a folder that cannot be written holds no ledger either
            taken = True
        if not taken:
            raise RfctlError("ollama.push-running", model=name, url=url)
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Between reading and writing the file nobody else does; a holder that hangs is not waited for."""
        if self._path is None:
            yield
            return
        lock = FileLock(self._path.with_name(f".{self._path.name}.lock"))
        deadline = time.monotonic() + LOCK_SECONDS
        with contextlib.suppress(OSError):
            while not lock.acquire() and time.monotonic() < deadline:
                time.sleep(0.01)
        try:
            yield
        finally:
            lock.release()

    def _change(self, table: str, changes: Mapping[str, object]) -> None:
        with self._alone():
            self._write(table, changes)

    def _write(self, table: str, changes: Mapping[str, object]) -> None:
        self._load()
        for key, value in changes.items():
            self._document[table].pop(key, None)
            self._document[table][key] = value
        files = self._document["files"]
        while len(files) > MAX_FILES:
            files.pop(next(iter(files)))
        if self._path is None:
            return
        text = json.dumps(self._document, ensure_ascii=False, indent=1)
        try:
            write_atomic(self._path, text.encode(), mode=0o600)
        except OSError as error:
            self._reporter.warn("ollama.ledger-unwritable", path=self._path, detail=str(error))


def fingerprint_directory(folder: Path, *facts: str) -> str:
    """Hex sha256 over names, sizes and times of the files in `folder` and over `facts` (type, version).

    Raises OSError.
    """
    stamps = [
        [str(path.relative_to(folder)), *_stamp(path)] for path in sorted(folder.iterdir()) if path.is_file()
    ]
    return hashlib.sha256(json.dumps([str(folder.resolve()), stamps, facts]).encode()).hexdigest()


def _key(path: Path, variant: str) -> str:
    return f"{path.resolve()} {variant}"


def _stamp(path: Path) -> list[int]:
    """Identity of the content as the file system tells it."""
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
