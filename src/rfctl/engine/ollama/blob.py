"""`HEAD` and `POST /api/blobs/<digest>` (server/routes.go of Ollama v0.33.0-rc2)."""

from __future__ import annotations

import asyncio
import errno
import re

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from rfctl.engine.failure import ApiError
from rfctl.engine.ollama import state
from rfctl.engine.ollama.answer import JSON_TYPE, empty
from rfctl.ollama.store import StoreError

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}", re.ASCII)
_EXACT = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
# Writes are collected to this size: one thread switch each.
_PIECE_BYTES = 1 << 20


async def handle_blob(request: Request) -> Response:
    """HEAD or POST of one blob."""
    return await (show_blob if request.method == "HEAD" else create_blob)(request)


async def show_blob(request: Request) -> Response:
    """200 or 404; 400 for what is no digest. Only the exact form is ever found."""
    digest = request.path_params["digest"]
    if not _DIGEST.fullmatch(digest):
        return Response(b"", 400, headers={"content-type": JSON_TYPE})
    if _EXACT.fullmatch(digest) and state.of(request).store.has_blob(digest):
        return empty()
    return Response(b"", 404, headers={"content-type": JSON_TYPE})


async def create_blob(request: Request) -> Response:
    """Store the body: 201; 200 without reading it if the blob is there. Raises ApiError 400 for a malformed
    or wrong digest (the content then stays under its true one), 500 when the disk is full."""
    digest = request.path_params["digest"]
    if not _DIGEST.fullmatch(digest):
        raise ApiError(400, "invalid digest format")
    store = state.of(request).store
    if _EXACT.fullmatch(digest) and store.has_blob(digest):
        return empty()
    try:
        with await asyncio.to_thread(store.writer) as writer:
            pending = bytearray()
            async for piece in request.stream():
                pending += piece
                if len(pending) >= _PIECE_BYTES:
                    await asyncio.to_thread(writer.write, bytes(pending))
                    pending.clear()
            await asyncio.to_thread(writer.write, bytes(pending))
            await asyncio.to_thread(writer.commit, digest)
    except StoreError as error:
        expected, found = error.params["expected"], error.params["found"]
        raise ApiError(400, f'digest mismatch, expected "{expected}", got "{found}"') from None
    except ClientDisconnect:
        return empty(400)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        text = "no space left on device" if full else str(error.strerror or error).lower()
        raise ApiError(500, f"write {store.blobs}: {text}") from None
    return empty(201)
