"""One HTTP exchange with a web server that is not trusted: no private addresses, bounded in bytes and time.

The name is resolved here, every address is checked, and the connection goes to a checked one, so that a
second answer of the name server cannot lead elsewhere. A proxy resolves names itself: there the check is what
this machine's name server says.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from rfctl.core.address import is_loopback
from rfctl.core.error import RefusedError, RfctlError, UnreachableError, UsageError
from rfctl.ragflow_client.failure import shorten

AGENT = "rfctl"
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
MAX_SECONDS = 3600.0
_PIECE_BYTES = 64 << 10
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")  # RFC 4291, 2.5.5.1: an IPv4 address in an old form
_SAFE = "%/:?#[]@!$&'()*+,;=~-._"
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Rules:
    """What is allowed.

    proxies: scheme -> proxy URL, and "no" -> hosts without, as urllib.request.getproxies gives it; deadline:
    of the monotonic clock.
    """

    allow_private: bool = False
    proxies: Mapping[str, str] = field(default_factory=dict)
    deadline: float = float("inf")


@dataclass
class Answer:
    """Status, headers (names in lower case), and the body as it comes."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: Iterator[bytes]


def check_url(text: str) -> str:
    """`text` as it goes over the wire: http or https, a host, no user, no fragment.

    Raises UsageError `fetch.url-invalid`.
    """
    try:
        parts = urlsplit(text.strip())
        host, _ = parts.hostname, parts.port
        name = (host or "").encode("idna").decode("ascii") if host and not host.isascii() else host
    except (ValueError, UnicodeError) as error:
        raise UsageError("fetch.url-invalid", url=text, detail=str(error)) from error
    if parts.scheme.lower() not in ("http", "https") or not name or not text.strip().isprintable():
        raise UsageError("fetch.url-invalid", url=text, detail="https://HOST/PATH")
    if parts.username is not None or parts.password is not None:
        raise UsageError("fetch.url-invalid", url=f"{parts.scheme}://{name}", detail="user name or password")
    shown = f"[{name}]" if ":" in name else name
    place = shown if parts.port is None else f"{shown}:{parts.port}"
    path = quote(parts.path or "/", safe=_SAFE)
    query = "?" + quote(parts.query, safe=_SAFE) if parts.query else ""
    return f"{parts.scheme.lower()}://{place}{path}{query}"


def is_private(address: str) -> bool:
    """Whether an IP address is not one of the public internet (loopback, LAN, link-local, cloud metadata)."""
    found: _Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        elif found in _NAT64 or (found in _COMPATIBLE and int(found) > 1):
            found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        elif found.sixtofour is not None:
            found = found.sixtofour
    is_site_local = isinstance(found, ipaddress.IPv6Address) and found.is_site_local
    return not found.is_global or found.is_multicast or is_site_local


@contextmanager
def open_url(url: str, rules: Rules) -> Iterator[Answer]:
    """Send one GET; the body can be read until the end of the block.

    Redirects are answers like others. Raises RefusedError `fetch.private`, UnreachableError
    `fetch.unreachable`, `fetch.timeout`, RfctlError `fetch.broken`.
    """
    parts = urlsplit(url)
    connection = _connect(url, rules)
    # A timeout is for one silence: a server that sends a byte now and then is ended by the clock.
    seconds = min(rules.deadline - time.monotonic(), MAX_SECONDS)
    watch = threading.Timer(max(seconds, 0.01), _cut, [connection])
    watch.daemon = True
    watch.start()
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        if parts.scheme == "http" and _proxy(url, rules):
            target = url
        headers = {"User-Agent": AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        try:
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise _late(url, rules) or _translate(error, url) from error
        named = {name.lower(): value for name, value in response.getheaders()}
        yield Answer(url, response.status, named, _read(response, url, named, rules))
    finally:
        watch.cancel()
        connection.close()


def _cut(connection: http.client.HTTPConnection) -> None:
    with contextlib.suppress(OSError):
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)


def _connect(url: str, rules: Rules) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = _resolve(url, host, port, rules)
    seconds = min(CONNECT_SECONDS, max(rules.deadline - time.monotonic(), 0.01))
    proxy = _proxy(url, rules)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=READ_SECONDS)
    try:
        if proxy:
            place = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            plain = socket.create_connection((place.hostname or "", place.port or 80), seconds)
            if parts.scheme == "https":
                plain = _tunnel(plain, host, port)
        else:
            plain = _open(addresses, seconds)
        plain.settimeout(READ_SECONDS)
        if parts.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
        else:
            connection.sock = plain
    except (OSError, http.client.HTTPException) as error:
        raise _translate(error, url) from error
    return connection


