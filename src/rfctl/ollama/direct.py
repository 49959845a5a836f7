"""Registering a model in a store on this machine without copying its bytes.

The blob is a clone of the file (or a hard link to one that rfctl wrote), the manifest appears by one rename,
and a running server sees it at once (facts: Ollama v0.33.0-rc2, golden exchange `direct-registration`). Files
of another owner than the server's would break its later work, so then nothing is done.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rfctl.core.error import RefusedError, RfctlError
from rfctl.core.gguf_header import GgufHeader, read_header
from rfctl.ollama import manifest as media
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.clone import clone_file
from rfctl.ollama.manifest import Layer, Manifest, encode_json
from rfctl.ollama.name import parse_name
from rfctl.ollama.store import ModelStore

_FROM = re.compile(r"^FROM (.+)[/\\]blobs[/\\]sha256-[0-9a-f]{64}\s*$", re.MULTILINE)
_LOOKED_AT = 20


@dataclass(frozen=True)
class Description:
    """What the config layer says of a GGUF: parameter count such as "1.5B", quantization such as "Q4_K_M"."""

    model_type: str
    file_type: str


@dataclass(frozen=True)
class Direct:
    """Where and how to register. owned: rfctl wrote the file and nobody edits it, so it may be linked;
    describe: makes the texts of the config layer."""

    store: ModelStore
    owned: bool
    describe: Callable[[GgufHeader], Description]


def find_store(client: OllamaClient, configured: Path | None = None) -> ModelStore:
    """The store of the server at `client`, on this machine and writable by its own user.

    configured: where it should be; else it is read from the FROM line of a model that the server has. Raises
    RefusedError `direct.*` that says why the direct way is closed.
    """
    if not client.is_loopback:
        raise RefusedError("direct.remote", url=client.url)
    entries = client.models()[:_LOOKED_AT]
    root = configured
    if root is None:
        for entry in entries:
            match = _FROM.search(client.show(entry.name).modelfile)
            if match is not None:
                root = Path(match[1])
                break
        else:
            raise RefusedError("direct.store-unknown", url=client.url)
    if not root.is_dir():
        raise RefusedError("direct.store-missing", path=root)
    store = ModelStore(root)
    if entries:
        found = False
        for entry in entries:
            with contextlib.suppress(RfctlError, OSError):
                stored = store.read(parse_name(entry.name))
                found = found or (stored is not None and stored.digest == entry.digest)
        if not found:
            raise RefusedError("direct.store-other", path=root, url=client.url)
    check_owner(root)
    return store


def check_owner(root: Path) -> None:
    """Raises RefusedError unless everything written to the store will belong to its owner."""
    for path in (root, root / "blobs", root / "manifests"):
        if not path.exists():
            continue
        if os.name != "nt" and (owner := path.stat().st_uid) != os.geteuid():
            raise RefusedError("direct.owner", path=path, owner=owner, user=os.geteuid())
        if not os.access(path, os.W_OK | os.X_OK):
            raise RefusedError("direct.read-only", path=path)


def place_file(direct: Direct, path: Path, digest: str) -> str:
    """Make `path` the blob `digest`; returns "present", "reflink" or "link". No byte is copied.

    Raises RefusedError `direct.no-link` when only a copy would do, OSError (disk full, read-only).
    """
    store, blob = direct.store, direct.store.blob_path(digest)
    with contextlib.suppress(OSError):
        if blob.stat().st_size == path.stat().st_size:
            os.utime(blob)
            return "present"
    store.blobs.mkdir(parents=True, exist_ok=True)
    source, folder = path.stat(), store.blobs.stat()
    try:
        if source.st_dev == folder.st_dev:
            store.adopt(path, digest, clone_file)
            return "reflink"
    except OSError:
        # No clones on this file system. Whatever else is wrong shows again below.
        pass
    if source.st_dev != folder.st_dev:
        raise RefusedError("direct.other-disk", path=path, store=store.root)
    if not direct.owned:
        raise RefusedError("direct.no-link", path=path, store=store.root)
    if os.name != "nt" and source.st_uid != folder.st_uid:
        raise RefusedError("direct.owner", path=path, owner=source.st_uid, user=folder.st_uid)
    store.adopt(path, digest, os.link)
    return "link"


def can_place(direct: Direct, path: Path) -> bool:
    """Whether `place_file` would find a way: asked before anything is decided, nothing is left behind."""
    if direct.owned:
        return path.stat().st_dev == direct.store.root.stat().st_dev
    probe = direct.store.blobs / f"upload-{os.getpid()}.partial"
    try:
        direct.store.blobs.mkdir(parents=True, exist_ok=True)
        clone_file(path, probe)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return True


def agrees(direct: Direct, client: OllamaClient, name: str) -> bool:
    """Whether server and store have the same model (or both none) under `name`: another server's store would
    lose its own."""
    stored, entry = direct.store.read(parse_name(name)), client.find(name)
    return (stored.digest if stored is not None else "") == (entry.digest if entry is not None else "")


def register(direct: Direct, name: str, digest: str, header_file: Path, body: Mapping[str, object]) -> str:
    """Write the small blobs and the manifest of a model whose GGUF is in the store.

    header_file: a file that begins with the GGUF's header; body: fields of a create request. Returns the hex
    digest of the manifest. Raises OSError, StoreError, GgufError.
    """
    store = direct.store
    header = read_header(header_file)
    with store.transaction():
        layers = [store.layer_of(digest, media.MEDIA_MODEL)]
        for media_type, data in _small_layers(body):
            layers.append(store.add_bytes(data, media_type)[0])
        config = store.add_bytes(
            encode_json(_config(header, direct.describe(header), body, layers[0])), media.MEDIA_CONFIG
        )[0]
        return store.write(parse_name(name), Manifest(config, tuple(layers))).digest


def _small_layers(body: Mapping[str, object]) -> list[tuple[str, bytes]]:
    """In the order that Ollama's create writes them."""
    layers: list[tuple[str, bytes]] = []
    if template := body.get("template"):
        layers.append((media.MEDIA_TEMPLATE, str(template).encode()))
    if system := body.get("system"):
        layers.append((media.MEDIA_SYSTEM, str(system).encode()))
    licenses = body.get("license")
    for text in licenses if isinstance(licenses, list | tuple) else ():
        layers.append((media.MEDIA_LICENSE, str(text).encode()))
    parameters = body.get("parameters")
    if isinstance(parameters, Mapping) and parameters:
        layers.append((media.MEDIA_PARAMS, encode_json(dict(sorted(parameters.items())))))
    if messages := body.get("messages"):
        layers.append((media.MEDIA_MESSAGES, encode_json(messages)))
    return layers


def _config(
    header: GgufHeader, description: Description, body: Mapping[str, object], model: Layer
) -> dict[str, object]:
    """Key order of types/model/config.go; empty values are left out."""
    found: dict[str, object] = {
        "model_format": "gguf",
        "model_family": header.architecture,
        "model_families": [header.architecture],
        "model_type": description.model_type,
        "file_type": description.file_type,
        "renderer": body.get("renderer"),
        "parser": body.get("parser"),
        "requires": body.get("requires"),
    }
    fixed: dict[str, object] = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [model.digest]},
    }
    return {key: value for key, value in found.items() if value} | fixed
