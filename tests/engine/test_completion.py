"""Answers when something is wrong or long: models that fail, break off or vanish, clients that leave."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from ragflow_bench import Bench, Double, Server, application, bench
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

QUESTION = {"question": "How must the battery be stored?"}


class Unruly(Double):
    """The counterpart with faults. fault: "" none, "refuse", "break" (in the middle), "slow", "length";
    parameters: what /api/show says."""

    def __init__(self) -> None:
        super().__init__()
        self.fault = ""
        self.parameters = ""
        self.left = 0

    async def _show(self, request: Request) -> Response:
        response = json.loads((await super()._show(request)).body)
        return JSONResponse(response | {"parameters": self.parameters})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(("chat", body))
        if self.fault == "refuse":
            return JSONResponse(
                {"error": "llama runner process has terminated: exit status 2"}, status_code=500
            )

        async def lines() -> AsyncIterator[bytes]:
            try:
                for number in range(100 if self.fault == "slow" else 3):
                    yield (
                        json.dumps({"message": {"content": f"word{number} "}, "done": False}).encode() + b"\n"
                    )
                    await asyncio.sleep(0.1 if self.fault == "slow" else 0)
                if self.fault != "break":
                    reason = "length" if self.fault == "length" else "stop"
                    yield json.dumps(
                        {"message": {"content": ""}, "done": True, "done_reason": reason}
                    ).encode()
            finally:
                self.left += 1

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    def asked(self) -> dict[str, Any]:
        """The last call of the chat model."""
        return [body for kind, body in self.requests if kind == "chat"][-1]


class Scene:
    def __init__(self, engine: Bench, double: Unruly, chat: str) -> None:
        self.engine, self.double, self.chat = engine, double, chat

    def ask(self, **body: Any) -> dict[str, Any]:
        return self.engine.call(
            "POST", f"/chats/{self.chat}/completions", json={"stream": False} | QUESTION | body
        )

    def stream(self, **body: Any) -> list[dict[str, Any]]:
        path = f"/chats/{self.chat}/completions"
        response = self.engine.client.post(path, json=QUESTION | body)
        return [json.loads(frame.removeprefix("data:")) for frame in response.text.split("\n\n") if frame]

    def session(self, id: str) -> dict[str, Any]:
        return self.engine.call("GET", f"/chats/{self.chat}/sessions/{id}")


@pytest.fixture(scope="module")
def served(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    handbook = (golden / "ragflow" / "fixtures" / "handbook.pdf").read_bytes()
    double = Unruly()
    with Server(double.app) as ollama, Server(application(tmp_path_factory.mktemp("data"))) as server:
        engine = Bench(server, double, ollama.url)
        engine.register()
        dataset = engine.create_dataset("docs")
        [document] = engine.upload(dataset, ("handbook.pdf", handbook))
        engine.call("POST", f"/datasets/{dataset}/chunks", json={"document_ids": [document["id"]]})
        assert engine.wait(dataset, document["id"])["run"] == "DONE"
        chat = engine.call("POST", "/chats", json={"name": "a", "dataset_ids": [dataset]})
        yield Scene(engine, double, chat["id"])
        engine.client.close()


@pytest.fixture
def scene(served: Scene) -> Scene:
    served.double.fault = served.double.parameters = ""
    return served


def test_the_source_is_named_with_its_page(scene: Scene) -> None:
    scene.double.answer = "The battery must be stored below thirty degrees."
    answer = scene.ask()
    best = answer["reference"]["chunks"][0]
    assert best["document_name"] == "handbook.pdf"
    assert "The battery must be stored below thirty degrees." in best["content"]
    assert {position[0] for position in best["positions"]} == {2}
    assert answer["reference"]["doc_aggs"][0]["doc_name"] == "handbook.pdf"


@pytest.mark.parametrize("fault", ["refuse", "break"])
def test_a_model_that_fails_is_an_answer_that_says_so(scene: Scene, fault: str) -> None:
    scene.double.fault = fault
    whole = scene.ask()
    assert "**ERROR**: " in whole["answer"]
    assert ("llama runner" in whole["answer"]) == (fault == "refuse")
    frames = scene.stream()
    assert [frame["code"] for frame in frames] == [0] * len(frames)
    assert "**ERROR**: " in "".join(frame["data"]["answer"] for frame in frames[:-2])
    assert frames[-2]["data"]["final"] is True
    assert frames[-1]["data"] is True
    scene.double.fault = ""
    assert "**ERROR**" not in scene.ask()["answer"]


def test_an_answer_cut_by_its_length_says_so(scene: Scene) -> None:
    scene.double.fault = "length"
    assert scene.ask()["answer"].startswith("word0 word1 word2 ...\nThe answer is truncated")


def test_the_embedding_model_is_gone(scene: Scene) -> None:
    models = scene.double.models
    scene.double.models = {}
    try:
        response = scene.engine.client.post(
            f"/chats/{scene.chat}/completions", json=QUESTION | {"stream": False}
        )
        assert response.json()["code"] == 100
        assert response.json()["message"].startswith(
            "EmbeddingError('Embedding request failed for OllamaEmbed."
        )
        first, last = scene.stream()
        assert first["code"] == 500
        assert first["data"]["answer"].startswith("**ERROR**: Embedding request failed")
        assert last["data"] is True
    finally:
        scene.double.models = models


def test_the_chat_model_is_gone(tmp_path: Path) -> None:
    with bench(tmp_path) as engine:
        chat = engine.call("POST", "/chats", json={"name": "bare"})["id"]
        session = engine.call("POST", f"/chats/{chat}/sessions", json={"name": "s"})["id"]
        engine.double.models = {}
        asked = {"question": "Say hello.", "session_id": session, "stream": False}
        answer = engine.call("POST", f"/chats/{chat}/completions", json=asked)
        assert answer["answer"].startswith("**ERROR**: ")
        assert answer["reference"] == {"chunks": []}


def test_a_client_that_leaves_stops_the_model(scene: Scene) -> None:
    scene.double.fault = "slow"
    before, path = scene.double.left, f"/chats/{scene.chat}/completions"
    session = scene.engine.call("POST", f"/chats/{scene.chat}/sessions", json={"name": "left"})["id"]
    with scene.engine.client.stream("POST", path, json=QUESTION | {"session_id": session}) as response:
        assert next(response.iter_lines()).startswith("data:")
    deadline = time.monotonic() + 5
    while scene.double.left == before:
        assert time.monotonic() < deadline, "the model goes on although nobody listens"
        time.sleep(0.02)
    # Nothing half is kept; the session goes on.
    scene.double.fault = ""
    assert len(scene.session(session)["messages"]) == 1
    scene.ask(session_id=session)
    assert len(scene.session(session)["messages"]) == 3


def test_words_come_while_the_model_writes(scene: Scene) -> None:
    scene.double.fault = "slow"
    path, begin = f"/chats/{scene.chat}/completions", time.monotonic()
    with scene.engine.client.stream("POST", path, json=QUESTION) as response:
        next(response.iter_lines())
    # 100 words take ten seconds.
    assert time.monotonic() - begin < 5


def test_history_goes_with_the_question(scene: Scene) -> None:
    session = scene.engine.call("POST", f"/chats/{scene.chat}/sessions", json={"name": "h"})["id"]
    scene.ask(session_id=session)
    scene.ask(session_id=session, question="And the antenna?")
    messages = scene.double.asked()["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[1]["content"] == QUESTION["question"]
    assert "[ID:" not in messages[2]["content"]
    kept = scene.session(session)
    assert [message["role"] for message in kept["messages"]] == [
        "assistant",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert len(kept["reference"]) == 2


def test_a_question_without_history_keeps_nothing(scene: Scene) -> None:
    count = len(scene.engine.call("GET", f"/chats/{scene.chat}/sessions", params={"page_size": 100}))
    body = {
        "chat_id": scene.chat,
        "messages": [{"role": "user", "content": QUESTION["question"]}],
        "pass_all_history_messages": True,
        "store_history_messages": False,
        "stream": False,
    }
    answer = scene.engine.call("POST", "/chat/completions", json=body)
    assert answer["reference"]["chunks"]
    assert len(scene.engine.call("GET", f"/chats/{scene.chat}/sessions", params={"page_size": 100})) == count


def test_the_context_is_known_to_the_model_server(scene: Scene) -> None:
    """Modelfiles decide; what they leave open is sent, so that no prompt is cut without a word."""
    from rfctl.engine.ragflow import limit

    kept = limit._KEPT_SECONDS
    limit._KEPT_SECONDS = 0
    try:
        scene.ask()
        options = scene.double.asked()["options"]
        assert options["num_ctx"] == 4096
        assert 64 <= options["num_predict"] <= 512
        scene.double.parameters = 'num_ctx                        512\nnum_predict 64\nstop "<|im_end|>"'
        answer = scene.ask()
        asked = scene.double.asked()
        assert "num_ctx" not in asked["options"]
        assert "num_predict" not in asked["options"]
        shown = sum(len(message["content"]) for message in asked["messages"])
        assert shown < 512 * 4
        assert asked["messages"][0]["content"].count("├── Title") == len(answer["reference"]["chunks"])
        scene.double.parameters = "num_ctx 96"
        assert scene.ask()["answer"].startswith("**ERROR**: system prompt and question need about")
    finally:
        limit._KEPT_SECONDS = kept
