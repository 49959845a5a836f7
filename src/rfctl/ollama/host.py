"""The address of a model server as people write it, and as a client can use it."""

from __future__ import annotations

import ipaddress

DEFAULT_PORT = 11434
_SCHEME_PORTS = {"http": 80, "https": 443}


def normalise_host(text: str) -> str:
    """`http://host:port[/path]` from a value of OLLAMA_HOST.

    Blanks and quotes around the text are removed; without a scheme it is http and port 11434, with a scheme
    that scheme's own port; an unspecified address (0.0.0.0, ::) becomes loopback, because connecting to it
    fails on Windows. A port that is no port is replaced by the default, as Ollama does
    (envconfig/config.go, v0.33.0-rc2).
    """
    text = text.strip().strip("\"'").strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
        default = DEFAULT_PORT
    else:
        scheme = scheme.lower()
        default = _SCHEME_PORTS.get(scheme, DEFAULT_PORT)
    authority, _, path = rest.partition("/")
    host, port = _split(authority, default)
    path = path.rstrip("/")
    return f"{scheme}://{_connectable(host)}:{port}" + (f"/{path}" if path else "")


def _split(authority: str, default: int) -> tuple[str, int]:
    bare = authority.strip("[]")
    if _is_address(bare):
        return bare, default
    host, colon, port = authority.rpartition(":")
    if not colon or host.endswith(":") or (":" in host and not host.startswith("[")):
        return authority or "127.0.0.1", default
    number = int(port) if port.isascii() and port.isdigit() and int(port) <= 65535 else default
    return host.strip("[]") or "127.0.0.1", number


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _connectable(host: str) -> str:
    if not _is_address(host):
        return host
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return str(address) if address.version == 4 else f"[{address}]"
