"""Registering without copying: in the store of a running engine, refused where it would do harm, killed at
every step."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from direct_child import describe
from model_file import write_gguf
from ollama_server import Keeper

from rfctl.core.error import RefusedError, RfctlError
from rfctl.core.file import sha256_file
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.clone import clone_file
from rfctl.ollama.direct import Direct, can_place, check_owner, find_store, place_file, register
from rfctl.ollama.name import parse_name
from rfctl.ollama.push import Wishes, push_file
from rfctl.ollama.store import ModelStore

sys.path.append(str(Path(__file__).parent.parent / "engine"))
posix = pytest.mark.skipif(os.name == "nt", reason="owners and hard links of POSIX")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OllamaClient, Path]]:
    from rfctl.engine import daemon

    folder = tmp_path_factory.mktemp("engine")
    status = daemon.start(folder)
    try:
        with OllamaClient(status.url) as client:
            yield client, folder / "models"
    finally:
        daemon.stop(folder)


def write_chat(path: Path) -> Path:
    from tiny_model import write_chat_model  # type: ignore[import-not-found]

    written: Path = write_chat_model(path)
    return written


def digest_of(path: Path) -> str:
    return f"sha256:{sha256_file(path)}"


def check_store(root: Path) -> dict[str, str]:
    """Model name -> system text; every blob of every manifest must be there with its digest."""
    store, found = ModelStore(root), {}
    for model in store.models():
        for layer in (model.manifest.config, *model.manifest.layers):
            data = store.blob_path(layer.digest).read_bytes()
            assert len(data) == layer.size
            assert f"sha256:{hashlib.sha256(data).hexdigest()}" == layer.digest
        system = model.manifest.layer("application/vnd.ollama.image.system")
        found[str(model.name)] = store.read_blob(system).decode() if system else ""
    for path in root.glob("manifests/*/*/*/*"):
        json.loads(path.read_bytes())
    return found


@posix
def test_a_running_engine_sees_it_at_once(engine: tuple[OllamaClient, Path], tmp_path: Path) -> None:
    client, root = engine
    path = write_chat(tmp_path / "m.gguf")
    direct = Direct(find_store(client, root), True, describe)
    ledger = tmp_path / "ledger.json"
    wishes = Wishes(num_ctx=512, system="Be kind.")
    result = push_file(client, path, "linked", wishes, direct=direct, ledger_path=ledger)
    assert result.via in ("link", "reflink")
    assert (result.uploaded, result.orphan_bytes) == (0, 0)
    assert "failed" not in {check.verdict.value for check in result.checks}
    blob = ModelStore(root).blob_path(result.source_digest)
    if result.via == "link":
        assert blob.stat().st_ino == path.stat().st_ino
    entry = client.find("linked")
    assert entry is not None
    assert entry.digest == result.digest
    card = client.show("linked")
    assert (card.system, card.parameters["num_ctx"]) == ("Be kind.", 512)
    assert client.chat("linked", [{"role": "user", "content": "hi"}], num_predict=3).answer_tokens <= 3
    # The second push needs neither hashing nor writing, although the link changed the time of the file.
    before = path.stat().st_mtime_ns
    again = push_file(client, path, "linked", wishes, direct=direct, ledger_path=ledger)
    assert again.unchanged
    assert path.stat().st_mtime_ns == before
    # Other settings and another name share the blob; the engine's own create and delete go on working.
    push_file(client, path, "linked", Wishes(num_ctx=256), direct=direct, ledger_path=ledger, verify=False)
    assert push_file(client, path, "two", wishes, direct=direct, verify=False).via == "present"
    assert client.show("linked").system == ""
    push_file(client, path, "over-http", wishes, verify=False)
    assert find_store(client).root == root  # from the FROM line of a model
    check_store(root)
    for name in ("linked", "two", "over-http"):
        client.delete(name)
    assert not blob.exists()
    assert path.exists()
    assert list((root / "blobs").iterdir()) == []


@posix
def test_the_same_files_as_ollama_needs(golden: Path, tmp_path: Path) -> None:
    wanted = golden / "ollama" / "store" / "direct"
    blobs = sorted((wanted / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    config = json.loads(blobs[-1].read_bytes())
    parameters = json.loads(blobs[0].read_bytes())
    path = write_gguf(tmp_path / "m.gguf")
    direct = Direct(ModelStore(tmp_path / "store"), True, describe)
    place_file(direct, path, digest_of(path))
    register(direct, "acme/direct:v1", digest_of(path), path, {"parameters": parameters})
    assert (direct.store.blobs / blobs[0].name).read_bytes() == blobs[0].read_bytes()
    stored = direct.store.read(parse_name("acme/direct:v1"))
    assert stored is not None
    ours = json.loads(direct.store.read_blob(stored.manifest.config))
    assert list(ours) == list(config)
    recorded = json.loads(next(wanted.glob("manifests/*/*/*/*")).read_bytes())
    assert [layer.media_type for layer in stored.manifest.layers] == [
        layer["mediaType"] for layer in recorded["layers"]
    ]


@posix
def test_killed_at_every_step_the_store_stays_valid(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "new.gguf")
    old = write_gguf(tmp_path / "old.gguf", rows=3)
    program = Path(__file__).with_name("direct_child.py")
    codes: list[int] = []
    for number in range(1, 200):
        root = tmp_path / f"store{number}"
        direct = Direct(ModelStore(root), True, describe)
        place_file(direct, old, digest_of(old))
        register(direct, "m", digest_of(old), old, {"system": "old"})
        arguments = [str(root), str(path), digest_of(path), str(number), "new"]
        done = subprocess.run([sys.executable, str(program), *arguments], check=False, timeout=60)
        codes.append(done.returncode)
        assert check_store(root)["m:latest"] in ("old", "new")
        # What was left behind does not hinder the next attempt, and is collected.
        place_file(direct, path, digest_of(path))
        register(direct, "m", digest_of(path), path, {"system": "new"})
        assert check_store(root) == {"m:latest": "new"}
        direct.store.collect_garbage(grace=-1)
        used = {digest for model in direct.store.models() for digest in model.manifest.digests}
        assert {item.name for item in direct.store.blobs.iterdir()} == {
            digest.replace(":", "-") for digest in used
        }
        if done.returncode == 0:
            break
    assert codes[-1] == 0
    assert set(codes[:-1]) == {9}
    assert len(codes) > 8


@posix
def test_where_only_a_copy_would_do_it_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    store = ModelStore(tmp_path / "store")
    try:
        clone_file(path, tmp_path / "clone")
    except OSError:
        assert not (tmp_path / "clone").exists()
        stranger = Direct(store, False, describe)
        assert not can_place(stranger, path)
        with pytest.raises(RefusedError) as caught:
            place_file(stranger, path, digest_of(path))
        assert caught.value.id == "direct.no-link"
        assert list(store.blobs.iterdir()) == []
    else:
        assert can_place(Direct(store, False, describe), path)
    shm = Path("/dev/shm")
    if shm.is_dir() and shm.stat().st_dev != tmp_path.stat().st_dev:
        with pytest.raises(RefusedError) as caught:
            elsewhere = ModelStore(shm / f"rfctl-test-{os.getpid()}")
            try:
                place_file(Direct(elsewhere, True, describe), path, digest_of(path))
            finally:
                elsewhere.blobs.rmdir()
                elsewhere.root.rmdir()
        assert caught.value.id == "direct.other-disk"


@posix
def test_foreign_owners_and_read_only_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    check_owner(tmp_path)
    if os.geteuid() == 0:
        os.chown(tmp_path / "blobs", 12345, 12345)
        with pytest.raises(RefusedError) as caught:
            check_owner(tmp_path)
        assert (caught.value.id, caught.value.params["owner"]) == ("direct.owner", 12345)
    else:
        (tmp_path / "blobs").chmod(0o555)
        with pytest.raises(RefusedError) as caught:
            check_owner(tmp_path)
        assert caught.value.id == "direct.read-only"
        with pytest.raises(RefusedError) as caught:
            check_owner(Path("/"))
        assert caught.value.id == "direct.owner"


@posix
@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="becoming another user needs root"
)
def test_what_another_user_may_do_in_a_store() -> None:
    program = Path(__file__).with_name("store_child.py")
    nobody = 65534
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "blobs").mkdir()

        def ask() -> str:
            arguments = [sys.executable, str(program), name, str(nobody)]
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
            return done.stdout.strip()

        assert ask() == "direct.owner"  # of root, as a systemd install is for a person
        for path in (root, root / "blobs"):
            os.chown(path, nobody, nobody)
        assert ask() == ""
        (root / "blobs").chmod(0o555)
        assert ask() == "direct.read-only"


def test_the_store_is_found_by_its_setting(rfctl: Callable[..., Any], tmp_path: Path, home: Path) -> None:
    blobs = tmp_path / "models" / "blobs"
    blobs.mkdir(parents=True)
    stale = blobs / ("sha256-" + "a" * 64)
    stale.write_bytes(b"x" * 10)
    os.utime(stale, (1, 1))
    env = {"OLLAMA_HOST": "http://127.0.0.1:9"}
    for variable in ("RFCTL_OLLAMA_STORE", "OLLAMA_MODELS"):
        found = rfctl("model", "gc", "--dry-run", "--json", env={**env, variable: str(tmp_path / "models")})
        assert json.loads(found.out)["size"] == 10, found.err
    (tmp_path / "rfctl.toml").write_text(f'ollama.store = "{(tmp_path / "models").as_posix()}"\n')
    assert json.loads(rfctl("model", "gc", "--dry-run", "--json", env=env).out)["size"] == 10
    assert stale.exists()


def test_a_store_that_is_not_the_servers_is_refused(tmp_path: Path) -> None:
    with Keeper() as server, OllamaClient(server.url) as client:
        with pytest.raises(RefusedError) as caught:
            find_store(client)
        assert caught.value.id == "direct.store-unknown"
        server.models["m:latest"] = {"digest": "e" * 64, "served": "0" * 64, "body": {}}
        with pytest.raises(RefusedError) as caught:
            find_store(client)
        assert caught.value.id == "direct.store-missing"  # as with a server in a container
        (tmp_path / "blobs").mkdir()
        with pytest.raises(RefusedError) as caught:
            find_store(client, tmp_path)
        assert caught.value.id == "direct.store-other"
    with OllamaClient("http://192.0.2.1:11434") as client:
        with pytest.raises(RefusedError) as caught:
            find_store(client)
        assert caught.value.id == "direct.remote"


@posix
def test_a_model_that_the_server_does_not_see_is_an_error(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    with Keeper(version="0.33.0+rfctl") as server, OllamaClient(server.url) as client:
        direct = Direct(ModelStore(tmp_path / "store"), True, describe)
        with pytest.raises(RfctlError) as caught:
            push_file(client, path, "m", Wishes(), direct=direct, verify=False)
        assert caught.value.id == "direct.not-seen"
        assert direct.store.models() == []
        # A name that only the store has belongs to another server: neither replaced nor hidden.
        place_file(direct, path, digest_of(path))
        register(direct, "m", digest_of(path), path, {"system": "theirs"})
        with pytest.raises(RefusedError) as refused:
            push_file(client, path, "m", Wishes(), direct=direct, verify=False)
        assert refused.value.id == "direct.store-other"
        done = push_file(client, path, "m", Wishes(), direct=direct, fall_back=True, verify=False)
        assert done.via == "http"
        assert check_store(tmp_path / "store") == {"m:latest": "theirs"}


@posix
def test_two_at_once_leave_one_whole_model(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf")
    program = Path(__file__).with_name("direct_child.py")
    root = tmp_path / "store"
    children = [
        subprocess.Popen(
            [sys.executable, str(program), str(root), str(path), digest_of(path), "0", f"system {number}"]
        )
        for number in range(3)
    ]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert check_store(root)["m:latest"].startswith("system ")


@posix
def test_the_command_line_registers_in_the_embedded_engine(
    rfctl: Callable[..., Any], tmp_path: Path, home: Path
) -> None:
    path = write_chat(tmp_path / "m.gguf")
    try:
        linked = rfctl("model", "push", "m.gguf", "m", "--via", "direct", "--link", "--no-verify", "--json")
        assert linked.code == 0, linked.err
        report = json.loads(linked.out)
        assert report["via"] in ("link", "reflink")
        blob = home / "rfctl" / "data" / "engine" / "models" / "blobs"
        assert (blob / report["source_digest"].replace(":", "-")).stat().st_size == path.stat().st_size
        plain = rfctl("model", "push", "m.gguf", "n", "--via", "http", "--no-verify", "--json")
        assert json.loads(plain.out)["via"] == "http"
        assert rfctl("model", "ls").out.count(":latest") == 2
    finally:
        rfctl("engine", "stop")


@posix
def test_a_full_disk_has_its_own_error_and_leaves_no_model(tmp_path: Path) -> None:
    import resource

    path = write_gguf(tmp_path / "m.gguf")
    with Keeper(version="0.33.0+rfctl") as server, OllamaClient(server.url) as client:
        direct = Direct(ModelStore(tmp_path / "store"), True, describe)
        digest_of(path)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            with pytest.raises(RfctlError) as caught:
                push_file(client, path, "m", Wishes(), direct=direct, verify=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.id == "direct.write-failed"
    assert direct.store.models() == []
    assert not list(direct.store.blobs.glob("*.partial"))
