"""`POST /api/generate` (server/routes.go of Ollama v0.33.0-rc2)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rfctl.engine.failure import ApiError
from rfctl.engine.ollama import completion, prompt, state
from rfctl.engine.ollama.answer import collect, stream
from rfctl.engine.ollama.backend import Backend
from rfctl.engine.ollama.body import parse_duration, read_body
from rfctl.engine.ollama.chat import Lines, choose_thinking, fit_prompt, load
from rfctl.engine.ollama.completion import Clock, Final, line, parse_format
from rfctl.engine.ollama.lease import open_backend
from rfctl.engine.ollama.model import Model
from rfctl.engine.ollama.option import merge_options, sampling

_FIELDS = {
    "model": "string",
    "prompt": "string",
    "suffix": "string",
    "system": "string",
    "template": "string",
    "context": "[]string",
    "stream": "bool",
    "raw": "bool",
    "options": "map[string]interface {}",
    "truncate": "bool",
    "shift": "bool",
    "logprobs": "bool",
    "top_logprobs": "int",
    "_debug_render_only": "bool",
}


async def generate(request: Request) -> Response:
    """NDJSON, or one document with `stream: false`. Raises ApiError."""
    body = await read_body(request, "GenerateRequest", _FIELDS)
    shared = state.of(request)
    name = body.get("model") or ""
    model = shared.models.get(name)
    keep_alive = parse_duration(body.get("keep_alive"))
    if body.get("raw") and any(body.get(key) for key in ("template", "system", "context")):
        raise ApiError(400, "raw mode does not support template, system, or context")
    if model.is_embedding:
        raise ApiError(400, f'"{name}" does not support generate')
    if body.get("suffix") and "insert" not in model.capabilities:
        raise ApiError(400, f"{model.name.full} does not support insert")
    choose_thinking(model, name, body.get("think"))
    if not body.get("prompt") and not body.get("images"):
        return await load(shared, model, body, keep_alive, response="")
    lines = _answer(shared, model, body, keep_alive)
    if body.get("_debug_render_only"):
        return await collect(request, lines, lambda found: found[0])
    if body.get("stream", True):
        return await stream(request, lines)
    return await collect(request, lines, _fold)


async def _answer(
    shared: state.State, model: Model, body: Mapping[str, Any], keep_alive: float | None
) -> Lines:
    clock = Clock()
    options = merge_options(model, body.get("options", {}))
    schema = parse_format(body.get("format"))
    async with open_backend(shared, model, options, keep_alive, clock) as backend:
        text = await _render(backend, model, body)
        if body.get("_debug_render_only"):
            yield line(body["model"], response="", done=False, _debug_info={"rendered_template": text})
            return
        tokens = _context(body) + await fit_prompt(backend, model, body, options, text)
        settings = sampling(options, backend.num_ctx) | completion.probabilities(body)
        if schema is not None:
            settings["json_schema"] = schema
        generated: list[int] = []
        pieces = completion.complete(backend, settings | {"prompt": tokens})
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, Final):
                    context = {} if body.get("raw") else {"context": tokens + generated}
                    yield line(
                        body["model"],
                        response="",
                        done=True,
                        done_reason=piece.reason,
                        **context,
                        **clock.counters(piece),
                    )
                    continue
                generated += piece.tokens
                if piece.content:
                    yield line(body["model"], response=piece.content, done=False, **piece.extra())


async def _render(backend: Backend, model: Model, body: Mapping[str, Any]) -> str:
    text: str = body["prompt"]
    if body.get("raw"):
        return text
    messages = prompt.gather(model, [{"role": "user", "content": text}], body.get("system") or "")
    template = body.get("template") or (model.template if model.uses_go_template else "")
    if template:
        return await asyncio.to_thread(prompt.render_go, template, messages)
    if not model.jinja:
        return text
    return await backend.apply_template(messages, {})


def _context(body: Mapping[str, Any]) -> list[int]:
    """Tokens of an earlier answer that this one continues (an old form of conversation)."""
    tokens = body.get("context") or []
    if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in tokens):
        raise ApiError(
            400,
            "json: cannot unmarshal string into Go struct field GenerateRequest.context of type int",
        )
    return list(tokens)


def _fold(lines: list[dict[str, Any]]) -> dict[str, Any]:
    text = "".join(item["response"] for item in lines)
    return {**completion.fold_logprobs(lines), "response": text}
