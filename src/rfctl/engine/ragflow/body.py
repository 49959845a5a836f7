"""Reading JSON request bodies the two ways of RAGFlow v0.27.0 (`api/utils/validation_utils.py`, Quart)."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from rfctl.engine.ragflow.envelope import ARGUMENT, EXCEPTION, Failure

MAX_BYTES = 64 << 20


async def read_strict(request: Request) -> dict[str, Any]:
    """The object of a strict route. Raises Failure 101 for another content type, bad JSON or no object."""
    kind = request.headers.get("content-type")
    if kind is None or kind.split(";")[0].strip().lower() != "application/json":
        raise Failure(ARGUMENT, f"Unsupported content type: Expected application/json, got {kind}")
    try:
        value = json.loads(await read_bytes(request))
    except ValueError as error:
        text = "Malformed JSON syntax: Missing commas/brackets or invalid encoding"
        raise Failure(ARGUMENT, text) from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise Failure(ARGUMENT, f"Invalid request payload: expected object, got {kind}")
    return value


async def read_loose(request: Request) -> Any:
    """The JSON value of the other routes; None without a JSON body. Raises Failure 100 for bad JSON."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    raw = await read_bytes(request)
    if kind != "application/json" and not kind.endswith("+json"):
        return None
    try:
        return json.loads(raw)
    except ValueError as error:
        raise Failure(EXCEPTION, "<BadRequest '400: Bad Request'>", data=None) from error


async def read_object(request: Request) -> dict[str, Any]:
    """Like `read_loose`, with {} for anything but an object."""
    value = await read_loose(request)
    return value if isinstance(value, dict) else {}


async def read_bytes(request: Request) -> bytes:
    """The body, at most 64 MiB. Raises Failure 413 for more."""
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > MAX_BYTES:
            raise Failure(413, "Request Entity Too Large", status=413)
        pieces.append(piece)
    return b"".join(pieces)
