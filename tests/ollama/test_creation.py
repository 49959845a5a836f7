"""Creating a model: streams that break, that stay silent, that fail late."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ollama_server import HttpServer, Keeper, Response, answer, stream

from rfctl.core.error import RfctlError, UnreachableError
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.creation import create_model


def test_create_without_success_line_is_a_failure() -> None:
    with Keeper(create_lines=[{"status": "parsing GGUF"}, {"status": "writing manifest"}]) as server:
        with pytest.raises(RfctlError) as caught:
            create_model(OllamaClient(server.url), {"model": "m"})
        assert caught.value.id == "ollama.create-unfinished"
        assert caught.value.params["status"] == "writing manifest"


def test_create_whose_connection_breaks_is_a_failure() -> None:
    with Keeper(create_lines=[{"status": "parsing GGUF"}], cut_create=True) as server:
        with pytest.raises(UnreachableError) as caught:
            create_model(OllamaClient(server.url), {"model": "m"})
        assert caught.value.id == "ollama.connection-lost"


def test_create_that_is_silent_ends_at_its_deadline_or_when_the_server_is_gone() -> None:
    def silent(request: Any) -> Response:
        if request.path == "/api/version":
            return answer({"error": "gone"}, 502)

        def wait() -> Any:
            yield b'{"status":"parsing GGUF"}\n'
            __import__("time").sleep(4)
            yield b'{"status":"success"}\n'

        return Response(200, wait(), "application/x-ndjson")

    with HttpServer(silent) as server, OllamaClient(server.url) as client:
        with pytest.raises(UnreachableError) as caught:
            create_model(client, {"model": "m"}, deadline_seconds=1.5)
        assert caught.value.id == "ollama.create-timeout"
        with pytest.raises(RfctlError) as lost:
            create_model(client, {"model": "m"}, alive_seconds=0.5)
        assert lost.value.id == "ollama.server-error"


def test_elapsed_time_is_told_while_create_is_silent() -> None:
    seen: list[tuple[int | None, str]] = []

    class Clock:
        def __enter__(self) -> Clock:
            return self

        def __exit__(self, *details: object) -> None:
            pass

        def update(self, *, done: int | None = None, total: int | None = None, detail: str = "") -> None:
            seen.append((done, detail))

    class Listener:
        def stage(self, id: str, /, **params: object) -> Any:
            assert (id, params["unit"]) == ("ollama.stage-create", "seconds")
            return Clock()

    def slow(request: Any) -> Response:
        def wait() -> Any:
            yield b'{"status":"parsing GGUF"}\n'
            time.sleep(2.5)
            yield b'{"status":"success"}\n'

        return Response(200, wait(), "application/x-ndjson")

    with HttpServer(slow) as server, OllamaClient(server.url) as client:
        create_model(client, {"model": "m"}, Listener())  # type: ignore[arg-type]
    assert (1, "parsing GGUF") in seen and (2, "parsing GGUF") in seen
    assert seen[-1][1] == "success"


def test_a_500_in_the_create_stream_is_the_error() -> None:
    lines = [{"status": "parsing GGUF"}, {"error": "write blobs/x: no space left on device"}]
    with HttpServer(lambda request: stream(lines)) as server, pytest.raises(RfctlError) as caught:
        create_model(OllamaClient(server.url), {"model": "m"})
    assert caught.value.id == "ollama.disk-full"


def test_a_create_stream_without_end_of_line_is_not_read_for_ever() -> None:
    def endless(request: Any) -> Response:
        return Response(200, (b"x" * 65536 for _ in range(10_000)), "application/x-ndjson")

    with HttpServer(endless) as server, pytest.raises(RfctlError) as caught:
        create_model(OllamaClient(server.url), {"model": "m"})
    assert caught.value.id == "ollama.create-unfinished"
