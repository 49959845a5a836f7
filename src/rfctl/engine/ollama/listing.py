"""`/api/tags`, `/api/ps`, `/api/copy`, `/api/delete`, `/api/version` (server/routes.go of v0.33.0-rc2)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from rfctl.engine.failure import ApiError
from rfctl.engine.ollama import state
from rfctl.engine.ollama.answer import answer, empty, timestamp
from rfctl.engine.ollama.body import read_body
from rfctl.engine.ollama.model import Model
from rfctl.ollama.name import is_valid_name, parse_name
from rfctl.ollama.store import StoreError

_COPY = {"source": "string", "destination": "string"}
_DELETE = {"model": "string", "name": "string"}


async def greet(_request: Request) -> Response:
    """What monitors and clients look for at `/`."""
    return PlainTextResponse("Ollama is running")


async def show_version(request: Request) -> Response:
    """A version that clients compare; the suffix says whose server it is."""
    return answer({"version": state.of(request).version})


async def show_status(_request: Request) -> Response:
    """There is no cloud behind this server."""
    return answer({"cloud": {"disabled": True, "source": "env"}})


async def list_models(request: Request) -> Response:
    """All models, the newest first; a model whose files are damaged is left out."""
    return answer({"models": [_line(model) for model in await readable_models(request)]})


async def readable_models(request: Request) -> list[Model]:
    """The models of the store whose files can be read, the newest first."""
    return await asyncio.to_thread(_readable, state.of(request))


def _readable(shared: state.State) -> list[Model]:
    found = []
    for stored in shared.store.models():
        try:
            found.append(shared.models.open(stored))
        except ApiError:
            continue
    return found


def _line(model: Model) -> dict[str, Any]:
    lengths = {"context_length": model.context_length, "embedding_length": model.embedding_length}
    return {
        "name": str(model.name),
        "model": str(model.name),
        "modified_at": timestamp(datetime.fromtimestamp(model.stored.modified, UTC).astimezone()),
        "size": model.stored.manifest.size,
        "digest": model.stored.digest,
        "details": model.details() | {key: value for key, value in lengths.items() if value},
        "capabilities": model.capabilities,
    }


async def list_loaded(request: Request) -> Response:
    """The models in memory; `context_length` is what they were loaded with."""
    shared = state.of(request)
    lines = []
    for loaded in shared.pool.loaded():
        stored = shared.store.read(parse_name(loaded.name))
        if stored is None:
            continue
        model = shared.models.open(stored)
        lines.append(
            {
                "name": loaded.name,
                "model": loaded.name,
                "size": model.layer.size + _context_bytes(model, loaded.spec.num_ctx),
                "digest": stored.digest,
                "details": model.details(),
                "expires_at": timestamp(loaded.expires),
                "size_vram": 0,
                "context_length": loaded.spec.num_ctx,
            }
        )
    return answer({"models": lines})


def _context_bytes(model: Model, num_ctx: int) -> int:
    """Keys and values of the context in 16 bits: an estimate of what the weights do not take."""
    header, arch = model.header, model.header.architecture
    heads = header.integer(f"{arch}.attention.head_count") or 1
    shared = header.integer(f"{arch}.attention.head_count_kv") or heads
    width = (header.integer(f"{arch}.attention.key_length") or model.embedding_length // heads) * shared
    return 0 if model.is_embedding else (header.integer(f"{arch}.block_count") or 0) * 2 * 2 * width * num_ctx


async def copy(request: Request) -> Response:
    """A second name for a model. Raises ApiError 400, 404."""
    body = await read_body(request, "CopyRequest", _COPY)
    source, destination = body.get("source", ""), body.get("destination", "")
    if not is_valid_name(source):
        raise ApiError(400, f'source "{source}" is invalid')
    if not is_valid_name(destination):
        raise ApiError(400, f'destination "{destination}" is invalid')
    try:
        await asyncio.to_thread(state.of(request).store.copy, parse_name(source), parse_name(destination))
    except StoreError as error:
        if error.id == "store.model-missing":
            raise ApiError(404, f'model "{source}" not found') from None
        raise ApiError(500, error.text().message) from None
    return empty()


async def delete(request: Request) -> Response:
    """Remove a model, end its worker, and drop blobs nobody uses. Raises ApiError 400, 404."""
    body = await read_body(request, "DeleteRequest", _DELETE)
    text = body.get("model") or body.get("name") or ""
    if not text:
        raise ApiError(400, "model is required")
    if not is_valid_name(text):
        raise ApiError(400, f'name "{text}" is invalid')
    shared = state.of(request)
    try:
        removed = await asyncio.to_thread(shared.store.delete, parse_name(text))
    except StoreError:
        raise ApiError(404, f"model '{text}' not found") from None
    for layer in removed.manifest.layers:
        if not shared.store.has_blob(layer.digest):
            await shared.pool.unload(layer.digest)
    return empty()


async def refuse_registry(_request: Request) -> Response:
    """There is no registry behind this server. Raises ApiError 501."""
    raise ApiError(501, "this server has no registry; bring a model with `rfctl model push DIR NAME`")
