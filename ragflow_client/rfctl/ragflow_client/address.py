"""The base URL of a RAGFlow server, as people paste it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from rfctl.core.error import AuthError, UsageError

_API_SUFFIX = re.compile(r"(/api)?(/v\d+)?/*$")
_KEY = re.compile(r"[\x21-\x7e]+")


def normalise_url(text: str) -> str:
    """`host:9380/api/v1/` -> `http://host:9380`: with a scheme, without API suffix, slash and query.

    A path in front of the API (a proxy's prefix) stays. Raises UsageError.
    """
    url = text.strip().strip("\"'")
    if "://" not in url:
        url = "http://" + url
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError("ragflow.url-invalid", url=text, detail=str(error)) from error
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise UsageError("ragflow.url-invalid", url=text, detail="http://HOST:9380")
    if parts.username is not None or parts.password is not None:
        raise UsageError("ragflow.url-has-secret")
    return urlunsplit(
        (parts.scheme.lower(), parts.netloc, _API_SUFFIX.sub("", parts.path.rstrip("/")), "", "")
    )


def check_key(text: str) -> str:
    """The API key without surrounding blanks. Raises AuthError when it cannot be one."""
    key = text.strip()
    if not _KEY.fullmatch(key) or key[0] in "\"'" or key.lower().startswith("bearer"):
        raise AuthError("ragflow.key-malformed")
    return key
