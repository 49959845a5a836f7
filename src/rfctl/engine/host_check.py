"""Refuses requests that a web page of another site could have caused (DNS rebinding, foreign origins).

Rules of Ollama v0.33.0-rc2, server/routes.go:1776-1839 and envconfig (AllowedOrigins): the host is checked
only while bound to loopback, the origin always; local names and private addresses pass, everything else gets
an empty 403. Stricter in one point: a page of the server's own origin (there is none of ours, but a proxy may
add one) passes only if that is an address and no name, which anybody's name server could let point here.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
_LOCAL_ORIGIN_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0", "::1")  # noqa: S104 (compared, not bound)
_APP_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")


def is_allowed_host(header: str) -> bool:
    """Whether a `Host` header names this machine or a private network."""
    host = header.strip().lower()
    if not host:
        return True
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in ("localhost", socket.gethostname().lower()) or host.endswith(_LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_unspecified


def is_allowed_origin(header: str) -> bool:
    """Whether an `Origin` header is a page of this machine or of a desktop application."""
    if not header:
        return True
    try:
        parts = urlsplit(header)
        name = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme in _APP_SCHEMES or name in _LOCAL_ORIGIN_HOSTS


def is_same_address(origin: str, host: str) -> bool:
    """Whether `origin` is a page of the very address that `host` (the header) names; never for a name."""
    scheme, _, place = origin.partition("://")
    if scheme not in ("http", "https") or place.lower() != host.strip().lower():
        return False
    try:
        ipaddress.ip_address(urlsplit(origin).hostname or "")
    except ValueError:
        return False
    return True


class HostCheck:
    """ASGI middleware; also answers the preflight of allowed origins. is_loopback: check the host too."""

    def __init__(self, app: ASGIApp, *, is_loopback: bool = True) -> None:
        self.app = app
        self.is_loopback = is_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get(b"origin", "")
        host = headers.get(b"host", "")
        is_known_host = not self.is_loopback or is_allowed_host(host)
        if not is_known_host or not (is_allowed_origin(origin) or is_same_address(origin, host)):
            await _answer(send, 403, [])
            return
        if not origin:
            await self.app(scope, receive, send)
            return
        extra = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]
        if scope["method"] == "OPTIONS":
            asked = headers.get(b"access-control-request-headers", "")
            extra += [
                (b"access-control-allow-methods", b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
                (b"access-control-allow-headers", asked.encode("latin-1")),
            ]
            await _answer(send, 204, extra)
            return

        async def send_with_origin(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        await self.app(scope, receive, send_with_origin)


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    length = [] if status == 204 else [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": [*length, *headers]})
    await send({"type": "http.response.body", "body": b""})
