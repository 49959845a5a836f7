"""`POST /api/chat` (server/routes.go of Ollama v0.33.0-rc2)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rfctl.engine.failure import ApiError
from rfctl.engine.ollama import completion, prompt, state
from rfctl.engine.ollama.answer import answer, collect, stream
from rfctl.engine.ollama.backend import Backend
from rfctl.engine.ollama.body import parse_duration, read_body
from rfctl.engine.ollama.completion import Clock, Final, line, parse_format
from rfctl.engine.ollama.lease import open_backend
from rfctl.engine.ollama.model import Model
from rfctl.engine.ollama.option import Options, merge_options, sampling

_FIELDS = {
    "model": "string",
    "messages": "[]api.Message",
    "stream": "bool",
    "tools": "api.Tools",
    "options": "map[string]interface {}",
    "truncate": "bool",
    "shift": "bool",
    "logprobs": "bool",
    "top_logprobs": "int",
    "_debug_render_only": "bool",
}
_MESSAGE = {"role": "string", "content": "string", "thinking": "string", "tool_name": "string"}
TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt,"
    " adjust the context length in settings, or use a model with a longer context length"
)
_NO_IMAGES = (
    '{"error":{"code":400,"message":"Multimodal data provided, but model does not support multimodal'
    ' requests.","type":"invalid_request_error"}}'
)

type Lines = AsyncGenerator[dict[str, Any]]


async def chat(request: Request) -> Response:
    """NDJSON, or one document with `stream: false`. Raises ApiError."""
    body = await read_body(request, "ChatRequest", _FIELDS)
    shared = state.of(request)
    name = body.get("model") or ""
    if not name:
        raise ApiError(400, "model is required")
    model = shared.models.get(name)
    keep_alive = parse_duration(body.get("keep_alive"))
    messages = [_check_message(message) for message in body.get("messages", [])]
    if model.is_embedding:
        raise ApiError(400, f'"{name}" does not support chat')
    if renderer := model.config.get("renderer"):
        raise ApiError(500, f'unknown renderer "{renderer}"')
    if not messages:
        return await load(shared, model, body, keep_alive, message={"role": "assistant", "content": ""})
    if any(message.get("images") for message in messages):
        raise ApiError(400, _NO_IMAGES)
    think = choose_thinking(model, name, body.get("think"))
    if body.get("tools") and "tools" not in model.capabilities:
        raise ApiError(400, f"{model.name.full} does not support tools")
    lines = answer_messages(shared, model, body, messages, keep_alive=keep_alive, think=think)
    if body.get("_debug_render_only"):
        return await collect(request, lines, lambda found: found[0])
    if body.get("stream", True):
        return await stream(request, lines)
    return await collect(request, lines, _fold)


def _check_message(message: object) -> Mapping[str, Any]:
    if not isinstance(message, dict):
        raise ApiError(
            400,
            "json: cannot unmarshal string into Go struct field ChatRequest.messages of type api.Message",
        )
    for key in _MESSAGE:
        value = message.get(key)
        if value is not None and not isinstance(value, str):
            raise ApiError(
                400, f"json: cannot unmarshal into Go struct field Message.messages.{key} of type string"
            )
    return message


async def load(
    shared: state.State,
    model: Model,
    body: Mapping[str, Any],
    keep_alive: float | None,
    **empty_answer: Any,
) -> Response:
    """A request without messages or prompt loads the model, with `keep_alive: 0` it unloads it."""
    name = body["model"]
    if keep_alive == 0:
        await shared.pool.unload(model.layer.digest)
        return answer(line(name, **empty_answer, done=True, done_reason="unload"))
    options = merge_options(model, body.get("options", {}))
    async with open_backend(shared, model, options, keep_alive, Clock()):
        return answer(line(name, **empty_answer, done=True, done_reason="load"))


def choose_thinking(model: Model, name: str, wanted: object) -> bool:
    """Whether the model shall think: by default whenever it can. Raises ApiError 400 when it cannot."""
    if wanted and not model.can_think:
        raise ApiError(400, f'"{name}" does not support thinking')
    return model.can_think if wanted is None else bool(wanted)


async def answer_messages(
    shared: state.State,
    model: Model,
    body: Mapping[str, Any],
    messages: Sequence[Mapping[str, Any]],
    *,
    keep_alive: float | None,
    think: bool,
) -> Lines:
    """The lines of a streamed answer, the counters in the last. body: a checked ChatRequest."""
    clock = Clock()
    options = merge_options(model, body.get("options", {}))
    schema = parse_format(body.get("format"))
    async with open_backend(shared, model, options, keep_alive, clock) as backend:
        extra = _template_arguments(body, think)
        conversation: Sequence[Mapping[str, Any]] = prompt.gather(model, messages)
        if not model.uses_go_template:
            conversation = [_to_openai(message) for message in conversation]
        if body.get("truncate", True):
            conversation = await prompt.fit_history(backend, model, conversation, extra, backend.num_ctx)
        if body.get("_debug_render_only"):
            text = await prompt.render(backend, model, conversation, extra)
            yield line(
                body["model"],
                message={"role": "", "content": ""},
                done=False,
                _debug_info={"rendered_template": text},
            )
            return
        settings = sampling(options, backend.num_ctx) | completion.probabilities(body)
        if model.uses_go_template:
            text = await prompt.render(backend, model, conversation, extra)
            tokens = await fit_prompt(backend, model, body, options, text)
            form = {"json_schema": schema} if schema is not None else {}
            pieces = completion.complete(backend, settings | form | {"prompt": tokens})
        else:
            # Rendered once more with the answer: only here a template that never ends can be told from a
            # prompt that takes long.
            await backend.apply_template(conversation, extra)
            form = _response_format(schema)
            pieces = completion.chat(backend, settings | extra | form | {"messages": conversation})
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, Final):
                    yield line(
                        body["model"],
                        message={"role": "assistant", "content": ""},
                        done=True,
                        done_reason=piece.reason,
                        **clock.counters(piece),
                    )
                elif piece.content or piece.thinking or piece.tool_calls:
                    yield line(body["model"], message=_message(piece), done=False, **piece.extra())


async def fit_prompt(
    backend: Backend, model: Model, body: Mapping[str, Any], options: Options, text: str
) -> list[int]:
    """The tokens of a rendered prompt, cut to the context. Raises ApiError 400 when that is not wanted."""
    tokens = await backend.tokenize(text)
    if len(tokens) < backend.num_ctx or not body.get("truncate", True):
        return tokens
    if body.get("shift") is False:
        raise ApiError(400, TOO_LONG)
    has_bos = model.header.values.get("tokenizer.ggml.add_bos_token") is True
    return prompt.cut_tokens(tokens, backend.num_ctx, options.num_keep, has_bos=has_bos)


def _template_arguments(body: Mapping[str, Any], think: bool) -> dict[str, Any]:
    extra: dict[str, Any] = {
        "chat_template_kwargs": {"enable_thinking": think},
        "reasoning_format": "deepseek" if think else "none",
    }
    if body.get("tools"):
        extra["tools"] = body["tools"]
    return extra


def _response_format(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    if schema is None:
        return {}
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


def _to_openai(message: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.get("role", ""), "content": message.get("content") or ""}
    if thinking := message.get("thinking"):
        found["reasoning_content"] = thinking
    if name := message.get("tool_name"):
        found["name"] = name
    if calls := message.get("tool_calls"):
        found["tool_calls"] = [
            {
                "id": call.get("id") or f"call_{number}",
                "type": "function",
                "function": {
                    "name": call.get("function", {}).get("name", ""),
                    "arguments": json.dumps(call.get("function", {}).get("arguments", {})),
                },
            }
            for number, call in enumerate(calls)
        ]
    return found


def _message(piece: completion.Piece) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": piece.content}
    if piece.thinking:
        message["thinking"] = piece.thinking
    if piece.tool_calls:
        message["tool_calls"] = list(piece.tool_calls)
    return message


def _fold(lines: list[dict[str, Any]]) -> dict[str, Any]:
    messages = [item["message"] for item in lines]
    whole = completion.Piece(
        content="".join(message["content"] for message in messages),
        thinking="".join(message.get("thinking", "") for message in messages),
        tool_calls=[call for message in messages for call in message.get("tool_calls", ())],
    )
    return {**completion.fold_logprobs(lines), "message": _message(whole)}
