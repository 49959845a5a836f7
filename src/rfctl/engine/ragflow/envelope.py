"""RAGFlow's answer envelope: `{"code", "message"?, "data"?}`, HTTP 200 even for most errors.

Codes: RAGFlow v0.27.0 `common/constants.py` RetCode. Which success carries a message differs by route, so
`ok` writes only what it is given.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

EXCEPTION = 100
ARGUMENT = 101
DATA = 102
OPERATING = 103
AUTHENTICATION = 109
SERVER = 500

Endpoint = Callable[[Request], Awaitable[Response]]
_MISSING: Any = object()


class Failure(Exception):
    """An answer other than success, raised from anywhere below a route.

    data is left out of the body unless given; extra holds further keys of the envelope.
    """

    def __init__(
        self, code: int, message: str, *, data: Any = _MISSING, status: int = 200, **extra: Any
    ) -> None:
        super().__init__(message)
        self.body: dict[str, Any] = {"code": code, "message": message, **extra}
        if data is not _MISSING:
            self.body["data"] = data
        self.status = status


class JsonResponse(Response):
    """UTF-8 JSON without escapes."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def ok(data: Any = _MISSING, message: str | None = None, **extra: Any) -> JsonResponse:
    """`{"code": 0}` plus what is given; extra holds further keys such as total_datasets."""
    body: dict[str, Any] = {"code": 0}
    if data is not _MISSING:
        body["data"] = data
    if message is not None:
        body["message"] = message
    return JsonResponse(body | extra)


def fail(code: int, message: str, *, data: Any = _MISSING, status: int = 200, **extra: Any) -> JsonResponse:
    """The response of `Failure(...)` with the same arguments."""
    return answer(Failure(code, message, data=data, status=status, **extra))


def answer(error: BaseException) -> JsonResponse:
    """The response for an exception: a Failure as it says, anything else code 100 with its repr."""
    if isinstance(error, Failure):
        return JsonResponse(error.body, status_code=error.status)
    return JsonResponse({"code": EXCEPTION, "data": None, "message": repr(error)})


def refused(error: Exception) -> Failure:
    """Code 100 with the error's repr, for what the client got wrong: no trace goes to the log."""
    return Failure(EXCEPTION, repr(error), data=None)


def public(endpoint: Endpoint) -> Endpoint:
    """Mark an endpoint that needs no API key."""
    endpoint.public = True  # type: ignore[attr-defined]
    return endpoint
