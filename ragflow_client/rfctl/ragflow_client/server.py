"""Which server this is: a RAGFlow, its version and edition, or rfctl's embedded engine."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from rfctl.core.error import AuthError, RfctlError, UsageError
from rfctl.ragflow_client.envelope import Reply
from rfctl.ragflow_client.failure import ServerError, shorten
from rfctl.ragflow_client.record import mapping
from rfctl.ragflow_client.transport import Api

OLDEST = (0, 25)
PINNED = (0, 27)
_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")
_EMBEDDED = re.compile(r"-rfctl(\S*)$")


@dataclass(frozen=True)
class Server:
    """What a server can do, found by asking its routes.

    version        (0, 27, 0), or None where the text names none ("nightly", "unknown")
    text           the version as the server gives it
    language       "python", "go", or "" when it does not say (before 0.27)
    engine         version of rfctl's embedded engine, "" for a real RAGFlow
    has_providers  whether models are registered as provider instances (0.26 and later)
    """

    version: tuple[int, int, int] | None
    text: str
    language: str = ""
    engine: str = ""
    has_providers: bool = True

    @property
    def is_embedded(self) -> bool:
        return bool(self.engine)

    @property
    def is_newer_than_pinned(self) -> bool:
        return self.version is not None and self.version[:2] > PINNED


def read_version(api: Api) -> tuple[tuple[int, int, int] | None, str]:
    """(version, its text), which any server from 0.25 on tells without a key.

    Raises UsageError `ragflow.too-old` (before 0.25) or `ragflow.not-ragflow`, UnreachableError.
    """
    reply = api.send("GET", "/system/version", repeatable=True, checked=False)
    document = _document(reply)
    if document.get("code") != 0 or not isinstance(document.get("data"), str):
        _refuse_others(api, reply)
    text = str(document["data"])
    found = _VERSION.match(text)
    if found is None:
        return None, text
    version = (int(found[1]), int(found[2]), int(found[3] or 0))
    if version[:2] < OLDEST:
        raise UsageError("ragflow.too-old", version=text, oldest=_dotted(OLDEST))
    return version, text


def detect(api: Api, known: tuple[tuple[int, int, int] | None, str] | None = None) -> Server:
    """Find out what answers at `api.url`; known: what `read_version` has just said.

    Raises as `read_version`, and AuthError for a refused key.
    """
    version, text = known or read_version(api)
    engine = _EMBEDDED.search(text)
    return Server(
        version=version,
        text=text,
        language=_ask_language(api),
        engine=engine[1] if engine else "",
        has_providers=_has_providers(api),
    )


def _refuse_others(api: Api, reply: Reply) -> None:
    """Tell an old RAGFlow, which has its version elsewhere, from something that is no RAGFlow."""
    old = api.send("GET", "/v1/system/version", outside=True, repeatable=True, checked=False)
    document = _document(old)
    code, data = document.get("code"), document.get("data")
    if code == 0 and isinstance(data, str):
        raise UsageError("ragflow.too-old", version=data, oldest=_dotted(OLDEST))
    if code == 401 or (code == 100 and "NotFound" not in str(document.get("message"))):
        raise UsageError("ragflow.too-old", version="0.22", oldest=_dotted(OLDEST))
    detail = f"HTTP {reply.status_code} {shorten(reply.text[:80])}"
    raise UsageError("ragflow.not-ragflow", url=api.url, detail=detail)


def _has_providers(api: Api) -> bool:
    try:
        api.call("GET", "/providers")
    except ServerError as error:
        if error.id != "ragflow.route-missing":
            raise
        return False
    return True


def _ask_language(api: Api) -> str:
    try:
        data = api.call("GET", "/language")
    except AuthError:
        raise
    except RfctlError:
        return ""
    return str(mapping(data).get("language", data if isinstance(data, str) else ""))


def _document(reply: Reply) -> dict[str, Any]:
    try:
        document = json.loads(reply.content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
