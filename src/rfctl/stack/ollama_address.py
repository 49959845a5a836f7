"""Where an Ollama is: for this machine, and for RAGFlow, which often runs in a container."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from rfctl.core.address import is_loopback

PORT = 11434
# In the order of trying: the name that RAGFlow's and our compose files give the host, Docker's usual bridge
# (Linux without that name), Podman's.
HOSTS = ("host.docker.internal", "172.17.0.1", "host.containers.internal")
SERVICE = "http://ollama:11434"


def local_url(env: Mapping[str, str]) -> str:
    """The stack's own Ollama as this machine reaches it, "" when the stack has none."""
    if not _has_ollama(env):
        return ""
    return f"http://127.0.0.1:{env.get('RFCTL_OLLAMA_PORT', str(PORT))}"


def container_urls(url: str, env: Mapping[str, str], ragflow_url: str) -> tuple[str, ...]:
    """Addresses under which a RAGFlow server may reach the Ollama that this machine knows as `url`.

    env: settings of the stack, empty for another server. An Ollama that is not on this machine has its own
    address only; a RAGFlow that is not on this machine knows this one by its address in the network.
    """
    if not is_loopback(url):
        return (url,)
    if _has_ollama(env) and url == local_url(env):
        return (SERVICE,)
    if not env and not is_loopback(ragflow_url):
        own = _own_address(ragflow_url)
        return (_place(url, own),) if own else (url,)
    return (*(_place(url, host) for host in HOSTS), url)


def _place(url: str, host: str) -> str:
    """The same service under another name of its machine."""
    parts = urlsplit(url)
    place = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, f"{place}:{parts.port or PORT}", parts.path.rstrip("/"), "", ""))


def _own_address(url: str) -> str:
    """This machine's address on the way to the host of `url`, "" when there is no way. Nothing is sent."""
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, 9, type=socket.SOCK_DGRAM)
        family, kind, _, _, address = found[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def _has_ollama(env: Mapping[str, str]) -> bool:
    return any(name.startswith("ollama") for name in env.get("RFCTL_ADDONS", "").split(","))
