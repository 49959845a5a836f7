"""`model gc`: only what no model uses, and only when it is old."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rfctl.ollama import manifest as media
from rfctl.ollama.garbage import find_garbage, remove_garbage
from rfctl.ollama.manifest import Manifest
from rfctl.ollama.name import parse_name
from rfctl.ollama.store import ModelStore

OLD = time.time() - 7200


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """One model; an old and a young orphan, an old broken upload, a download that goes on."""
    store = ModelStore(tmp_path / "store")
    layer, _ = store.add_bytes(b"model", media.MEDIA_MODEL)
    config, _ = store.add_bytes(b"{}\n", media.MEDIA_CONFIG)
    store.write(parse_name("m"), Manifest(config, (layer,)))
    orphan, _ = store.add_bytes(b"orphan" * 100, media.MEDIA_MODEL)
    store.add_bytes(b"young", media.MEDIA_MODEL)
    (store.blobs / "upload-1.partial").write_bytes(b"x")
    (store.blobs / f"sha256-{'a' * 64}-partial-0").write_bytes(b"x")
    for path in (
        *(store.blob_path(item.digest) for item in (layer, config, orphan)),
        *store.blobs.glob("*partial*"),
    ):
        os.utime(path, (OLD, OLD))
    return store


def test_only_old_and_unused_files_are_garbage(store: ModelStore) -> None:
    garbage = find_garbage(store)
    assert [(item.size, item.is_blob) for item in garbage.removable] == [(600, True), (1, False)]
    assert len(garbage.young) == 1
    before = sorted(store.blobs.iterdir())
    assert garbage.size == 601
    # A push that begins between the look and the consent keeps what it uses.
    orphan = garbage.removable[0].path
    os.utime(orphan)
    assert [item.size for item in remove_garbage(store, garbage.removable)] == [1]
    assert len(list(store.blobs.iterdir())) == len(before) - 1
    assert store.read(parse_name("m")) is not None


def test_a_manifest_that_cannot_be_read_protects_everything(store: ModelStore) -> None:
    broken = store.manifests / "registry.ollama.ai" / "library" / "broken" / "latest"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    garbage = find_garbage(store)
    assert garbage.removable == ()
    assert garbage.unreadable == (broken,)
    # Neither does replacing a model remove what the broken one may use.
    store.delete(parse_name("m"))
    assert len(list(store.blobs.iterdir())) == 6


def test_the_command_asks(rfctl: Callable[..., Any], store: ModelStore) -> None:
    dry = rfctl("model", "gc", "--store", str(store.root), "--dry-run")
    assert dry.code == 0
    assert [line.split()[0] for line in dry.out.splitlines()] == ["600", "1"]
    assert "1 unused files are younger" in dry.err
    refused = rfctl("model", "gc", "--store", str(store.root))
    assert (refused.code, "cli.needs-yes" in refused.err) == (7, True)
    assert find_garbage(store).size == 601
    done = rfctl("model", "gc", "--store", str(store.root), "--yes", "--json")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["removed"]) == 2
    assert find_garbage(store).removable == ()
    assert "belongs to a model" in rfctl("model", "gc", "--store", str(store.root)).out
    assert rfctl("model", "gc", "--store", str(store.root / "blobs")).code == 2
