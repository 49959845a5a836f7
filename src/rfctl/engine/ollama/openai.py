"""`/v1/models`, `/v1/chat/completions`, `/v1/embeddings`: llama-server's own, with our models and names."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rfctl.engine.failure import ApiError
from rfctl.engine.ollama import state
from rfctl.engine.ollama.answer import PLAIN_JSON_TYPE, answer, until_disconnect
from rfctl.engine.ollama.backend import Backend
from rfctl.engine.ollama.body import read_body
from rfctl.engine.ollama.embed import embed_texts
from rfctl.engine.ollama.listing import readable_models
from rfctl.engine.ollama.model import Model
from rfctl.engine.ollama.option import make_spec, merge_options, sampling

_CHAT = {"model": "string", "messages": "[]api.Message", "stream": "bool"}
_EMBED = {"model": "string"}
_KINDS = {400: "invalid_request_error", 404: "not_found_error"}
# Request fields that llama-server understands and may pass.
_PASSED = (
    *("messages", "tools", "tool_choice", "response_format", "temperature", "top_p", "seed", "stop"),
    *("frequency_penalty", "presence_penalty", "max_tokens", "stream_options"),
)


async def list_models(request: Request) -> Response:
    """All models in OpenAI's form."""
    rows = [
        {
            "id": str(model.name),
            "object": "model",
            "created": int(model.stored.modified),
            "owned_by": model.name.namespace,
        }
        for model in await readable_models(request)
    ]
    return answer({"object": "list", "data": rows or None}, media_type=PLAIN_JSON_TYPE)


async def chat(request: Request) -> Response:
    """A chat completion, whole or as server-sent events."""
    try:
        body = await read_body(request, "ChatCompletionRequest", _CHAT)
        model = state.of(request).library.get(body.get("model") or "")
        if model.is_embedding:
            raise ApiError(400, f'"{body["model"]}" does not support chat')
        events = _events(state.of(request), model, body)
        if body.get("stream"):
            first = await until_disconnect(request, _next(events))
            return StreamingResponse(_sse(first, events), media_type="text/event-stream")
        return await until_disconnect(request, _whole(events, body))
    except ApiError as error:
        return _refuse(error)


async def embed(request: Request) -> Response:
    """Vectors in OpenAI's form."""
    try:
        body = await read_body(request, "EmbedRequest", _EMBED)
        shared = state.of(request)
        model = shared.library.get(body.get("model") or "")
        texts = body.get("input")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ApiError(400, "invalid input")
        if not model.is_embedding:
            raise ApiError(400, f'"{body["model"]}" does not support embeddings')
        async with shared.pool.use(make_spec(model, merge_options(model, {})), str(model.name)) as lease:
            found = await until_disconnect(
                request, embed_texts(Backend(shared.pool, lease.worker), texts, truncate=True)
            )
        assert found
        vectors, count = found
        rows = [
            {"object": "embedding", "embedding": row, "index": index}
            for index, row in enumerate(vectors.astype(float).tolist())
        ]
        usage = {"prompt_tokens": count, "total_tokens": count}
        document = {"object": "list", "data": rows, "model": body["model"], "usage": usage}
        return answer(document, media_type=PLAIN_JSON_TYPE)
    except ApiError as error:
        return _refuse(error)


async def _events(shared: state.State, model: Model, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    options = merge_options(model, {})
    spec = make_spec(model, options)
    passed = {key: body[key] for key in _PASSED if key in body}
    if "max_completion_tokens" in body:
        passed["max_tokens"] = body["max_completion_tokens"]
    if not body.get("stream"):
        passed["stream_options"] = {"include_usage": True}
    async with shared.pool.use(spec, str(model.name)) as lease:
        settings = sampling(options, spec.num_ctx)
        settings.pop("n_predict")
        backend = Backend(shared.pool, lease.worker)
        async with contextlib.aclosing(backend.events("/v1/chat/completions", settings | passed)) as events:
            async for event in events:
                event.pop("timings", None)
                yield {**event, "model": body["model"], "system_fingerprint": "fp_ollama"}


async def _next(events: AsyncGenerator[dict[str, Any]]) -> dict[str, Any] | None:
    return await anext(events, None)


async def _sse(first: dict[str, Any] | None, events: AsyncGenerator[dict[str, Any]]) -> AsyncGenerator[str]:
    if first is not None:
        yield f"data: {json.dumps(first, ensure_ascii=False)}\n\n"
    try:
        async for event in events:
            yield f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
    except ApiError as error:
        yield f"data: {json.dumps({'error': {'message': error.text, 'code': error.status}})}\n\n"
    finally:
        await events.aclose()
    yield "data: [DONE]\n\n"


async def _whole(events: AsyncGenerator[dict[str, Any]], body: dict[str, Any]) -> Response:
    text, reason = "", "stop"
    usage: dict[str, int] = {}
    calls: list[Any] = []
    async for event in events:
        for choice in event.get("choices", ()):
            text += choice.get("delta", {}).get("content") or ""
            calls += choice.get("delta", {}).get("tool_calls") or []
            reason = choice.get("finish_reason") or reason
        usage = event.get("usage") or usage
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = calls
    counts = {key: usage.get(key, 0) for key in ("prompt_tokens", "completion_tokens", "total_tokens")}
    document = {
        "id": f"chatcmpl-{time.time_ns() % 1000}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "system_fingerprint": "fp_ollama",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": counts,
    }
    return answer(document, media_type=PLAIN_JSON_TYPE)


def _refuse(error: ApiError) -> Response:
    kind = _KINDS.get(error.status, "api_error")
    body = {"error": {"message": error.text, "type": kind, "param": None, "code": None}}
    return answer(body, error.status, PLAIN_JSON_TYPE)
