"""Servers that are not there, say nothing, say something else, or say no: each has an error of its own."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ollama_server import NEVER_CAUSED, HttpServer, Keeper, Response, answer, load_exchanges

from rfctl.core.error import AuthError, RfctlError, UnreachableError, VerdictError
from rfctl.ollama.blob import Content, upload_blob
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.creation import create_model
from rfctl.ollama.failure import explain_failure


def test_every_recorded_error_has_an_id_of_its_own(golden: Path) -> None:
    unknown = set()
    for path in sorted((golden / "ollama" / "exchanges").glob("*.json")):
        if path.stem == "fixtures":
            continue
        for exchange in load_exchanges(golden, path.stem):
            document = exchange["response"].get("json")
            if isinstance(document, dict) and isinstance(document.get("error"), str):
                error = explain_failure(exchange["response"]["status"], document["error"], url="u", model="m")
                assert error.text("en").message and error.text("zh").message
                assert "{" not in error.text("en").message + error.text("en").next, error.id
                if error.id == "ollama.server-error":
                    unknown.add(document["error"])
    assert [text for text in sorted(unknown) if not any(word in text for word in NEVER_CAUSED)] == []


@pytest.mark.parametrize(
    ("status", "text", "kind", "id"),
    [
        (401, "unauthorized", AuthError, "ollama.unauthorised"),
        (403, "", RfctlError, "ollama.host-refused"),
        (
            503,
            "server busy, please try again.  maximum pending requests exceeded",
            UnreachableError,
            "ollama.busy",
        ),
        (200, "write /root/.ollama/models/blobs/x: no space left on device", RfctlError, "ollama.disk-full"),
        (
            200,
            "failed to validate GGUF with llama-quantize without compatibility patches: "
            "llama-quantize failed: exit status 1",
            VerdictError,
            "ollama.gguf-refused",
        ),
        (
            500,
            "failed to validate GGUF with llama-quantize: llama-quantize unavailable: "
            "llama-quantize binary not found (checked: /x)",
            RfctlError,
            "ollama.quantizer-missing",
        ),
    ],
)
def test_texts_of_servers_become_typed_errors(status: int, text: str, kind: type, id: str) -> None:
    error = explain_failure(status, text, url="http://x", model="m")
    assert type(error) is kind
    assert error.id == id


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = OllamaClient(f"http://127.0.0.1:{port}")
    calls: list[Callable[[], object]] = [
        client.version,
        lambda: create_model(client, {"model": "m"}),
        lambda: client.chat("m", [{"role": "user", "content": "x"}]),
        lambda: list(client.stream_chat("m", [{"role": "user", "content": "x"}])),
        lambda: client.has_blob("sha256:" + "0" * 64),
    ]
    for call in calls:
        with pytest.raises(UnreachableError) as caught:
            call()
        assert caught.value.id == "ollama.unreachable"
        assert caught.value.exit_code == 3


def test_loopback_never_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with (
        HttpServer(lambda request: answer({"version": "0.30.1"})) as server,
        OllamaClient(server.url) as client,
    ):
        assert client.version().release == (0, 30, 1)


def test_a_server_that_says_nothing_in_time_is_unreachable() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = OllamaClient(f"http://127.0.0.1:{silent.getsockname()[1]}", read_seconds=0.2)
        with pytest.raises(UnreachableError) as caught:
            client.version()
    assert caught.value.id == "ollama.timeout"


def test_something_else_on_the_port() -> None:
    page = Response(200, b"<html>router</html>", "text/html")
    with HttpServer(lambda request: page) as server, OllamaClient(server.url) as client:
        for call in (client.version, lambda: create_model(client, {"model": "m"})):
            with pytest.raises(RfctlError) as caught:
                call()
            assert caught.value.id == "ollama.not-ollama"


def test_server_gone_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    path.write_bytes(b"x" * (8 << 20))
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    with Keeper() as server, OllamaClient(server.url) as client:
        server.drop_upload_after = 100_000
        with pytest.raises(UnreachableError) as caught:
            upload_blob(client, Content.of_file(path), digest)
        assert caught.value.id == "ollama.connection-lost"
        server.drop_upload_after = None
        assert upload_blob(client, Content.of_file(path), digest) == 8 << 20
        assert upload_blob(client, Content.of_file(path), digest) == 0


def test_wrong_digest_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    with Keeper() as server, OllamaClient(server.url) as client, pytest.raises(RfctlError) as caught:
        upload_blob(client, Content.of_file(path), "sha256:" + "1" * 64)
    assert caught.value.id == "ollama.digest-mismatch"


def test_answers_that_nest_without_end_or_drip_for_ever() -> None:
    def drip() -> Iterator[bytes]:
        for _ in range(400):
            time.sleep(0.05)
            yield b" "

    deep = Response(200, b"[" * 200_000, "application/json")
    with HttpServer(lambda request: deep) as server, OllamaClient(server.url) as client:
        with pytest.raises(RfctlError) as caught:
            client.models()
        assert caught.value.id == "ollama.not-ollama"
    slow = Response(200, drip(), "application/json")
    begin = time.monotonic()
    with HttpServer(lambda request: slow) as server, OllamaClient(server.url, read_seconds=0.2) as client:
        with pytest.raises(UnreachableError) as late:
            client.models()
        assert late.value.id == "ollama.timeout"
    assert time.monotonic() - begin < 10
