"""The model store: Ollama's bytes, and what is left after a kill or a full disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rfctl.ollama import manifest as media
from rfctl.ollama.manifest import Layer, Manifest, encode_json, encode_text, parse_manifest
from rfctl.ollama.name import parse_name
from rfctl.ollama.store import ModelStore, StoreError

DEMO = parse_name("acme/demo:v1")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def make(store: ModelStore, name: str, content: bytes = b"GGUF", system: str = "s") -> Manifest:
    config, _ = store.add_bytes(b"{}\n", media.MEDIA_CONFIG)
    model, _ = store.add_bytes(content, media.MEDIA_MODEL)
    text, _ = store.add_bytes(system.encode(), media.MEDIA_SYSTEM)
    manifest = Manifest(config, (model, text))
    store.write(parse_name(name), manifest)
    return manifest


def test_writes_the_bytes_of_the_recorded_store(store: ModelStore, golden: Path) -> None:
    created = golden / "ollama/store/created"
    listing = json.loads((golden / "ollama/store/listing.json").read_text("utf-8"))["created"]
    layers = []
    for entry in listing["blobs"]:
        file = created / entry["file"]
        digest = file.name.replace("-", ":")
        if not file.exists():  # the GGUF is not part of the recording
            store.blobs.mkdir(parents=True, exist_ok=True)
            (store.blobs / file.name).write_bytes(b"\0" * entry["size"])
            layers.append(store.layer_of(digest, entry["mediaType"]))
            continue
        layer, is_new = store.add_bytes(file.read_bytes(), entry["mediaType"])
        assert (layer.digest, layer.size, is_new) == (digest, entry["size"], True)
        layers.append(layer)
    model = store.write(DEMO, Manifest(layers[0], tuple(layers[1:])))
    recorded = (created / "manifests" / DEMO.path).read_bytes()
    assert (store.manifests / DEMO.path).read_bytes() == recorded
    assert model.digest == hashlib.sha256(recorded).hexdigest()
    written = {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()}
    assert written == {entry["file"] for entry in listing["blobs"]} | {f"manifests/{DEMO.path}"}
    for entry in listing["blobs"]:
        assert (store.root / entry["file"]).stat().st_mode & 0o777 == int(entry["mode"], 8)


def test_json_is_that_of_the_recorded_blobs(golden: Path) -> None:
    for path in (golden / "ollama/store").rglob("*"):
        if path.is_file() and (data := path.read_bytes()).startswith((b'{"', b'[{"')):
            assert encode_json(json.loads(data)).strip() == data.strip()


def test_reads_a_directly_registered_model(golden: Path, tmp_path: Path) -> None:
    shutil.copytree(golden / "ollama/store/direct", tmp_path / "m", copy_function=shutil.copyfile)
    model = ModelStore(tmp_path / "m").read(parse_name("ACME/Direct:v1"))
    assert model is not None
    assert str(model.name) == "acme/direct:v1"
    assert [layer.media_type for layer in model.manifest.layers] == [media.MEDIA_MODEL, media.MEDIA_PARAMS]
    assert parse_manifest(model.manifest.to_bytes()) == model.manifest


def test_go_json() -> None:
    assert encode_text({"a": "<&>\u2028", "b": 1.0, "c": [0.2, True, None], "d": "知\ud800"}) == (
        '{"a":"\\u003c\\u0026\\u003e\\u2028","b":1,"c":[0.2,true,null],"d":"知?"}'
    )


def test_copy_delete_and_shared_blobs(store: ModelStore) -> None:
    manifest = make(store, "one")
    store.copy(parse_name("one"), parse_name("ns/two:v2"))
    assert [str(model.name) for model in store.models()] in (
        [["ns/two:v2", "one:latest"], ["one:latest", "ns/two:v2"]]
    )
    store.delete(parse_name("ONE"))
    assert store.has_blob(manifest.layers[0].digest)
    store.delete(parse_name("ns/two:v2"))
    assert store.models() == []
    assert list(store.blobs.iterdir()) == []
    assert list(store.manifests.rglob("*")) == []
    with pytest.raises(StoreError) as error:
        store.delete(parse_name("one"))
    assert error.value.id == "store.model-missing"


def test_replacing_a_model_drops_its_own_blobs_and_keeps_its_spelling(store: ModelStore) -> None:
    former = make(store, "Tiny", system="old")
    make(store, "tiny", system="new")
    assert [str(model.name) for model in store.models()] == ["Tiny:latest"]
    assert store.has_blob(former.layers[0].digest)
    assert not store.has_blob(former.layers[1].digest)


def test_a_manifest_needs_its_blobs(store: ModelStore) -> None:
    layer = Layer(media.MEDIA_MODEL, "sha256:" + "0" * 64, 4)
    with pytest.raises(StoreError) as error:
        store.write(DEMO, Manifest(layer, ()))
    assert error.value.id == "store.blob-missing"
    assert store.models() == []


def test_a_wrong_digest_keeps_the_content_under_the_true_one(store: ModelStore) -> None:
    expected = "sha256:" + "1" * 64
    with store.writer() as writer, pytest.raises(StoreError) as error:
        writer.write(b"wrong")
        writer.commit(expected)
    assert error.value.id == "store.digest-mismatch"
    assert not store.has_blob(expected)
    assert store.has_blob("sha256:" + hashlib.sha256(b"wrong").hexdigest())


@pytest.mark.parametrize("link", [True, False])
def test_add_file(store: ModelStore, tmp_path: Path, link: bool) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(b"weights")
    digest = "sha256:" + hashlib.sha256(b"weights").hexdigest()
    for _ in range(2):
        layer = store.add_file(source, digest, media_type=media.MEDIA_MODEL, link=link)
    assert (layer.digest, layer.size) == (digest, 7)
    assert [path.name for path in store.blobs.iterdir()] == [digest.replace(":", "-")]
    assert (store.blob_path(digest).stat().st_ino == source.stat().st_ino) is link


def test_garbage(store: ModelStore) -> None:
    manifest = make(store, "kept")
    old, _ = store.add_bytes(b"old", media.MEDIA_SYSTEM)
    young, _ = store.add_bytes(b"young", media.MEDIA_SYSTEM)
    long_ago = time.time() - 7200
    for layer in (*manifest.layers, manifest.config, old):
        os.utime(store.blob_path(layer.digest), (long_ago, long_ago))
    (store.blobs / "upload-1.partial").write_bytes(b"half")
    removed = {path.name for path in store.collect_garbage()}
    assert removed == {"upload-1.partial", old.digest.replace(":", "-")}
    assert store.has_blob(young.digest)
    assert all(store.has_blob(digest) for digest in manifest.digests)


def test_no_garbage_is_taken_while_a_manifest_cannot_be_read(store: ModelStore) -> None:
    make(store, "kept")
    old, _ = store.add_bytes(b"old", media.MEDIA_SYSTEM)
    os.utime(store.blob_path(old.digest), (0, 0))
    (store.manifests / parse_name("kept").path.with_name("broken")).write_text("{")
    assert store.collect_garbage() == []


def test_a_full_disk_leaves_no_blob(store: ModelStore) -> None:
    if sys.platform == "win32":
        pytest.skip("needs RLIMIT_FSIZE")
    code = (
        "import resource, signal, sys; from pathlib import Path; from rfctl.ollama.store import ModelStore\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, -1))\n"
        "store = ModelStore(Path(sys.argv[1]))\n"
        "try: store.add_bytes(b'x' * 100000, 'm')\n"
        "except OSError as error: sys.exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(store.root)], check=False).returncode == 7
    assert list(store.blobs.iterdir()) == []


def test_kill_leaves_a_valid_store(store: ModelStore) -> None:
    code = (
        "import sys; from pathlib import Path; from rfctl.ollama.store import ModelStore\n"
        "from rfctl.ollama import manifest as m; from rfctl.ollama.name import parse_name\n"
        "store = ModelStore(Path(sys.argv[1])); n = 0; print('go', flush=True)\n"
        "while True:\n"
        "    n += 1\n"
        "    c, _ = store.add_bytes(b'{}\\n', m.MEDIA_CONFIG)\n"
        "    w, _ = store.add_bytes(b'%d' % n * 9999, m.MEDIA_MODEL)\n"
        "    store.write(parse_name(f'm:{n % 5}'), m.Manifest(c, (w,)))\n"
        "    if n % 3 == 0: store.delete(parse_name(f'm:{n % 5}'))\n"
    )
    for delay in (0.02, 0.05, 0.11, 0.17):
        child = subprocess.Popen([sys.executable, "-c", code, str(store.root)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay)
        child.send_signal(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
        child.wait()
        child.stdout.close()
        for model in store.models():
            for layer in (model.manifest.config, *model.manifest.layers):
                assert "sha256:" + hashlib.sha256(store.read_blob(layer)).hexdigest() == layer.digest
        store.collect_garbage(grace=-10)
        kept = {digest.replace(":", "-") for model in store.models() for digest in model.manifest.digests}
        assert {path.name for path in store.blobs.iterdir()} == kept


def test_concurrent_writers(store: ModelStore) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(15):
                with store.transaction():
                    make(store, f"m{number}", content=b"shared", system=f"{number} {turn % 2}")
                store.delete(parse_name(f"m{number}"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.models() == list(store.blobs.iterdir()) == []
