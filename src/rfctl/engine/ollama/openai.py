"""`/v1/models`, `/v1/chat/completions` and `/v1/embeddings`, as openai/openai.go of Ollama has them."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rfctl.engine.failure import ApiError
from rfctl.engine.ollama import state
from rfctl.engine.ollama.answer import PLAIN_JSON_TYPE, answer, until_disconnect
from rfctl.engine.ollama.backend import Backend
from rfctl.engine.ollama.body import read_body
from rfctl.engine.ollama.chat import Lines, answer_messages, choose_thinking
from rfctl.engine.ollama.embed import embed_texts
from rfctl.engine.ollama.listing import readable_models
from rfctl.engine.ollama.option import make_spec, merge_options

_CHAT = {"model": "string", "messages": "[]api.Message", "stream": "bool"}
_EMBED = {"model": "string"}
_KINDS = {400: "invalid_request_error", 404: "not_found_error"}
# Request field -> option of Ollama.
_OPTIONS = {
    "max_tokens": "num_predict",
    "max_completion_tokens": "num_predict",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}


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
        name = body.get("model") or ""
        model = state.of(request).models.get(name)
        messages = [_from_openai(message) for message in body.get("messages", [])]
        if model.is_embedding:
            raise ApiError(400, f'"{name}" does not support chat')
        if not messages:
            raise ApiError(400, "[] is too short - 'messages'")
        if body.get("tools") and "tools" not in model.capabilities:
            raise ApiError(400, f"{model.name.full} does not support tools")
        think = choose_thinking(model, name, None)
        inner = _chat_request(body)
        lines = answer_messages(state.of(request), model, inner, messages, keep_alive=None, think=think)
        head = {"id": f"chatcmpl-{time.time_ns() % 1000}", "created": int(time.time()), "model": name}
        if body.get("stream"):
            with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            first = await until_disconnect(request, _next(lines))
            events = _sse(head, first, lines, with_usage=with_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        return await until_disconnect(request, _whole(head, lines))
    except ApiError as error:
        return _refuse(error)


async def embed(request: Request) -> Response:
    """Vectors in OpenAI's form."""
    try:
        body = await read_body(request, "EmbedRequest", _EMBED)
        shared = state.of(request)
        model = shared.models.get(body.get("model") or "")
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


def _from_openai(message: object) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ApiError(400, "invalid message format")
    content = message.get("content")
    if isinstance(content, list):
        parts = [str(part["text"]) for part in content if isinstance(part, dict) and "text" in part]
        if len(parts) < len(content):
            raise ApiError(400, "this server takes only text in messages")
        content = "\n".join(parts)
    calls = [
        {"id": call.get("id"), "function": {**call["function"], "arguments": _arguments(call["function"])}}
        for call in message.get("tool_calls") or []
        if isinstance(call, dict) and isinstance(call.get("function"), dict)
    ]
    found = {"role": str(message.get("role", "")), "content": content if isinstance(content, str) else ""}
    return found | ({"tool_calls": calls} if calls else {})


def _arguments(function: Mapping[str, Any]) -> Any:
    try:
        return json.loads(function.get("arguments") or "{}")
    except (TypeError, ValueError):
        raise ApiError(400, "invalid tool call arguments") from None


def _chat_request(body: Mapping[str, Any]) -> dict[str, Any]:
    options = {ours: body[key] for key, ours in _OPTIONS.items() if body.get(key) is not None}
    stop = body.get("stop")
    if stop is not None:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    # OpenAI's default, where Ollama's own API has another.
    options.setdefault("temperature", 1.0)
    inner: dict[str, Any] = {"model": body["model"], "options": options}
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_object":
        inner["format"] = "json"
    elif wanted.get("type") == "json_schema":
        inner["format"] = (wanted.get("json_schema") or {}).get("schema")
    return inner | ({"tools": body["tools"]} if body.get("tools") else {})


async def _next(lines: Lines) -> dict[str, Any] | None:
    return await anext(lines, None)


def _tool_calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{index}",
            "index": index,
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for index, call in enumerate(message.get("tool_calls", ()))
    ]


def _delta(message: Mapping[str, Any]) -> dict[str, Any]:
    delta: dict[str, Any] = {"role": "assistant", "content": message["content"]}
    if message.get("thinking"):
        delta["reasoning"] = message["thinking"]
    if calls := _tool_calls(message):
        delta["tool_calls"] = calls
    return delta


def _usage(line: Mapping[str, Any]) -> dict[str, int]:
    prompt, completion = line["prompt_eval_count"], line["eval_count"]
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


async def _sse(
    head: Mapping[str, Any], first: dict[str, Any] | None, lines: Lines, *, with_usage: bool
) -> AsyncGenerator[str]:
    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        start = {"id": head["id"], "object": "chat.completion.chunk", "created": head["created"]}
        rest = {"model": head["model"], "system_fingerprint": "fp_ollama", "choices": choices, **more}
        return f"data: {json.dumps(start | rest, ensure_ascii=False)}\n\n"

    reason = "stop"
    async with contextlib.aclosing(lines):
        line = first
        try:
            while line is not None:
                done = line["done"]
                if line["message"].get("tool_calls"):
                    reason = "tool_calls"
                elif done and line["done_reason"] == "length":
                    reason = "length"
                finish = reason if done else None
                yield event([{"index": 0, "delta": _delta(line["message"]), "finish_reason": finish}])
                if done and with_usage:
                    yield event([], usage=_usage(line))
                line = await anext(lines, None)
        except ApiError as error:
            yield f"data: {json.dumps({'error': {'message': error.text, 'code': error.status}})}\n\n"
    yield "data: [DONE]\n\n"


async def _whole(head: Mapping[str, Any], lines: Lines) -> Response:
    async with contextlib.aclosing(lines):
        found = [line async for line in lines]
    message: dict[str, Any] = {"role": "assistant"}
    message["content"] = "".join(line["message"]["content"] for line in found)
    if thinking := "".join(line["message"].get("thinking", "") for line in found):
        message["reasoning"] = thinking
    calls = [call for line in found for call in _tool_calls(line["message"])]
    reason = "tool_calls" if calls else found[-1]["done_reason"]
    if calls:
        message["tool_calls"] = calls
    document = {
        "id": head["id"],
        "object": "chat.completion",
        "created": head["created"],
        "model": head["model"],
        "system_fingerprint": "fp_ollama",
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": _usage(found[-1]),
    }
    return answer(document, media_type=PLAIN_JSON_TYPE)


def _refuse(error: ApiError) -> Response:
    kind = _KINDS.get(error.status, "api_error")
    body = {"error": {"message": error.text, "type": kind, "param": None, "code": None}}
    return answer(body, error.status, PLAIN_JSON_TYPE)
