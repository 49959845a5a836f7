"""`model bundle`: written in parts, fetched in pieces, checked, put together, registered."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_file import write_gguf
from ollama_server import Keeper

from rfctl.core.error import RfctlError, UsageError, VerdictError
from rfctl.core.file import sha256_file
from rfctl.ollama.bundle import assemble_bundle, create_bundle, read_bundle, read_settings, verify_bundle
from rfctl.ollama.modelfile import Command, Modelfile

SETTINGS = Modelfile((Command("model", "x"), Command("num_ctx", "64"), Command("system", "Sei nett.")))


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "m.gguf", rows=5)


@pytest.fixture
def folder(gguf: Path, tmp_path: Path) -> Path:
    made = create_bundle(gguf, tmp_path / "b", "m", modelfile=SETTINGS, part_bytes=500)
    assert len(made.parts) > 3
    assert made.sha256 == sha256_file(gguf)
    return tmp_path / "b"


def test_what_is_put_together_is_what_was_sent(gguf: Path, folder: Path, tmp_path: Path) -> None:
    state = verify_bundle(folder)
    assert state.is_complete
    assert state.bytes_here == gguf.stat().st_size
    assert read_settings(state.bundle).commands[1:] == SETTINGS.commands[1:]
    target = assemble_bundle(state.bundle, tmp_path / "out" / "m.gguf")
    assert target.read_bytes() == gguf.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["m.gguf"]
    assert create_bundle(gguf, folder, "m", part_bytes=400).parts != state.bundle.parts  # once more, over it
    assert verify_bundle(folder).is_complete


def test_an_import_goes_on_where_it_ended(gguf: Path, folder: Path, tmp_path: Path) -> None:
    bundle = read_bundle(folder)
    late = folder / "part-00002"
    late.rename(tmp_path / "late")
    assert verify_bundle(folder).missing == ("part-00002",)
    target = tmp_path / "out" / "m.gguf"
    with pytest.raises(RfctlError) as caught:
        assemble_bundle(bundle, target)
    assert (caught.value.id, caught.value.params["file"]) == ("bundle.incomplete", "part-00002")
    (partial,) = target.parent.iterdir()
    assert partial.stat().st_size == 1000
    # Killed in the middle of a part: the torn end is cut off. Parts that were used are not needed any more.
    with partial.open("ab") as file:
        file.write(b"torn")
    (folder / "part-00000").unlink()
    (tmp_path / "late").rename(late)
    assert assemble_bundle(bundle, target).read_bytes() == gguf.read_bytes()


def test_damage_is_found_before_it_is_used(folder: Path, tmp_path: Path) -> None:
    bundle = read_bundle(folder)
    part = folder / "part-00001"
    part.write_bytes(bytes(500))
    state = verify_bundle(folder)
    assert (state.damaged, state.is_complete) == (("part-00001",), False)
    with pytest.raises(VerdictError) as caught:
        assemble_bundle(bundle, tmp_path / "out.gguf")
    assert caught.value.id == "bundle.damaged"
    assert not (tmp_path / "out.gguf").exists()
    # The first part was sound: the next import goes on behind it. Without any there is nothing to keep.
    (partial,) = tmp_path.glob("out.gguf.*")
    assert 0 < partial.stat().st_size < bundle.size
    partial.unlink()
    sound = (folder / "part-00000").read_bytes()
    for bad in (sound[:-1], bytes(len(sound))):
        (folder / "part-00000").write_bytes(bad)
        with pytest.raises(VerdictError):
            assemble_bundle(bundle, tmp_path / "out.gguf")
        assert list(tmp_path.glob("out.gguf*")) == []
    (folder / "part-00000").write_bytes(sound)
    (folder / "Modelfile").write_text("FROM evil\n")
    with pytest.raises(VerdictError):
        read_settings(bundle)
    # What was assembled from sound parts was changed afterwards: the whole hash tells.
    partial = tmp_path / f"out.gguf.{bundle.sha256[:16]}.partial"
    partial.write_bytes(bytes(bundle.size))
    with pytest.raises(VerdictError):
        assemble_bundle(bundle, tmp_path / "out.gguf")
    assert not partial.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"name": "../x"},
        {"parts": []},
        {"size": -1},
        {"sha256": "x"},
        {"parts": [{"file": "../../etc/passwd", "size": 1, "sha256": "0" * 64}], "size": 1},
        {"parts": [{"file": "part-00001", "size": 1, "sha256": "0" * 64}], "size": 1},
        {"parts": [{"file": "part-00000", "size": True, "sha256": "0" * 64}], "size": 1},
        {"origin": 3},
    ],
)
def test_a_hostile_index_is_refused(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RfctlError) as caught:
        read_bundle(folder)
    assert caught.value.id in ("bundle.broken", "store.name-invalid")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200) | st.text(alphabet='{}[]":,0a', max_size=60).map(str.encode))
def test_no_index_breaks_the_reader(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bundle.json").write_bytes(data)
    with pytest.raises(VerdictError):
        read_bundle(tmp_path)


def test_folders_with_other_things_are_left_alone(gguf: Path, tmp_path: Path) -> None:
    for name in ("notes.txt", "Modelfile"):
        taken = tmp_path / f"taken-{name}"
        taken.mkdir()
        (taken / name).write_text("mine")
        with pytest.raises(UsageError) as caught:
            create_bundle(gguf, taken, "m")
        assert caught.value.id == "bundle.folder-taken"
        assert (taken / name).read_text() == "mine"
    lossy = Modelfile((Command("model", "x"), Command("system", "a\u00a0b")))
    with pytest.raises(UsageError) as caught:
        create_bundle(gguf, tmp_path / "lossy", "m", modelfile=lossy)
    assert caught.value.id == "bundle.modelfile-altered"
    with pytest.raises(UsageError) as caught:
        read_bundle(tmp_path / "lossy")  # no index: there is no bundle
    assert caught.value.id == "bundle.none"


def test_a_kill_leaves_no_bundle(gguf: Path, tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from rfctl.ollama.bundle import create_bundle\n"
        "left = int(sys.argv[3])\n"
        "real = os.replace\n"
        "def replace(*arguments):\n"
        "    global left\n"
        "    left -= 1\n"
        "    if left == 0: os._exit(9)\n"
        "    real(*arguments)\n"
        "os.replace = replace\n"
        "create_bundle(Path(sys.argv[1]), Path(sys.argv[2]), 'm', part_bytes=700)\n"
    )
    folder = tmp_path / "b"
    for number in range(1, 30):
        command = [sys.executable, "-c", program, str(gguf), str(folder), str(number)]
        if subprocess.run(command, check=False, timeout=60).returncode == 0:
            break
        with pytest.raises(UsageError):
            read_bundle(folder)
    assert number > 4
    assert verify_bundle(folder).is_complete


def test_from_one_command_line_to_the_other(
    rfctl: Callable[..., Any], gguf: Path, tmp_path: Path, home: Path
) -> None:
    (tmp_path / "Modelfile").write_text("FROM .\nSYSTEM Be kind.\n", encoding="utf-8")
    made = rfctl(
        "model", "bundle", "create", "m.gguf", "out", "--name", "lap:v1", "--num-ctx", "128",
        "--modelfile", "Modelfile",
    )  # fmt: skip
    assert made.code == 0, made.err
    assert "out holds lap:v1" in made.out
    assert "rsync -avP --partial USER@" in made.out
    assert rfctl("model", "bundle", "verify", "out").code == 0
    with Keeper(version="0.24.0") as server:
        env = {"OLLAMA_HOST": server.url}
        part = tmp_path / "out" / "part-00000"
        part.rename(tmp_path / "late")
        missing = rfctl("model", "bundle", "verify", "out", "--json")
        assert (missing.code, json.loads(missing.out)["missing"]) == (5, ["part-00000"])
        early = rfctl("model", "bundle", "import", "out", env=env)
        assert (early.code, "bundle.incomplete" in early.err) == (1, True)
        (tmp_path / "late").rename(part)
        done = rfctl("model", "bundle", "import", "out", "--no-verify", "--json", env=env)
        assert done.code == 0, done.err
        body = server.models["lap:v1"]["body"]
        assert (body["system"], body["parameters"]["num_ctx"]) == ("Be kind.", 128)
        assert json.loads(done.out)["source_digest"] == f"sha256:{sha256_file(gguf)}"
    assert list((home / "rfctl" / "cache" / "bundle").iterdir()) == []
