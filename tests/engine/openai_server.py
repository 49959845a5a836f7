"""A model server with OpenAI's API as vLLM has it: its list says `max_model_len`, and it may ask for a key.

Forms: vllm/entrypoints/openai/protocol.py (ModelCard, ErrorResponse).
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

from ragflow_bench import embed
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


class OpenAIServer:
    """models: name -> what its card says beyond the id. key: the one that is asked for, "" for none.

    breaks: the stream ends in the middle, as of a server that is killed.
    """

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {
            "my/chat": {"max_model_len": 8192, "owned_by": "vllm"},
            "my/vectors": {"max_model_len": 512, "owned_by": "vllm"},
        }
        self.key = ""
        self.breaks = False
        self.answer = "The launch code name is Heron. [ID:0]"
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._list),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/embeddings", self._embed, methods=["POST"]),
            ]
        )

    def _refuses(self, request: Request) -> Response | None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        return None

    async def _list(self, request: Request) -> Response:
        rows = [{"id": name, "object": "model", **card} for name, card in self.models.items()]
        return self._refuses(request) or JSONResponse({"object": "list", "data": rows})

    async def _read(self, kind: str, request: Request) -> tuple[dict[str, Any], Response | None]:
        body = await request.json()
        self.requests.append((kind, body))
        if refused := self._refuses(request):
            return body, refused
        if body["model"] not in self.models:
            text = f"The model `{body['model']}` does not exist."
            return body, JSONResponse({"error": {"message": text, "type": "NotFoundError", "code": 404}}, 404)
        # OpenAI's own server refuses what it does not know; so does this one, to hold us to the common part.
        known = {"model", "messages", "stream", "input", "encoding_format"}
        known |= {"max_tokens", "temperature", "top_p", "seed", "stop"}
        assert not body.keys() - known, body.keys() - known
        return body, None

    async def _chat(self, request: Request) -> Response:
        _, refused = await self._read("chat", request)
        if refused:
            return refused

        async def events() -> AsyncIterator[str]:
            for number, word in enumerate(re.findall(r"\S+\s*", self.answer)):
                if self.breaks and number:
                    return
                yield self._event({"delta": {"role": "assistant", "content": word}, "finish_reason": None})
            yield self._event({"delta": {}, "finish_reason": "stop"})
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    def _event(self, choice: dict[str, Any]) -> str:
        chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, **choice}]}
        return f"data: {json.dumps(chunk)}\n\n"

    async def _embed(self, request: Request) -> Response:
        body, refused = await self._read("embed", request)
        rows = [
            {"object": "embedding", "index": index, "embedding": embed(text).tolist()}
            for index, text in enumerate(body["input"])
        ]
        # The order of the rows is not promised, the index is.
        return refused or JSONResponse({"object": "list", "data": rows[::-1]})
