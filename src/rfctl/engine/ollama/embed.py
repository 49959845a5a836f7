"""`POST /api/embed` and the older `/api/embeddings` (server/routes.go of Ollama v0.33.0-rc2)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from rfctl.engine.failure import ApiError
from rfctl.engine.ollama import state
from rfctl.engine.ollama.answer import answer, until_disconnect
from rfctl.engine.ollama.backend import Backend
from rfctl.engine.ollama.body import parse_duration, read_body
from rfctl.engine.ollama.completion import Clock, Final
from rfctl.engine.ollama.lease import open_backend
from rfctl.engine.ollama.model import Model
from rfctl.engine.ollama.option import merge_options

_EMBED = {
    "model": "string",
    "truncate": "bool",
    "dimensions": "int",
    "options": "map[string]interface {}",
}
_EMBEDDINGS = {"model": "string", "prompt": "string", "options": "map[string]interface {}"}
_UNSUPPORTED = "This server does not support embeddings. Start it with `--embeddings`"
_TOO_LONG = "the input length exceeds the context length"
# llama-server takes a whole list; smaller groups let other requests in between.
_GROUP = 16


async def embed(request: Request) -> Response:
    """Normalised vectors of one text or of a list. Raises ApiError."""
    body = await read_body(request, "EmbedRequest", _EMBED)
    name = body.get("model") or ""
    missing = f'model "{name}" not found, try pulling it first' if name else "model '' not found"
    shared = state.of(request)
    model = shared.models.get(name, missing=missing)
    keep_alive = parse_duration(body.get("keep_alive"))
    texts = _inputs(body.get("input"))
    if not model.is_embedding:
        raise ApiError(501, _UNSUPPORTED)
    clock = Clock()
    found = await until_disconnect(request, _embed(shared, model, body, texts, keep_alive, clock))
    if found is None:
        return answer({"model": name, "embeddings": []})
    vectors, count = found
    if 0 < (dimensions := body.get("dimensions", 0)) < vectors.shape[1]:
        vectors = _normalise(vectors[:, :dimensions])
    counters = clock.counters(Final("stop", count, 0, 0, 0))
    kept = ("total_duration", "load_duration", "prompt_eval_count")
    rest = {key: counters[key] for key in kept}
    return await asyncio.to_thread(lambda: answer({"model": name, "embeddings": _rows(vectors), **rest}))


async def embeddings(request: Request) -> Response:
    """One vector for `prompt`. Raises ApiError."""
    body = await read_body(request, "EmbeddingRequest", _EMBEDDINGS)
    shared = state.of(request)
    model = shared.models.get(body.get("model") or "")
    keep_alive = parse_duration(body.get("keep_alive"))
    if not model.is_embedding:
        raise ApiError(500, _UNSUPPORTED)
    texts = [body["prompt"]] if body.get("prompt") else []
    found = await until_disconnect(request, _embed(shared, model, body, texts, keep_alive, Clock()))
    return answer({"embedding": [] if found is None else found[0][0].astype(float).tolist()})


def _inputs(value: object) -> list[str]:
    if value is None or value == "":
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ApiError(400, "invalid input type")
    return texts


async def _embed(
    shared: state.State,
    model: Model,
    body: Mapping[str, Any],
    texts: Sequence[str],
    keep_alive: float | None,
    clock: Clock,
) -> tuple[NDArray[np.float32], int] | None:
    """Vectors and number of tokens; without texts the model is only loaded."""
    options = merge_options(model, body.get("options", {}))
    async with open_backend(shared, model, options, keep_alive, clock) as backend:
        return await embed_texts(backend, texts, truncate=body.get("truncate", True))


async def embed_texts(
    backend: Backend, texts: Sequence[str], *, truncate: bool
) -> tuple[NDArray[np.float32], int] | None:
    """Vectors [len(texts), dimension], L2-normalised float32, and the number of tokens; None without texts.

    A text longer than the context is cut to it. Raises ApiError 400 for one with `truncate` False.
    """
    if not texts:
        return None
    limit = min(backend.worker.spec.num_ctx, backend.worker.spec.num_ubatch)
    inputs = await asyncio.gather(*(_fit(backend, text, limit, truncate) for text in texts))
    groups, total = [], 0
    for start in range(0, len(inputs), _GROUP):
        vectors, count = await backend.embed(inputs[start : start + _GROUP])
        groups.append(vectors)
        total += count
    return _normalise(np.concatenate(groups)), total


async def _fit(backend: Backend, text: str, limit: int, truncate: bool) -> str | list[int]:
    # A token is at least one byte; two places are for BOS and EOS.
    if len(text.encode("utf-8", errors="replace")) <= limit - 2:
        return text
    tokens = await backend.tokenize(text)
    if len(tokens) <= limit:
        return text
    if not truncate:
        raise ApiError(400, _TOO_LONG)
    # The closing token of the model stays at the end.
    empty = await backend.tokenize("")
    closing = empty[-1:] if len(empty) > 1 and empty[-1] == tokens[-1] else []
    return tokens[: limit - len(closing)] + closing


def _normalise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.maximum(norms, 1e-12)).astype(np.float32)


def _rows(vectors: NDArray[np.float32]) -> list[list[float]]:
    """The shortest decimals that read back as the same float32."""
    return [[float(text) for text in row] for row in vectors.astype("U")]
