"""What may be said about a URL without connecting to it."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from rfctl.core.error import UsageError


def is_loopback(url: str) -> bool:
    """True for localhost, 127.0.0.0/8 and ::1: such requests never go through a proxy."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_base(text: str, *, invalid: str, userinfo: str, example: str) -> SplitResult:
    """The parts of a server's base URL as people paste it: in quotes, with blanks, without a scheme (http).

    invalid, userinfo: catalog ids; example: what such an address looks like. Raises UsageError `invalid`
    (no http, no host, a port that is none) or `userinfo` (a user name or password in it).
    """
    url = text.strip().strip("\"'").strip()
    if "://" not in url:
        url = "http://" + url
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(invalid, url=text, detail=str(error)) from error
    if parts.username is not None or parts.password is not None:
        raise UsageError(userinfo)
    if parts.scheme not in ("http", "https") or not host or not url.isprintable():
        raise UsageError(invalid, url=text, detail=example)
    return parts