def _resolve(url: str, host: str, port: int, rules: Rules) -> list[tuple[int, tuple[str, int]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        if _proxy(url, rules):
            return []  # only the proxy's name server knows it
        raise _translate(OSError(str(error)), url) from error
    addresses = [(int(family), (str(place[0]), port)) for family, _, _, _, place in found]
    private = [address for _, (address, _) in addresses if is_private(address)]
    if private and not rules.allow_private:
        # One private address among public ones is what a name that changes under one's feet looks like.
        raise RefusedError("fetch.private", url=url, address=private[0])
    return addresses


def _open(addresses: list[tuple[int, tuple[str, int]]], seconds: float) -> socket.socket:
    problem: OSError = OSError("no address")
    for family, place in addresses:
        made = socket.socket(family, socket.SOCK_STREAM)
        made.settimeout(seconds)
        try:
            made.connect(place)
        except OSError as error:
            made.close()
            problem = error
        else:
            return made
    raise problem


def _tunnel(plain: socket.socket, host: str, port: int) -> socket.socket:
    """CONNECT through a proxy. The head of its answer is read byte by byte: what follows is TLS."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    plain.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode("ascii"))
    head = b""
    while b"\r\n\r\n" not in head:
        piece = plain.recv(1)
        if not piece or len(head) > 16384:
            raise http.client.HTTPException("the proxy closed the connection")
        head += piece
    status = head.split(b"\r\n", 1)[0].split(b" ")
    if len(status) < 2 or status[1] != b"200":
        raise http.client.HTTPException(head.split(b"\r\n", 1)[0].decode("latin-1"))
    return plain


def _proxy(url: str, rules: Rules) -> str:
    parts = urlsplit(url)
    found = rules.proxies.get(parts.scheme, "")
    host = (parts.hostname or "").lower()
    direct = [name.strip().lstrip(".").lower() for name in rules.proxies.get("no", "").split(",")]
    if is_loopback(url) or any(name == "*" or f".{host}".endswith(f".{name}") for name in direct if name):
        return ""
    return found


def _read(
    response: http.client.HTTPResponse, url: str, headers: Mapping[str, str], rules: Rules
) -> Iterator[bytes]:
    coding = headers.get("content-encoding", "").strip().lower()
    if coding in ("gzip", "x-gzip", "deflate"):
        decoder = zlib.decompressobj(wbits=47 if coding != "deflate" else 15)
    elif coding in ("", "identity"):
        decoder = None
    else:
        raise RfctlError("fetch.broken", url=url, detail=f"Content-Encoding: {shorten(coding)}")
    length = response.length  # what is left of a body with a known size
    received = 0
    try:
        while piece := response.read1(_PIECE_BYTES):
            if time.monotonic() > rules.deadline:
                raise UnreachableError("fetch.timeout", url=url)
            received += len(piece)
            if decoder is None:
                yield piece
                continue
            rest = piece
            while rest:
                yield decoder.decompress(rest, _PIECE_BYTES)
                rest = decoder.unconsumed_tail
        if decoder is not None:
            yield decoder.flush()
    except (OSError, http.client.HTTPException, zlib.error) as error:
        raise _late(url, rules) or _translate(error, url) from error
    if late := _late(url, rules):
        raise late
    if length is not None and received != length:
        raise RfctlError("fetch.broken", url=url, detail=f"{received} of {length} bytes")


def _late(url: str, rules: Rules) -> RfctlError | None:
    return UnreachableError("fetch.timeout", url=url) if time.monotonic() > rules.deadline else None


def _translate(error: Exception, url: str) -> RfctlError:
    if isinstance(error, TimeoutError):
        return UnreachableError("fetch.timeout", url=url)
    detail = shorten(str(error) or type(error).__name__)
    if isinstance(error, (http.client.HTTPException, zlib.error)):
        return RfctlError("fetch.broken", url=url, detail=detail)
    return UnreachableError("fetch.unreachable", url=url, detail=detail)
