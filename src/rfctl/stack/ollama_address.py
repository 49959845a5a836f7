"""Where an Ollama is: for this machine, and for RAGFlow, which often runs in a container."""

from __future__ import annotations

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


def container_urls(url: str, env: Mapping[str, str]) -> tuple[str, ...]:
    """Addresses under which a RAGFlow server may reach the Ollama that this machine knows as `url`.

    env: settings of the stack, empty for another server. A server somewhere else is reached by its own
    address only.
    """
    if not is_loopback(url):
        return (url,)
    if _has_ollama(env) and url == local_url(env):
        return (SERVICE,)
    parts = urlsplit(url)
    port = parts.port or PORT
    others = [urlunsplit((parts.scheme, f"{host}:{port}", parts.path.rstrip("/"), "", "")) for host in HOSTS]
    return (*others, url)


def _has_ollama(env: Mapping[str, str]) -> bool:
    return any(name.startswith("ollama") for name in env.get("RFCTL_ADDONS", "").split(","))
