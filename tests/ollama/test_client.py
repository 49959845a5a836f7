"""The client against recorded exchanges of a real Ollama: what is sent has the recorded form, what comes back
is understood."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from ollama_server import NEVER_CAUSED, Replay, load_exchanges

from rfctl.core.error import RfctlError, UsageError
from rfctl.ollama.blob import Content, upload_blob
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.creation import create_model
from rfctl.ollama.parameter import check_parameters


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
                        create_model(client, request["json"])
                    own = not any(word in lines[-1]["error"] for word in NEVER_CAUSED)
                    assert not own or caught.value.id != "ollama.server-error", lines[-1]
                    assert caught.value.id != "ollama.create-unfinished"
                else:
                    assert list(create_model(client, request["json"])) == texts
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
        assert upload_blob(OllamaClient(server.url), Content.of_file(empty), digest) == 0
        assert [request.method for request in server.requests] == ["HEAD", "POST"]
        assert not server.misses


def test_parameters_of_recorded_creates_have_known_types(golden: Path) -> None:
    seen = 0
    for exchange in load_exchanges(golden, "create-gguf-full"):
        body = exchange["request"].get("json") or {}
        if body.get("model") in ("tiny-full:v1", "tiny-child") and "parameters" in body:
            assert check_parameters(body["parameters"])
            seen += 1
    assert seen
