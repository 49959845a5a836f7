"""Models of an Ollama server on their way into RAGFlow: which one, how many tokens, loaded, reachable."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rfctl.cli.app import App
from rfctl.core.error import UsageError

if TYPE_CHECKING:
    from rfctl.ollama.answer import ModelEntry
    from rfctl.ollama.client import OllamaClient
    from rfctl.ragflow_client.connection import Ragflow
    from rfctl.ragflow_client.provider import ModelSpec, Registration

# Ollama's context where neither the model nor the server says otherwise (routes.go of 0.32, below 23 GiB of
# graphics memory); RAGFlow never sends one.
OLLAMA_CONTEXT = 4096


def kind_of(client: OllamaClient, entry: ModelEntry) -> str:
    """ "chat" or "embedding"; a server that does not list what its models can do is asked about each."""
    capabilities = entry.capabilities or client.show(entry.name).capabilities
    return "embedding" if "embedding" in capabilities else "chat"


def choose_entry(client: OllamaClient, kind: str, wanted: str) -> ModelEntry:
    """The model that is meant: the named one, or the only one of its kind.

    Raises UsageError `setup.no-model`, `setup.model-choose`, `setup.model-kind`; RfctlError
    `ollama.model-missing`.
    """
    if wanted:
        entry = client.get(wanted)
        if kind_of(client, entry) != kind:
            raise UsageError("setup.model-kind", name=entry.name, kind=kind)
        return entry
    found = [entry for entry in client.models() if kind_of(client, entry) == kind]
    if not found:
        raise UsageError("setup.no-model", kind=kind, url=client.url)
    if len(found) > 1:
        names = ", ".join(sorted(entry.name for entry in found))
        raise UsageError("setup.model-choose", kind=kind, known=names)
    return found[0]


def specify(app: App, client: OllamaClient, entry: ModelEntry) -> ModelSpec:
    """The model with the context that Ollama will give it: its num_ctx, or what Ollama takes without one."""
    from rfctl.ragflow_client.provider import ModelSpec

    card = client.show(entry.name)
    own = card.parameters.get("num_ctx")
    if isinstance(own, int) and own > 0:
        return ModelSpec(entry.name, own)
    limit = card.context_length or entry.context_length or OLLAMA_CONTEXT
    if kind_of(client, entry) == "embedding":
        return ModelSpec(entry.name, limit)
    tokens = min(limit, OLLAMA_CONTEXT)
    if tokens < limit:
        app.out.warn("setup.no-num-ctx", name=entry.name, tokens=tokens)
    return ModelSpec(entry.name, tokens)


def warm(app: App, client: OllamaClient, entry: ModelEntry) -> None:
    """Load a model, so that RAGFlow's test call, which waits for ten seconds, finds it ready."""
    with app.reporter().stage("setup.stage-warm", unit="seconds") as stage:
        stage.update(detail=entry.name)
        if kind_of(client, entry) == "embedding":
            client.embed(entry.name, ["warm"])
        else:
            client.generate(entry.name, "")


def find_address(app: App, ragflow: Ragflow, ollama_url: str, names: list[str], given: str = "") -> str:
    """Ollama as the RAGFlow server sees it: the given address, or the first of the usual ones that works."""
    from rfctl.ragflow_client.offer import find_ollama

    if given or ragflow.server.is_embedded:
        return (given or ollama_url).rstrip("/")
    return find_ollama(ragflow.api, list_addresses(app, ragflow, ollama_url), names)


def list_addresses(app: App, ragflow: Ragflow, url: str) -> tuple[str, ...]:
    """Addresses under which RAGFlow may reach a server that this machine knows as `url`, best first."""
    from rfctl.stack.lifecycle import api_url
    from rfctl.stack.ollama_address import container_urls
    from rfctl.stack.project import Project

    if ragflow.server.is_embedded:
        return (url,)
    project = Project(app.directories.data / "stack")
    env = project.read() if project.is_initialised else {}
    if env and api_url(env) != ragflow.url:
        env = {}
    return container_urls(url, env, ragflow.url)


def register(
    app: App,
    ragflow: Ragflow,
    client: OllamaClient,
    name: str,
    *,
    num_ctx: int = 0,
    address: str = "",
    default: bool | None = None,
) -> Registration:
    """Make a model of the Ollama server usable in RAGFlow's assistants or knowledge bases.

    num_ctx: tokens when the caller has just set them. default: whether it becomes the default of its kind;
    None: where there is none. Raises RfctlError `ollama.model-missing`, and as `provider.ensure_models`.
    """
    from rfctl.ragflow_client.provider import ModelSpec

    entry = client.get(name)
    spec = ModelSpec(entry.name, num_ctx) if num_ctx else specify(app, client, entry)
    warm(app, client, entry)
    place = find_address(app, ragflow, client.url, [entry.name], address)
    kind = kind_of(client, entry)
    return ragflow.ensure_models(
        ollama_url=place,
        chat=spec if kind == "chat" else None,
        embedding=spec if kind == "embedding" else None,
        default=default,
        reporter=app.reporter(),
    )


def read_secret(*variables: str) -> str:
    """The first of these variables, or of the files that they name with `_FILE`, that has a value."""
    from pathlib import Path

    for variable in variables:
        if secret := os.environ.get(variable, "").strip():
            return secret
        if path := os.environ.get(variable + "_FILE", "").strip():
            try:
                return Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError("config.file-broken", path=path, detail=str(error)) from error
    return ""
