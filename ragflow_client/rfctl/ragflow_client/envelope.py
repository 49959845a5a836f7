"""What an answer of RAGFlow means: HTTP status, envelope and form are all checked before anybody reads it.

RAGFlow answers most errors with HTTP 200 and a code inside `{"code", "message", "data"}`; a proxy in front of
it answers with HTML; an old server reports a missing key as a success with `data: false`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from rfctl.core.error import AuthError, RfctlError, UnreachableError
from rfctl.ragflow_client.failure import ServerError, shorten

GATEWAY_STATUS = frozenset((429, 502, 503, 504))
_NO_AUTHORIZATION = "no authorization"
# sqlite, the operating system, MinIO and Elasticsearch.
_FULL = re.compile(
    r"disk is full|no space left|storage backend has reached its minimum free|flood-stage watermark",
    re.IGNORECASE,
)


class Reply:
    """An answer read to its end, with what the official SDK uses of `requests.Response`."""

    def __init__(self, url: str, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.url = url
        self.status_code = status
        self.headers = headers
        self.content = content

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", errors="replace")

    def json(self) -> Any:
        """The decoded body. Raises ServerError when it is no JSON."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError) as error:
            id = "ragflow.not-api" if self.looks_like_page() else "ragflow.answer-broken"
            raise ServerError(id, url=self.url, detail=shorten(self.text[:200])) from error

    def looks_like_page(self) -> bool:
        """Whether this is an HTML page, which RAGFlow's web server sends for any path it does not know."""
        start = self.content[:200].lstrip().lower()
        return self.content_type == "text/html" or start.startswith((b"<!doctype", b"<html"))

    @property
    def is_attachment(self) -> bool:
        return self.headers.get("Content-Disposition", "").lstrip().lower().startswith("attachment")


def check(reply: Reply) -> None:
    """Raise for every answer that is not a success; downloads and plain text of status 200 pass."""
    check_status(reply)
    if reply.is_attachment:
        return
    document = reply.json()
    if not isinstance(document, dict):
        raise ServerError("ragflow.shape", url=reply.url, detail=shorten(str(document)[:200]))
    check_envelope(reply.url, document)


def check_status(reply: Reply) -> None:
    """Raise for an HTTP status that says failure by itself."""
    status = reply.status_code
    if status < 300:
        return
    if status < 400:
        raise ServerError("ragflow.redirected", url=reply.url, target=reply.headers.get("Location", ""))
    if status in (401, 403):
        raise AuthError("ragflow.key-refused", url=reply.url)
    if status in GATEWAY_STATUS:
        raise UnreachableError("ragflow.gateway", url=reply.url, status=status)
    message = _message(reply)
    if status == 404 and not reply.looks_like_page():
        raise ServerError("ragflow.route-missing", code=404, message=message, url=reply.url)
    if status == 404:
        raise ServerError("ragflow.not-api", code=404, url=reply.url, detail=shorten(reply.text[:200]))
    if status == 413:
        raise ServerError("ragflow.too-large", code=413, url=reply.url)
    if status == 501:
        raise ServerError("ragflow.not-supported", code=501, message=message, url=reply.url)
    raise ServerError("ragflow.http-status", code=status, message=message, url=reply.url, status=status)


def check_envelope(url: str, document: Mapping[str, Any]) -> None:
    """Raise for an error code, or for a success whose payload is `false`."""
    if "code" not in document and "status" in document:
        return  # /system/healthz answers without an envelope
    code = document.get("code")
    if not isinstance(code, int) or isinstance(code, bool):
        raise ServerError("ragflow.shape", url=url, detail=shorten(str(document)[:200]))
    data = document.get("data")
    if code != 0:
        raise refuse(url, code, str(document.get("message") or document.get("error") or ""), data)
    if data is False:
        # Up to 0.22 a request without a key is code 0 with data false.
        raise AuthError("ragflow.key-refused", url=url)


def refuse(url: str, code: int, message: str, data: object = None) -> RfctlError:
    """The error for a code and a message of the server."""
    if code == 401 or (code == 109 and _NO_AUTHORIZATION not in message):
        return AuthError("ragflow.key-refused", url=url)
    if code == 109:
        return ServerError("ragflow.not-yours", code=code, message=message, data=data)
    if "NotFound" in message or "MethodNotAllowed" in message:
        return ServerError("ragflow.route-missing", code=code, message=message, url=url)
    if _FULL.search(message):
        return ServerError("ragflow.disk-full", code=code, message=message, data=data)
    return ServerError("ragflow.refused", code=code, message=message, data=data)


def _message(reply: Reply) -> str:
    try:
        document = json.loads(reply.content)
    except (ValueError, RecursionError):
        return "" if reply.looks_like_page() else shorten(reply.text[:200])
    return shorten(str(document.get("message", ""))) if isinstance(document, dict) else ""
