"""A session with the official `ollama` client, and what it must survive."""

from __future__ import annotations

import base64
import json
import math
import threading
import time
from pathlib import Path

import httpx
import pytest
from engine_process import Engine
from tiny_model import write_chat_model

import ollama


@pytest.fixture(scope="module")
def ready(engine: Engine, tiny_chat: Path, tiny_embedding: Path) -> Engine:
    engine.create("chat", tiny_chat)
    engine.create("embedding", tiny_embedding)
    return engine


@pytest.fixture
def client(ready: Engine) -> ollama.Client:
    return ollama.Client(host=ready.url, timeout=60, trust_env=False)


def ask(text: str = "hi") -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_the_whole_session(client: ollama.Client, tiny_chat: Path) -> None:
    digest = client.create_blob(tiny_chat)
    steps = client.create(
        "session:v1", files={"m.gguf": digest}, system="Be brief.", parameters={"num_ctx": 256}, stream=True
    )
    assert [step.status for step in steps][-1] == "success"
    assert {"session:v1", "chat:latest"} <= {model.model for model in client.list().models}
    shown = client.show("session:v1")
    assert shown.parameters == "num_ctx                        256"
    assert shown.capabilities == ["completion"]
    assert "SYSTEM Be brief." in (shown.modelfile or "")

    options = {"num_predict": 6, "temperature": 0, "seed": 1}
    whole = client.chat("session:v1", ask(), options=options)
    assert whole.done_reason == "length"
    assert whole.eval_count == 6
    parts = list(client.chat("session:v1", ask(), options=options, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    generated = client.generate("session:v1", "hi", options=options)
    assert generated.eval_count == 6
    assert client.ps().models[0].context_length == 256

    client.copy("session:v1", "session:v2")
    client.delete("session:v1")
    assert client.chat("session:v2", ask(), options=options).message.content == whole.message.content
    client.delete("session:v2")
    with pytest.raises(ollama.ResponseError) as error:
        client.show("session:v2")
    assert error.value.status_code == 404


# Greedy, the random model does not stop by itself: this runs for many seconds.
ENDLESS = {"num_predict": 1_000_000, "temperature": 0}


def assert_free(url: str) -> None:
    """The one slot of the model answers at once."""
    begin = time.monotonic()
    body = {"model": "chat", "messages": ask(), "stream": False, "options": {"num_predict": 1}}
    assert httpx.post(f"{url}/api/chat", json=body, timeout=30, trust_env=False).json()["done"]
    assert time.monotonic() - begin < 1.5


def test_a_stream_that_is_closed_frees_the_model(client: ollama.Client, ready: Engine) -> None:
    stream = client.chat("chat", ask(), stream=True, options=ENDLESS)
    for _ in zip(range(3), stream, strict=False):
        pass
    stream.close()
    assert_free(ready.url)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/v1/chat/completions"])
def test_a_client_that_gives_up_frees_the_model(ready: Engine, path: str) -> None:
    body = {"model": "chat", "messages": ask(), "prompt": "x", "stream": False, "options": ENDLESS}
    body |= {"temperature": 0, "max_tokens": 1_000_000}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{ready.url}{path}", json=body, timeout=0.5, trust_env=False)
    assert_free(ready.url)


def test_embeddings(client: ollama.Client) -> None:
    found = client.embed("embedding", ["hello world", "fox", "hello world", "word " * 500])
    assert len(found.embeddings) == 4
    assert all(math.isclose(math.hypot(*row), 1.0, abs_tol=1e-5) for row in found.embeddings)
    assert found.embeddings[0] == pytest.approx(found.embeddings[2], abs=1e-6)
    assert found.prompt_eval_count == 4 + 3 + 4 + 64
    cut = client.embed("embedding", "fox", dimensions=8).embeddings[0]
    assert len(cut) == 8
    assert math.isclose(math.hypot(*cut), 1.0, abs_tol=1e-5)
    with pytest.raises(ollama.ResponseError, match="exceeds the context length") as error:
        client.embed("embedding", "word " * 500, truncate=False)
    assert error.value.status_code == 400


def test_many_at_once(client: ollama.Client) -> None:
    found: list[object] = []

    def work(number: int) -> None:
        if number % 2:
            found.append(client.embed("embedding", ["hello world"] * 20).embeddings[-1])
        else:
            found.append(client.chat("chat", ask(), options={"num_predict": 20}).eval_count)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12


def test_json_schema_is_obeyed(client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [7, 8]}}, "required": ["n"]}
    schema["additionalProperties"] = False
    for call in (
        lambda: client.chat("chat", ask(), format=schema, options={"num_predict": 200}).message.content,
        lambda: client.generate("chat", "hi", format=schema, options={"num_predict": 200}).response,
    ):
        assert json.loads(call() or "")["n"] in (7, 8)


def test_stop_sequences_and_seed(client: ollama.Client) -> None:
    options = {"num_predict": 30, "temperature": 1.5, "seed": 4, "top_k": 0, "top_p": 1.0}
    first = client.generate("chat", "x", raw=True, options=options).response
    assert client.generate("chat", "x", raw=True, options=options).response == first
    stop = next(character for character in first[5:] if character.isascii() and character.isprintable())
    cut = client.generate("chat", "x", raw=True, options={**options, "stop": [stop]})
    assert cut.response == first[: first.index(stop)]
    assert cut.done_reason == "stop"


def test_openai_stream(ready: Engine) -> None:
    body = {"model": "chat", "messages": ask(), "max_tokens": 4, "stream": True, "temperature": 0}
    with ready.client() as http:
        text = http.post("/v1/chat/completions", json=body).text
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


def test_thinking_goes_to_its_own_field(
    client: ollama.Client, ready: Engine, tmp_path: Path, golden: Path
) -> None:
    case = json.loads((golden / "ollama/templates/deepseek-r1.json").read_text("utf-8"))
    model = write_chat_model(tmp_path / "m.gguf", template=case["jinja"], eos=case["eos_token"])
    ready.create("thinker", model)
    assert client.show("thinker").capabilities == ["completion", "thinking"]
    options = {"num_predict": 8, "temperature": 0}
    by_default = client.chat("thinker", ask(), options=options).message
    assert by_default.thinking
    assert not by_default.content
    parts = list(client.chat("thinker", ask(), options=options, think=True, stream=True))
    assert "".join(part.message.thinking or "" for part in parts) == by_default.thinking
    switched_off = client.chat("thinker", ask(), options=options, think=False).message
    assert switched_off.content
    assert not switched_off.thinking
    with pytest.raises(ollama.ResponseError, match="does not support thinking"):
        client.chat("chat", ask(), think=True)


def test_there_is_no_registry(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="rfctl model push") as error:
        client.pull("chat")
    assert error.value.status_code == 501


def test_images_are_refused_by_a_text_model(client: ollama.Client) -> None:
    image = base64.b64encode(b"png").decode()
    with pytest.raises(ollama.ResponseError) as error:
        client.chat("chat", [{"role": "user", "content": "x", "images": [image]}])
    assert error.value.status_code == 400
