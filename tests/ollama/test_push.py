"""Pushing against a server on a socket that rewrites what it is given, as Ollama from 0.30 does."""

from __future__ import annotations

import os
import time
from pathlib import Path

from model_file import write_gguf
from ollama_server import Keeper
from push_bench import ids, keeper

from rfctl.core.progress import SILENT
from rfctl.ollama.blob import Content
from rfctl.ollama.candidate import read_candidate
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.modelfile import parse_modelfile
from rfctl.ollama.proof import Verdict
from rfctl.ollama.push import push
from rfctl.ollama.recipe import Wishes, decide


def test_push_sends_explicit_settings_and_proves_the_prompt(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    with keeper(path) as server, OllamaClient(server.url) as client:
        result = push(client, path, "My/Tiny:v1", system="Be kind.", ledger_path=tmp_path / "ledger.json")
        body = server.models["My/Tiny:v1"]["body"]
        uploaded = server.blobs[result.source_digest]
    assert body == {
        "model": "My/Tiny:v1",
        "files": {"tiny.gguf": result.source_digest},
        "parameters": {"num_ctx": 8192, "stop": ["<|im_start|>", "<|im_end|>"]},
        "system": "Be kind.",
    }
    assert (result.num_ctx, result.family, result.architecture) == (8192, "chatml", "llama")
    assert not result.unchanged
    assert result.uploaded == result.size == len(uploaded)
    assert result.orphan_bytes == result.size  # the server serves a rewritten file
    assert ids(result) == [
        "ollama.check-capability",
        "ollama.check-prompt",
        "ollama.check-answer",
        "ollama.check-context",
        "ollama.check-end",
    ]
    assert result.verdict is Verdict.PASSED


def test_the_expected_disk_is_said_before_the_upload(tmp_path: Path) -> None:
    notes: list[tuple[str, int]] = []
    path = write_gguf(tmp_path / "tiny.gguf")
    with keeper(path) as server, OllamaClient(server.url) as client:

        class Listener(type(SILENT)):  # type: ignore[misc]
            def note(self, id: str, /, **params: object) -> None:
                uploads = [item for item in server.requests if item.method == "POST" and "blobs" in item.path]
                notes.append((id, len(uploads)))

        push(client, path, "tiny", verify=False, reporter=Listener())
        assert notes == [("ollama.push-disk", 0)]
        server.version = "0.9.2"  # takes the file as it is
        push(client, path, "other", verify=False, reporter=Listener())
        assert len(notes) == 1


def test_the_same_push_is_recognised_by_content(tmp_path: Path) -> None:
    path, ledger = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "ledger.json"
    with keeper(path) as server, OllamaClient(server.url) as client:
        first = push(client, path, "tiny", ledger_path=ledger)
        before = len(server.requests)
        again = push(client, path, "tiny:latest", ledger_path=ledger)
        asked = [(request.method, request.path) for request in server.requests[before:]]
        assert again.unchanged and again.uploaded == 0
        assert (again.digest, again.checks, again.stops) == (first.digest, first.checks, first.stops)
        assert asked == [("GET", "/api/version"), ("GET", "/api/tags")]
        # Other settings, a new name, a touched file and a model that somebody replaced are all pushed again;
        # bytes that the server has are not sent twice.
        assert not push(client, path, "tiny", num_ctx=4096, ledger_path=ledger).unchanged
        other = push(client, path, "other", ledger_path=ledger)
        assert not other.unchanged and other.uploaded == 0
        os.utime(path, (1, 1))
        assert push(client, path, "other", ledger_path=ledger).unchanged
        server.models["other:latest"]["digest"] = "f" * 64
        assert not push(client, path, "other", ledger_path=ledger).unchanged
        ledger.write_text("{broken")
        assert not push(client, path, "other", ledger_path=ledger).unchanged


def test_recognising_an_unchanged_file_reads_no_gigabytes(tmp_path: Path) -> None:
    path, ledger = write_gguf(tmp_path / "big.gguf", rows=5, embedding=64), tmp_path / "ledger.json"
    with path.open("ab") as file:
        file.truncate(1 << 30)  # sparse; behind the tensors
    with keeper(path) as server, OllamaClient(server.url) as client:
        content = Content.of_file(path)
        assert content.size == 1 << 30
        recipe = decide(read_candidate(path), Wishes(), client.version())
        from rfctl.ollama.ledger import Entry, Ledger

        book = Ledger(ledger)
        book.record_digest(path, "padded", "sha256:" + "a" * 64)
        book.record(server.url, "big:latest", Entry("sha256:" + "a" * 64, recipe.settings, "m", 1, 0, True))
        server.models["big:latest"] = {"digest": "m"}
        started = time.monotonic()
        assert push(client, path, "big", ledger_path=ledger).unchanged
    assert time.monotonic() - started < 2


def test_embedding_models_are_measured(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "mini.gguf", template="", pooling=1, context=1024, embedding=2)
    with Keeper(capabilities=("embedding",)) as server, OllamaClient(server.url) as client:
        result = push(client, path, "mini")
        assert (result.num_ctx, result.is_embedding, result.stops) == (1024, True, ())
        assert ids(result) == [
            "ollama.check-capability",
            "ollama.check-embedding",
            "embedding.pooling",
            "embedding.context",
        ]
        assert result.verdict is Verdict.PASSED
        server.vectors = [[3.0, 4.0], [1.0, 0.0]]
        assert push(client, path, "mini").verdict is Verdict.FAILED
        server.vectors = [[1.0], [1.0]]
        assert push(client, path, "mini").verdict is Verdict.FAILED


def test_a_modelfile_gives_what_the_flags_do_not(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    text = 'FROM .\nSYSTEM from file\nPARAMETER num_ctx 2048\nPARAMETER stop "X "\nPARAMETER top_k 5\n'
    text += "PARAMETER mirostat 2\nLICENSE MIT\nMESSAGE user hi\n"
    with keeper(path) as server, OllamaClient(server.url) as client:
        push(client, path, "tiny", modelfile=parse_modelfile(text), system="flag", verify=False)
        body = server.models["tiny:latest"]["body"]
        push(client, path, "two", modelfile=parse_modelfile(text), num_ctx=1024, verify=False)
        assert server.models["two:latest"]["body"]["parameters"]["num_ctx"] == 1024
    assert body["system"] == "flag"
    assert body["parameters"] == {"num_ctx": 2048, "stop": ["X "], "top_k": 5}
    assert body["license"] == ["MIT"]
    assert body["messages"] == [{"role": "user", "content": "hi"}]


def test_a_server_on_another_port_is_recognised_by_the_manifest(tmp_path: Path) -> None:
    path, ledger = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "ledger.json"
    with keeper(path) as old, OllamaClient(old.url) as client:
        push(client, path, "tiny", ledger_path=ledger)
    with keeper(path) as new, OllamaClient(new.url) as client:
        assert not push(client, path, "tiny", num_ctx=64, ledger_path=ledger).unchanged
        new.models = old.models
        new.blobs = old.blobs
        assert not push(client, path, "tiny", ledger_path=ledger).unchanged
    with keeper(path) as third, OllamaClient(third.url) as client:
        third.models = new.models
        assert push(client, path, "tiny", ledger_path=ledger).unchanged
