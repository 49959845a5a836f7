"""The base URL of a RAGFlow server, as people paste it."""

from __future__ import annotations

import re
from urllib.parse import urlunsplit

from rfctl.core.address import split_base
from rfctl.core.error import AuthError

_API_SUFFIX = re.compile(r"(/api)?(/v\d+)?/*$")
_KEY = re.compile(r"[\x21-\x7e]+")


def normalise_url(text: str) -> str:
    """`host:9380/api/v1/` -> `http://host:9380`: with a scheme, without API suffix, slash and query.

    A path in front of the API (a proxy's prefix) stays. Raises UsageError.
    """
    parts = split_base(
        text, invalid="ragflow.url-invalid", userinfo="ragflow.url-has-secret", example="http://HOST:9380"
    )
    return urlunsplit((parts.scheme, parts.netloc, _API_SUFFIX.sub("", parts.path.rstrip("/")), "", ""))


def check_key(text: str) -> str:
    """The API key without surrounding blanks. Raises AuthError when it cannot be one."""
    key = text.strip()
    if not _KEY.fullmatch(key) or key[0] in "\"'" or key.lower().startswith("bearer"):
        raise AuthError("ragflow.key-malformed")
    return key
