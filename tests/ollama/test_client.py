"""The client against recorded exchanges of a real Ollama: what is sent has the recorded form, what comes back
is understood."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ollama_server import HttpServer, Keeper, Replay, Response, answer, load_exchanges, stream

from rfctl.core.error import AuthError, RfctlError, UnreachableError, UsageError, VerdictError
from rfctl.ollama.client import OllamaClient, normalise_host
from rfctl.ollama.creation import create_model
from rfctl.ollama.failure import explain_failure
from rfctl.ollama.parameter import check_parameters

# What our client never causes: malformed JSON, wrong field types, features it does not use.
NEVER_CAUSED = (
    "json:",
    "invalid character",
    "missing request body",
    "invalid format",
    "Multimodal",
    "raw mode",
    "invalid duration",
    "invalid input",
    "invalid option",
    "neither 'from'",
    "only one adapter",
    "relative",
    "dimensions",
    "decode error",
    "Failed to parse",
)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:5000", "http://127.0.0.1:5000"),
        ("http://0.0.0.0:5000/", "http://127.0.0.1:5000"),
        ("[::]:80", "http://[::1]:80"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[fe80::1]:9", "http://[fe80::1]:9"),
        (":56789", "http://127.0.0.1:56789"),
        (' "example.com" ', "http://example.com:11434"),
        ("'example.com:1'", "http://example.com:1"),
        ("http://example.com", "http://example.com:80"),
        ("https://example.com", "https://example.com:443"),
        ("https://example.com:1/path/", "https://example.com:1/path"),
        ("example.com/path", "http://example.com:11434/path"),
        ("example.com:99999", "http://example.com:11434"),
        ("example.com:abc", "http://example.com:11434"),
    ],
)
def test_host_is_read_as_ollama_reads_it(text: str, url: str) -> None:
    assert normalise_host(text) == url


@given(st.text(max_size=40))
def test_a_normalised_host_stays_as_it_is_or_is_refused(text: str) -> None:
    try:
        with OllamaClient(text) as client:
            assert normalise_host(client.url) == client.url
    except UsageError as error:
        assert error.id == "ollama.url-invalid"


def test_questions_are_sent_and_understood_as_recorded(golden: Path) -> None:
    names = ("version", "tags", "ps", "create-real-model", "show-embedding-model", "create-gguf-full")
    exchanges = [e for name in names for e in load_exchanges(golden, name)]
    with Replay(exchanges) as server, OllamaClient(server.url) as client:
        version = client.version()
        assert (version.text, version.release, version.renders_jinja) == ("0.0.0", None, True)
        entries = client.models()
        assert [entry.name for entry in entries] == ["all-minilm:latest", "smollm2:135m", "tiny:latest"]
        assert entries[0].capabilities == ("embedding",)
        assert entries[0].embedding_length == 384
        assert client.find("SMOLLM2:135m") == entries[1]
        assert client.find("tiny") == entries[2]
        assert client.find("nothing") is None
        assert client.running() == ()
        card = client.show("smollm2:135m")
        assert card.parameters == {"num_ctx": 1024, "stop": ["<|im_end|>", "<|im_start|>"]}
        assert (card.context_length, card.embedding_length, card.quantization) == (8192, 576, "F16")
        assert card.blob_digest == "ccb4e0cbfb54247e8ce9749b64e965e7e7f36145aea135628aa4252d780a0c17"
        assert client.show("smollm2:135m", verbose=True).template == card.template
        assert client.show("all-minilm").capabilities == ("embedding",)
        full = client.show("tiny-full:v1")
        assert full.system == "Answer in one word. 用一个词回答。"
        assert [message["content"] for message in full.messages] == ["hi", "hello"]
        assert full.parameters["stop"] == ["</a>", "<u>"]
        assert not server.misses
    ps = [e for e in load_exchanges(golden, "ps") if e["response"]["json"].get("models")]
    with Replay(ps) as server, OllamaClient(server.url) as client:
        (running,) = client.running()
        assert (running.name, running.context_length) == ("smollm2:135m", 1024)


def test_every_recorded_create_is_followed_to_its_end(golden: Path) -> None:
    count = 0
    names = (
        "create-gguf-stream",
        "create-gguf-nostream",
        "create-gguf-full",
        "create-no-template",
        "create-real-model",
        "create-quantize",
        "create-quantize-errors",
        "create-errors",
        "create-bad-jinja",
        "probe-header-only",
    )
    for name in names:
        for exchange in load_exchanges(golden, name):
            request, recorded = exchange["request"], exchange["response"]
            if request["path"] != "/api/create" or not isinstance(request.get("json"), dict):
                continue
            count += 1
            with Replay([exchange]) as server, OllamaClient(server.url) as client:
                lines = recorded.get("ndjson") or [recorded["json"]]
                texts = [line["status"] for line in lines if "status" in line]
                if "error" in lines[-1]:
                    with pytest.raises(RfctlError) as caught:
                        client.create(request["json"])
                    own = not any(word in lines[-1]["error"] for word in NEVER_CAUSED)
                    assert not own or caught.value.id != "ollama.server-error", lines[-1]
                    assert caught.value.id != "ollama.create-unfinished"
                else:
                    assert list(client.create(request["json"])) == texts
                assert not server.misses
    assert count > 70


def test_chat_generate_and_embed_are_understood_as_recorded(golden: Path) -> None:
    for name in ("chat-nostream", "chat-stop-and-length", "generate", "embed"):
        for exchange in load_exchanges(golden, name):
            body, recorded = exchange["request"].get("json"), exchange["response"]
            if path_of(exchange) == "/api/embeddings":
                continue  # the old call; our client uses /api/embed
            if not body or set(body) - {"model", "messages", "prompt", "input", "options", "stream", "raw"}:
                continue
            texts = body.get("input", [] if path_of(exchange) != "/api/embed" else None)
            if (
                "model" not in body
                or not isinstance(texts, list)
                or not all(isinstance(t, str) for t in texts)
            ):
                continue  # what our client cannot send
            if "ndjson" in recorded or "<trimmed" in json.dumps(recorded):
                continue
            with Replay([exchange]) as server, OllamaClient(server.url) as client:
                try:
                    got = send(client, exchange["request"]["path"], body)
                except RfctlError:
                    assert recorded["status"] != 200, exchange
                    assert not server.misses, server.misses
                    continue
                assert not server.misses
                wanted = recorded["json"]
                if "embeddings" in wanted:
                    assert [list(vector) for vector in got] == wanted["embeddings"]
                    continue
                text = wanted["message"]["content"] if "message" in wanted else wanted["response"]
                assert got.text == text
                assert got.done_reason == wanted["done_reason"]
                assert got.answer_tokens == wanted.get("eval_count", 0)


def path_of(exchange: dict[str, Any]) -> str:
    return str(exchange["request"]["path"])


def send(client: OllamaClient, path: str, body: dict[str, Any]) -> Any:
    options = body.get("options", {})
    if path == "/api/chat":
        return client.chat(body["model"], body.get("messages", []), **options)
    if path == "/api/generate":
        return client.generate(body["model"], body["prompt"], raw=body.get("raw", False), **options)
    return client.embed(body["model"], body["input"])


def test_a_stream_of_pieces_ends_with_the_answer(golden: Path) -> None:
    (exchange,) = load_exchanges(golden, "chat-stream")
    body = exchange["request"]["json"]
    exchange["request"]["json"] = body | {"stream": True}
    text = json.dumps(exchange["response"]["ndjson"]).replace('"<duration_ns>"', "1000000")
    exchange["response"]["ndjson"] = json.loads(text)
    with Replay([exchange]) as server, OllamaClient(server.url) as client:
        *pieces, last = client.stream_chat(body["model"], body["messages"], **body.get("options", {}))
        assert not server.misses
    assert not isinstance(last, str)
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == last.text
    assert last.done_reason in ("stop", "length")


def test_copy_delete_render_and_blobs_as_recorded(golden: Path, tmp_path: Path) -> None:
    names = ("copy-delete", "debug-render")
    with Replay([e for n in names for e in load_exchanges(golden, n)]) as server:
        client = OllamaClient(server.url)
        client.copy("tiny", "tiny-copy:v2")
        with pytest.raises(RfctlError) as caught:
            client.copy("nope", "x")
        assert caught.value.id == "ollama.model-missing"
        assert caught.value.params["model"] == "nope"
        with pytest.raises(UsageError):
            client.copy("tiny", "bad name")
        client.delete("tiny-copy:v2")
        question = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
        assert client.render("smollm2:135m", question) == (
            f"<|im_start|>user\n{question[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
        )
        with pytest.raises(RfctlError) as caught:
            client.render("nope", question)
        assert caught.value.id == "ollama.model-missing"
        assert not server.misses
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    digest = f"sha256:{hashlib.sha256(b'').hexdigest()}"
    with Replay(load_exchanges(golden, "blobs")) as server, OllamaClient(server.url) as client:
        assert not client.has_blob(
            "sha256:" + "27042f4e6eca7d0b2a7ee4026df2ecfa51d3339e6d122aa099118ecd8563bad9"
        )
        assert client.has_blob("sha256:8810ad581e59f2bc3928b261707a71308f7e139eb04820366dc4d5c18d980225")
        with pytest.raises(RfctlError):
            client.has_blob("nonsense")
    with Replay([e for e in load_exchanges(golden, "blobs") if digest in e["request"]["path"]]) as server:
        server.exchanges.insert(
            0,
            {
                "request": {"method": "HEAD", "path": f"/api/blobs/{digest}"},
                "response": {"status": 404, "content_type": None},
            },
        )
        assert OllamaClient(server.url).upload(empty, digest) == 0
        assert [request.method for request in server.requests] == ["HEAD", "POST"]
        assert not server.misses


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
        lambda: client.create({"model": "m"}),
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
        for call in (client.version, lambda: client.create({"model": "m"})):
            with pytest.raises(RfctlError) as caught:
                call()
            assert caught.value.id == "ollama.not-ollama"


def test_create_without_success_line_is_a_failure() -> None:
    with Keeper(create_lines=[{"status": "parsing GGUF"}, {"status": "writing manifest"}]) as server:
        with pytest.raises(RfctlError) as caught:
            OllamaClient(server.url).create({"model": "m"})
        assert caught.value.id == "ollama.create-unfinished"
        assert caught.value.params["status"] == "writing manifest"


def test_create_whose_connection_breaks_is_a_failure() -> None:
    with Keeper(create_lines=[{"status": "parsing GGUF"}], cut_create=True) as server:
        with pytest.raises(UnreachableError) as caught:
            OllamaClient(server.url).create({"model": "m"})
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
        OllamaClient(server.url).create({"model": "m"})
    assert caught.value.id == "ollama.disk-full"


def test_server_gone_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    path.write_bytes(b"x" * (8 << 20))
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    with Keeper() as server, OllamaClient(server.url) as client:
        server.drop_upload_after = 100_000
        with pytest.raises(UnreachableError) as caught:
            client.upload(path, digest)
        assert caught.value.id == "ollama.connection-lost"
        server.drop_upload_after = None
        assert client.upload(path, digest) == 8 << 20
        assert client.upload(path, digest) == 0


def test_wrong_digest_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    with Keeper() as server, OllamaClient(server.url) as client, pytest.raises(RfctlError) as caught:
        client.upload(path, "sha256:" + "1" * 64)
    assert caught.value.id == "ollama.digest-mismatch"


def test_parameters_of_recorded_creates_have_known_types(golden: Path) -> None:
    seen = 0
    for exchange in load_exchanges(golden, "create-gguf-full"):
        body = exchange["request"].get("json") or {}
        if body.get("model") in ("tiny-full:v1", "tiny-child") and "parameters" in body:
            assert check_parameters(body["parameters"])
            seen += 1
    assert seen


def test_a_create_stream_without_end_of_line_is_not_read_for_ever() -> None:
    def endless(request: Any) -> Response:
        return Response(200, (b"x" * 65536 for _ in range(10_000)), "application/x-ndjson")

    with HttpServer(endless) as server, pytest.raises(RfctlError) as caught:
        OllamaClient(server.url).create({"model": "m"})
    assert caught.value.id == "ollama.create-unfinished"


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
