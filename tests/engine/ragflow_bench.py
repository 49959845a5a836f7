"""The RAG half of the engine on a real socket, and an Ollama-speaking counterpart for it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from rfctl.engine.ragflow import app as ragflow

KEY = "ragflow-" + "k" * 43
DIMENSION = 384


class Server:
    """An ASGI application on a free loopback port, in a thread; a context manager."""

    def __init__(self, application: ASGIApp, port: int = 0) -> None:
        # With the protocol named asyncio switches Nagle's algorithm off; without, each answer takes 40 ms.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = uvicorn.Server(
            uvicorn.Config(application, log_level="error", timeout_graceful_shutdown=2)
        )
        self._thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    def __enter__(self) -> Server:
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self.server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        self._socket.close()


class Double:
    """Speaks as much of Ollama's API as the engine calls. Vectors are hashed bags of words.

    gate    cleared: embedding calls wait
    chats   what the chat model answers, by model name
    same    name -> another name of the same model
    """

    models = {
        "all-minilm:latest": (["embedding"], 512),
        "multilingual-e5-small:latest": (["embedding"], 512),
        "qwen2.5-coder:1.5b": (["completion", "tools"], 32768),
        "smollm2:135m": (["completion"], 8192),
    }

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.answer = "The launch code name is Heron. [ID:0]"
        self.requests: list[tuple[str, Any]] = []
        self.same: dict[str, str] = {}
        self.app = Starlette(
            routes=[
                Route("/api/version", self._version),
                Route("/api/tags", self._tags),
                Route("/api/show", self._show, methods=["POST"]),
                Route("/api/embed", self._embed, methods=["POST"]),
                Route("/api/chat", self._chat, methods=["POST"]),
                Route("/api/generate", self._generate, methods=["POST"]),
            ]
        )

    async def _version(self, request: Request) -> Response:
        return JSONResponse({"version": "0.0.0-double"})

    async def _tags(self, request: Request) -> Response:
        return JSONResponse(
            {
                "models": [
                    {"name": name, "model": name, "digest": digest(self.same.get(name, name))}
                    for name in self.models
                ]
            }
        )

    async def _show(self, request: Request) -> Response:
        capabilities, context = self.models[(await request.json())["model"]]
        info = {"general.architecture": "x", "x.context_length": context}
        return JSONResponse({"capabilities": capabilities, "model_info": info})

    async def _embed(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(("embed", body))
        while not self.gate.is_set():
            await asyncio.sleep(0.01)
        if body["model"] not in self.models:
            text = f'model "{body["model"]}" not found, try pulling it first'
            return JSONResponse({"error": text}, status_code=404)
        return JSONResponse({"embeddings": [embed(text).tolist() for text in body["input"]]})

    async def _generate(self, request: Request) -> Response:
        """Without a prompt: load the model."""
        name = (await request.json())["model"]
        done = {"response": "", "done": True, "done_reason": "load"}
        return JSONResponse({"model": name, "created_at": "", **done})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(("chat", body))
        if body["model"] not in self.models:
            return JSONResponse({"error": f"model '{body['model']}' not found"}, status_code=404)

        async def lines() -> AsyncIterator[bytes]:
            for word in re.findall(r"\S+\s*", self.answer):
                yield (
                    json.dumps({"message": {"role": "assistant", "content": word}, "done": False}).encode()
                    + b"\n"
                )
            end = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
            yield json.dumps(end).encode() + b"\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def embed(text: str) -> np.ndarray:
    """A unit vector in which texts with the same words are near."""
    vector = np.full(DIMENSION, 1e-3, dtype=np.float32)
    for word in re.findall(r"\w", text) if not text.isascii() else re.findall(r"\w+", text.lower()):
        vector[int(digest(word)[:8], 16) % DIMENSION] += 1
    return vector / np.linalg.norm(vector)


def application(data_dir: Path, self_url: str = "") -> Starlette:
    """The routes in an application of their own, unknown paths as RAGFlow answers them."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with ragflow.lifespan(data_dir, KEY, self_url) as state:
            app.state.ragflow = state
            yield

    async def missing(request: Request, error: Exception) -> Response:
        return await ragflow.not_found(request)

    return Starlette(routes=ragflow.routes(), lifespan=lifespan, exception_handlers={404: missing})


class Bench:
    """An engine with its counterpart and a client that has the key."""

    def __init__(self, server: Server, double: Double, double_url: str) -> None:
        self.url = server.url
        self.double = double
        self.double_url = double_url
        self.client = httpx.Client(
            base_url=f"{server.url}/api/v1",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=30,
            trust_env=False,
        )

        self.plain = httpx.Client(timeout=30, trust_env=False)

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        """The `data` of a call that must succeed."""
        response = self.client.request(method, path, **kwargs)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["code"] == 0, answer
        return answer.get("data")

    def register(self) -> None:
        """Provider, instance `local`, models and defaults, as at the end of the recording `providers`."""
        self.call("PUT", "/providers", json={"provider_name": "Ollama"})
        self.call(
            "POST",
            "/providers/Ollama/instances",
            json={"instance_name": "local", "api_key": "x", "base_url": self.double_url},
        )
        for name, (capabilities, tokens) in Double.models.items():
            kind = "embedding" if "embedding" in capabilities else "chat"
            self.call(
                "POST",
                "/providers/Ollama/instances/local/models",
                json={"model_name": name, "model_type": kind, "max_tokens": tokens},
            )
        for kind, name in (("chat", "smollm2:135m"), ("embedding", "all-minilm:latest")):
            chosen = {"model_provider": "Ollama", "model_instance": "local", "model_name": name}
            self.call("PATCH", "/models/default", json={"model_type": kind, **chosen})

    def create_dataset(self, name: str, **config: Any) -> str:
        """A dataset as the recordings of documents use it; returns its id."""
        parser = {
            "layout_recognize": "Plain Text",
            "chunk_token_num": 64,
            "raptor": {"use_raptor": False},
            "graphrag": {"use_graphrag": False},
        }
        body = {"name": name, "embedding_model": "all-minilm:latest@local@Ollama"}
        made = self.call("POST", "/datasets", json=body | {"parser_config": parser | config})
        return str(made["id"])

    def upload(self, dataset: str, *files: tuple[str, bytes]) -> list[dict[str, Any]]:
        """Upload (name, content) pairs; returns the documents."""
        sent = [("file", file) for file in files]
        added = self.call("POST", f"/datasets/{dataset}/documents", files=sent)
        assert isinstance(added, list)
        return added

    def document(self, dataset: str, id: str) -> dict[str, Any]:
        """One document as listed."""
        found = self.call("GET", f"/datasets/{dataset}/documents", params={"id": id})
        document = found["docs"][0]
        assert isinstance(document, dict)
        return document

    def wait(self, dataset: str, id: str, seconds: float = 20) -> dict[str, Any]:
        """The document once it is no longer RUNNING."""
        deadline = time.monotonic() + seconds
        while True:
            document = self.document(dataset, id)
            if document["run"] != "RUNNING":
                return document
            assert time.monotonic() < deadline, document
            time.sleep(0.03)


@contextlib.contextmanager
def bench(data_dir: Path, *, registered: bool = True, preset: bool = False) -> Iterator[Bench]:
    """An engine whose models are the double's; preset: as the engine's own provider, nothing registered."""
    double = Double()
    with Server(double.app) as ollama:
        self_url = ollama.url if preset else ""
        with Server(application(data_dir, self_url)) as server:
            made = Bench(server, double, ollama.url)
            try:
                if registered and not preset:
                    made.register()
                yield made
            finally:
                double.gate.set()
                made.client.close()
                made.plain.close()
