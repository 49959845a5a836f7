"""Answers of the Ollama API: compact JSON as Go writes it, NDJSON streams, errors, and client disconnects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rfctl.engine.failure import ApiError
from rfctl.ollama.manifest import encode_text

JSON_TYPE = "application/json; charset=utf-8"
PLAIN_JSON_TYPE = "application/json"
NDJSON_TYPE = "application/x-ndjson"

type Endpoint = Callable[[Request], Awaitable[Response]]


def answer(value: object, status: int = 200, media_type: str = JSON_TYPE) -> Response:
    """One JSON document without a line feed."""
    return Response(encode_text(value), status, headers={"content-type": media_type})


def answer_error(error: ApiError, media_type: str = JSON_TYPE) -> Response:
    return answer({"error": error.text}, error.status, media_type)


def empty(status: int = 200) -> Response:
    """A body of no bytes and no content type."""
    return Response(b"", status)


def endpoint(function: Callable[[Request], Awaitable[Response]]) -> Endpoint:
    """Turns ApiError of a handler into its answer."""

    async def handle(request: Request) -> Response:
        try:
            return await function(request)
        except ApiError as error:
            return answer_error(error)

    return handle


def timestamp(moment: datetime | None = None) -> str:
    """RFC 3339 in UTC with the trailing zeros of the fraction dropped, as Go writes it."""
    moment = moment or datetime.now(UTC)
    fraction = f".{moment.microsecond:06d}".rstrip("0").rstrip(".")
    zone = moment.strftime("%z")
    zone = "Z" if zone in ("+0000", "") else f"{zone[:3]}:{zone[3:]}"
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + fraction + zone


async def until_disconnect[T](request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away (ClientDisconnect)."""
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for job in (task, watch):
            job.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


async def stream(request: Request, lines: AsyncGenerator[dict[str, Any]]) -> Response:
    """The lines as NDJSON. What fails before the first line is an error with its status; later the error is
    the last line of a 200."""
    try:
        first = await until_disconnect(request, _next(lines))
    except ApiError as error:
        await lines.aclose()
        return answer_error(error, PLAIN_JSON_TYPE)
    except BaseException:
        await lines.aclose()
        raise
    return StreamResponse(first, lines)


async def collect(
    request: Request, lines: AsyncGenerator[dict[str, Any]], fold: Callable[[list[dict[str, Any]]], object]
) -> Response:
    """One document from all lines, made by `fold`. Raises ApiError."""
    found = await until_disconnect(request, _all(lines))
    return answer(fold(found))


class StreamResponse(Response):
    """NDJSON whose source is closed when the client goes away, also while it is silent."""

    def __init__(self, first: dict[str, Any] | None, lines: AsyncGenerator[dict[str, Any]]) -> None:
        super().__init__(status_code=200, headers={"content-type": NDJSON_TYPE})
        del self.headers["content-length"]
        self._first = first
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        with contextlib.suppress(ClientDisconnect, OSError):
            await until_disconnect(request, self._write(send))

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for line in self._all():
                data = encode_text(line).encode() + b"\n"
                await send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            await self._lines.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _all(self) -> AsyncIterator[dict[str, Any]]:
        if self._first is not None:
            yield self._first
        try:
            async for line in self._lines:
                yield line
        except ApiError as error:
            yield {"error": error.text}


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _next(lines: AsyncGenerator[dict[str, Any]]) -> dict[str, Any] | None:
    return await anext(lines, None)


async def _all(lines: AsyncGenerator[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        return [line async for line in lines]
    finally:
        await lines.aclose()
