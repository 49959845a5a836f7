"""Pushes that cannot go well: bad wishes, cut files, full disks, two at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from model_file import write_gguf
from ollama_server import Keeper, Request, Response, answer, stream
from push_bench import keeper

from rfctl.core.error import RfctlError, UnreachableError, UsageError
from rfctl.core.gguf_header import GgufError
from rfctl.ollama.candidate import read_candidate
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.modelfile import parse_modelfile
from rfctl.ollama.proof import Verdict
from rfctl.ollama.push import Push, push


@pytest.mark.parametrize(
    ("arguments", "id"),
    [
        ({"num_ctx": 40000}, "ollama.num-ctx"),
        ({"num_ctx": 0}, "ollama.num-ctx"),
        ({"template": "nonsense"}, "ollama.family-unknown"),
        ({"parameters": {"nonsense": 1}}, "ollama.parameter-unknown"),
        ({"parameters": {"temperature": "hot"}}, "ollama.parameter-type"),
        ({"modelfile": parse_modelfile("FROM .\nADAPTER x")}, "ollama.modelfile-adapter"),
    ],
)
def test_bad_wishes_are_refused_before_anything_is_sent(
    tmp_path: Path, arguments: dict[str, object], id: str
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    with keeper(path) as server, OllamaClient(server.url) as client:
        with pytest.raises(UsageError) as caught:
            push(client, path, "tiny", **arguments)  # type: ignore[arg-type]
        assert caught.value.id == id
        assert {request.method for request in server.requests} == {"GET"}


def test_a_cut_file_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:-100])
    with Keeper() as server, OllamaClient(server.url) as client:
        with pytest.raises(GgufError):
            push(client, path, "tiny")
        assert not server.requests


def test_faults_leave_no_entry_in_the_ledger(tmp_path: Path) -> None:
    path, ledger = write_gguf(tmp_path / "tiny.gguf", rows=20000), tmp_path / "ledger.json"
    with keeper(path) as server, OllamaClient(server.url) as client:
        server.drop_upload_after = 1000
        with pytest.raises(UnreachableError):
            push(client, path, "tiny", ledger_path=ledger)
        server.drop_upload_after = None
        for lines, id in (
            ([{"status": "parsing GGUF"}], "ollama.create-unfinished"),
            ([{"error": "write x: no space left on device"}], "ollama.disk-full"),
            ([{"status": "success"}], "ollama.create-vanished"),
        ):
            server.create_lines = lines
            with pytest.raises(RfctlError) as caught:
                push(client, path, "tiny", ledger_path=ledger)
            assert caught.value.id == id
        server.create_lines = None
        assert not push(client, path, "tiny", ledger_path=ledger).unchanged


def test_a_ledger_that_cannot_be_written_does_not_undo_the_push(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "file").write_text("")
    with keeper(path) as server, OllamaClient(server.url) as client:
        result = push(client, path, "tiny", ledger_path=tmp_path / "file" / "ledger.json")
        assert result.verdict is Verdict.PASSED
        assert "tiny:latest" in server.models


def test_two_pushes_at_once_both_reach_the_ledger(tmp_path: Path) -> None:
    path, ledger = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "ledger.json"
    with keeper(path) as server:

        def work(name: str) -> Push:
            with OllamaClient(server.url) as client:
                return push(client, path, name, ledger_path=ledger, verify=False)

        names = ["a", "b", "c"]
        with ThreadPoolExecutor(3) as pool:
            assert [result.name for result in pool.map(work, names)] == [f"{name}:latest" for name in names]
        assert all(work(name).unchanged for name in names)


def test_two_pushes_of_one_name_at_once_do_not_mix(tmp_path: Path) -> None:
    path, ledger = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "ledger.json"
    inside, leave = threading.Event(), threading.Event()

    class Slow(Keeper):
        def _create(self, body: Any) -> Response:
            inside.set()
            assert leave.wait(30)
            return super()._create(body)

    with Slow(template=read_candidate(path).template) as server, OllamaClient(server.url) as client:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(push, client, path, "tiny", ledger_path=ledger, verify=False)
            assert inside.wait(30)
            with OllamaClient(server.url) as other, pytest.raises(RfctlError) as caught:
                push(other, path, "TINY:latest", num_ctx=64, ledger_path=ledger, verify=False)
            assert caught.value.id == "ollama.push-running"
            leave.set()
            assert not first.result().unchanged
        assert push(client, path, "tiny", ledger_path=ledger, verify=False).unchanged
        # After it another may go.
        assert push(client, path, "tiny", num_ctx=64, ledger_path=ledger, verify=False).num_ctx == 64


@pytest.mark.parametrize(
    ("status", "text", "id"),
    [
        (400, 'digest mismatch, expected "sha256:a", got "sha256:b"', "ollama.digest-mismatch"),
        (500, "open /m/blobs/sha256-1: permission denied", "ollama.store-permission"),
        (500, "open /m/blobs/sha256-1: read-only file system", "ollama.store-permission"),
        (500, "chtimes /m/blobs/sha256-1: operation not permitted", "ollama.store-permission"),
        (500, "write /m/blobs/sha256-1: no space left on device", "ollama.disk-full"),
        (500, "write /m/blobs/sha256-1: disk quota exceeded", "ollama.disk-full"),
    ],
)
def test_every_fault_of_the_servers_store_has_its_own_id_and_loses_nothing(
    tmp_path: Path, status: int, text: str, id: str
) -> None:
    class Faulty(Keeper):
        at = "blob"

        def _blob(self, request: Request) -> Response:
            if request.method == "POST" and self.at == "blob":
                return answer({"error": text}, status)
            return super()._blob(request)

        def _create(self, body: Any) -> Response:
            return super()._create(body) if self.at == "" else stream([{"error": text}])

    path, ledger = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "ledger.json"
    before = path.read_bytes()
    with Faulty(template=read_candidate(path).template) as server, OllamaClient(server.url) as client:
        server.at = ""
        good = push(client, path, "tiny", ledger_path=ledger)
        for server.at in ("blob", "create"):
            server.blobs.clear()
            with pytest.raises(RfctlError) as caught:
                push(client, path, "tiny", num_ctx=64, ledger_path=ledger)
            assert caught.value.id == id
            for language in ("en", "zh"):
                shown = caught.value.text(language)
                assert shown.message and shown.next
        assert path.read_bytes() == before
        # The model of before is there, and is known.
        assert push(client, path, "tiny", ledger_path=ledger).digest == good.digest
        assert push(client, path, "tiny", ledger_path=ledger).unchanged


def test_a_full_disk_during_the_upload_is_named(tmp_path: Path) -> None:
    class Full(Keeper):
        def _blob(self, request: Request) -> Response:
            if request.method == "POST":
                return answer({"error": "write /m/blobs/sha256-1: no space left on device"}, 500)
            return super()._blob(request)

    path = write_gguf(tmp_path / "tiny.gguf")
    with Full() as server, OllamaClient(server.url) as client:
        with pytest.raises(RfctlError) as caught:
            push(client, path, "tiny")
        assert caught.value.id == "ollama.disk-full"
        assert not server.models
