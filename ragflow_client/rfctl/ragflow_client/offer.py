"""What an Ollama offers to a RAGFlow server: asked through the server, because that is who will call it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import quote, urlsplit

from rfctl.core.error import RfctlError, UsageError
from rfctl.ragflow_client.failure import ServerError
from rfctl.ragflow_client.record import mapping, records, text
from rfctl.ragflow_client.transport import Api

PROVIDER = "Ollama"
# 0.26.0 looks into its own table of known models only, where Ollama has none.
_NO_LISTING = re.compile(r"No models found for provider '\w+'\.?$")


def find_ollama(api: Api, urls: Sequence[str], names: Sequence[str]) -> str:
    """The first of `urls` under which the server reaches an Ollama that has all these models.

    Where several are possible, an instance that was registered with the same port comes first, under
    whatever host somebody chose. A server before 0.26 cannot be asked: the first is taken. Raises UsageError
    `ragflow.model-not-there`, RfctlError `ragflow.ollama-unreachable` with the reason of the first.
    """
    wanted = [full_tag(name) for name in names]
    ports = {_port(url) for url in urls}
    registered = [url for url in _instance_urls(api) if _port(url) in ports] if len(urls) > 1 else []
    problem: RfctlError | None = None
    for url in dict.fromkeys([*registered, *urls]):
        try:
            check_offer(api, url, wanted)
        except RfctlError as error:
            # An Ollama that lacks a model says more than an address where nobody listens.
            if problem is None or (error.id == "ragflow.model-not-there" and problem.id != error.id):
                problem = error
        else:
            return url
    assert problem is not None
    raise problem


def check_offer(api: Api, ollama_url: str, names: Sequence[str]) -> None:
    """Ask the server to list that Ollama's models: proves the way from there, and that the models exist."""
    try:
        offer = records(
            api.call("GET", f"/providers/{PROVIDER}/models", params={"base_url": ollama_url}), "models"
        )
    except ServerError as error:
        if error.id in ("ragflow.route-missing", "ragflow.not-supported") or _NO_LISTING.search(
            error.message
        ):
            return
        raise RfctlError("ragflow.ollama-unreachable", url=ollama_url, detail=error.message) from error
    known = [text(entry, "name") for entry in offer]
    for name in names:
        if name.lower() not in [one.lower() for one in known]:
            raise UsageError(
                "ragflow.model-not-there", name=name, url=ollama_url, known=", ".join(known) or "-"
            )


def list_instances(api: Api) -> Iterator[str]:
    for entry in records(api.call("GET", f"/providers/{PROVIDER}/instances"), "instances"):
        if name := text(entry, "instance_name"):
            yield name


def full_tag(name: str) -> str:
    """Ollama lists `name:latest` for `name`, and RAGFlow compares the text."""
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def _instance_urls(api: Api) -> list[str]:
    path = f"/providers/{PROVIDER}/instances"
    try:
        names = list(list_instances(api))
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
