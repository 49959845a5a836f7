"""Where a file came from: in its header only when asked, in the ledger, in `model show`; nothing is hashed
twice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ollama_server import Keeper

from rfctl.converter.convert import convert
from rfctl.converter.provenance import Provenance, hash_source
from rfctl.core.file import sha256_file
from rfctl.core.gguf_header import read_header

sys.path.append(str(Path(__file__).parent.parent / "converter"))


@pytest.fixture(scope="module")
def model(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny

    folder = tmp_path_factory.mktemp("model") / "Tiny-7M"
    return tiny.make_model(folder, golden / "converter" / "tokenizers" / "gpt2")


def test_the_hash_is_what_sha256sum_prints_for_the_files_that_count(tmp_path: Path) -> None:
    contents = {"config.json": b"{}", "model.safetensors": b"w", "tokenizer.model": b"t", "Upper.json": b"1"}
    for name, data in {
        **contents,
        "notes.pdf": b"x",
        ".hidden.json": b"h",
        "other.safetensors": b"o",
    }.items():
        (tmp_path / name).write_bytes(data)
    names = sorted(contents, key=str.encode)
    lines = "".join(f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in names)
    assert hash_source(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()
    (tmp_path / "notes.pdf").write_bytes(b"other")
    assert hash_source(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_bytes(b"{}")
    before = hash_source(adapter)
    (adapter / "adapter_model.safetensors").write_bytes(b"a")
    assert hash_source(adapter) != before


def test_only_what_is_unknown_is_read(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    recorded: dict[Path, str] = {}
    first = hash_source(tmp_path, recall=lambda path: recorded.get(path, ""), record=recorded.update)
    assert {path.name for path in recorded} == {"config.json", "model.safetensors"}
    (tmp_path / "model.safetensors").write_bytes(b"another")
    known = hash_source(tmp_path, recall=lambda path: recorded.get(path, ""), record=pytest.fail)
    assert known == first  # it believed the record
    assert hash_source(tmp_path) != first


def test_provenance_adds_its_pairs_and_nothing_else(model: Path, tmp_path: Path) -> None:
    plain, again, marked = (tmp_path / name for name in ("plain.gguf", "again.gguf", "marked.gguf"))
    convert(model, plain, outtype="q8_0")
    convert(model, again, outtype="q8_0", provenance=None)
    origin = Provenance(hash_source(model), adapter="ab" * 32, options="--outtype q8_0")
    convert(model, marked, outtype="q8_0", provenance=origin)
    assert sha256_file(plain) == sha256_file(again)
    old, new = read_header(plain, array_limit=None), read_header(marked, array_limit=None)
    assert {key: value for key, value in new.values.items() if key not in old.values} == {
        "general.source.sha256": hash_source(model),
        "general.source.adapter.sha256": "ab" * 32,
        "general.source.converter": origin.converter,
        "general.source.reference": "llama.cpp b11434",
        "general.source.options": "--outtype q8_0",
    }
    assert new.tensors == old.tensors
    assert list(new.values)[: len(old.values)] == list(old.values)
    assert marked.read_bytes()[new.data_offset :] == plain.read_bytes()[old.data_offset :]
    convert(model, again, outtype="q8_0", provenance=origin, overwrite=True)
    assert sha256_file(again) == sha256_file(marked)  # no clock, no path


def test_push_writes_it_and_show_prints_it(rfctl: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Tiny-7M"
    shutil.copytree(model, folder)
    with Keeper() as server:

        def run(*arguments: str) -> Any:
            done = rfctl(*arguments, env={"OLLAMA_HOST": server.url})
            assert done.code == 0, done.err
            return done

        def push(name: str, *options: str) -> Any:
            return json.loads(run("model", "push", str(folder), name, "--no-verify", "--json", *options).out)

        first = push("tiny")
        sent = tmp_path / "sent.gguf"
        sent.write_bytes(server.blobs[first["source_digest"]])
        values = read_header(sent).values
        assert values["general.source.sha256"] == hash_source(folder)
        assert values["general.source.options"] == "--outtype auto"
        origin = json.loads(run("model", "show", "tiny:latest", "--json").out)["provenance"]
        assert origin["source_sha256"] == hash_source(folder)
        assert origin["source_digest"] == first["source_digest"]
        assert hash_source(folder) in run("model", "show", "tiny:latest").out
        # Other bytes behind the same inode, size and time: whoever read them again would notice.
        weights = folder / "model.safetensors"
        status = weights.stat()
        with weights.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            byte = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([byte[0] ^ 1]))
        os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
        again = push("tiny")
        assert again["unchanged"] is True
        assert again["seconds"] < 2
        plain = push("plain", "--no-provenance")
        sent.write_bytes(server.blobs[plain["source_digest"]])
        assert "general.source.sha256" not in read_header(sent).values
        # A file that tells its origin keeps it when it is pushed as a file.
        run("model", "convert", str(folder), "-o", "kept.gguf", "--provenance")
        run("model", "push", "kept.gguf", "kept", "--no-verify")
        kept = json.loads(run("model", "show", "kept:latest", "--json").out)["provenance"]
        assert kept["source_sha256"] == origin["source_sha256"]
