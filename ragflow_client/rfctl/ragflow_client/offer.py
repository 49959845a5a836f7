"""What a model server offers to RAGFlow: asked through RAGFlow, because that is who will call it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from urllib.parse import quote, urlsplit

from rfctl.core.error import RfctlError, UsageError
from rfctl.ragflow_client.failure import ServerError
from rfctl.ragflow_client.model_server import OLLAMA, ModelServer
from rfctl.ragflow_client.record import mapping, records, text
from rfctl.ragflow_client.transport import Api

# 0.26.0 looks into its own table of known models only, where these servers have none.
_NO_LISTING = re.compile(r"No models found for provider '[\w -]+'\.?$")


def find_ollama(api: Api, urls: Sequence[str], names: Sequence[str]) -> str:
    """`find_server` for an Ollama; returns its address."""
    return find_server(api, [ModelServer(OLLAMA, url) for url in urls], names).url


def find_server(api: Api, servers: Sequence[ModelServer], names: Sequence[str]) -> ModelServer:
    """The first of `servers` (one by several addresses) that RAGFlow reaches and that has all these models.

    Where several are possible, an instance that was registered with the same port comes first, under
    whatever host somebody chose. A server before 0.26 cannot be asked: the first is taken. Raises UsageError
    `ragflow.model-not-there`, RfctlError `ragflow.ollama-unreachable` or `ragflow.server-unreachable` with
    the reason of the first.
    """
    wanted = [servers[0].full_name(name) for name in names]
    ports = {_port(server.url) for server in servers}
    registered = []
    if len(servers) > 1:
        known = _instance_urls(api, servers[0].provider)
        registered = [replace(servers[0], url=url) for url in known if _port(url) in ports]
    problem: RfctlError | None = None
    for server in dict.fromkeys([*registered, *servers]):
        try:
            check_offer(api, server, wanted)
        except RfctlError as error:
            # An Ollama that lacks a model says more than an address where nobody listens.
            if problem is None or (error.id == "ragflow.model-not-there" and problem.id != error.id):
                problem = error
        else:
            return server
    assert problem is not None
    raise problem


def check_offer(api: Api, server: ModelServer, names: Sequence[str]) -> None:
    """Ask RAGFlow to list the server's models: proves the way from there, and that Ollama's models exist.

    Another server is only tried: the listing would carry its key in the address.
    """
    try:
        if not server.is_ollama:
            body = {"api_key": server.sent_key, "base_url": server.url}
            api.call("POST", _path(server.provider, "connection"), json=body, repeatable=True)
            return
        path = _path(server.provider, "models")
        offer = records(api.call("GET", path, params={"base_url": server.url}), "models")
    except ServerError as error:
        if error.id in ("ragflow.route-missing", "ragflow.not-supported") or _NO_LISTING.search(
            error.message
        ):
            return
        id = "ragflow.ollama-unreachable" if server.is_ollama else "ragflow.server-unreachable"
        raise RfctlError(id, url=server.url, detail=error.message) from error
    known = [text(entry, "name") for entry in offer]
    for name in names:
        if name.lower() not in [one.lower() for one in known]:
            raise UsageError(
                "ragflow.model-not-there", name=name, url=server.url, known=", ".join(known) or "-"
            )


def list_instances(api: Api, provider: str) -> Iterator[str]:
    for entry in records(api.call("GET", _path(provider, "instances")), "instances"):
        if name := text(entry, "instance_name"):
            yield name


def same_url(one: str, other: str) -> bool:
    """Whether two base URLs are the same server by their text (`localhost` is 127.0.0.1 there as here)."""

    def form(url: str) -> tuple[str, int, str]:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").lower()
        host = "127.0.0.1" if host in ("localhost", "::1") else host
        return (
            host,
            parts.port or (443 if parts.scheme == "https" else 80),
            parts.path.rstrip("/").removesuffix("/v1"),
        )

    try:
        return form(one) == form(other)
    except ValueError:
        return False


def _path(provider: str, end: str) -> str:
    return f"/providers/{quote(provider, safe='')}/{end}"


def _instance_urls(api: Api, provider: str) -> list[str]:
    path = _path(provider, "instances")
    try:
        names = list(list_instances(api, provider))
    except ServerError:
        return []  # before 0.26, or nothing is configured yet
    return [
        url
        for name in names
        if (url := text(mapping(api.call("GET", f"{path}/{quote(name, safe='')}")), "base_url"))
    ]


def _port(url: str) -> int:
    try:
        parts = urlsplit(url)
        return parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return 0
