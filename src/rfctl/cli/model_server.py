"""Models of a server with OpenAI's API (vLLM, Xinference, any) on their way into RAGFlow."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit, urlunsplit

import click

from rfctl.cli.app import App
from rfctl.cli.ragflow_model import list_addresses, read_secret
from rfctl.core.error import AuthError, RfctlError, UsageError
from rfctl.core.near import find_near

if TYPE_CHECKING:
    from rfctl.ragflow_client.connection import Ragflow
    from rfctl.ragflow_client.model import Model
    from rfctl.ragflow_client.model_server import ModelServer, ServedModel
    from rfctl.ragflow_client.proof import Proof

KEY = "RFCTL_MODEL_API_KEY"
PROVIDERS = ("vllm", "xinference", "openai")
Kind = Literal["chat", "embedding"]


@dataclass(frozen=True)
class Served:
    """A model as RAGFlow has it now. proof: of an embedding model that was not there before."""

    model: Model
    context: int
    url: str
    changed: bool
    proof: Proof | None


def use_served(
    app: App,
    ragflow: Ragflow,
    name: str,
    provider: str,
    url: str,
    *,
    context: int = 0,
    kind: Kind | None = None,
    default: bool | None,
) -> Served:
    """Register a model and prove by a call through RAGFlow that it works.

    provider: "vllm", "xinference", "openai". context: tokens, 0 = what the server says; kind None: what it
    says, else chat. Raises UsageError `provider.*`, AuthError `provider.key-refused`, and as
    `provider.ensure_served` and `proof.prove`.
    """
    from rfctl.ragflow_client.model_server import open_server
    from rfctl.ragflow_client.proof import prove
    from rfctl.ragflow_client.provider import ModelSpec

    server, listed, reason = _ask(app, open_server(provider, url, read_secret(KEY)))
    row = next((one for one in listed if one.name == name), None)
    if row is None and not reason:
        names = [one.name for one in listed]
        known, near = ", ".join(names) or "-", find_near(name, names)
        raise UsageError("provider.model-missing", name=name, url=server.url, known=known, near=near)
    limit = row.context if row is not None else 0
    if not context and not limit:
        detail = reason or app.out.text("provider.context-unsaid", url=server.url)
        raise UsageError("provider.no-context", name=name, detail=detail)
    if limit and context > limit:
        app.out.warn("provider.context-over", name=name, context=context, limit=limit)
    spec = ModelSpec(name, context or limit)
    is_embedding = (kind or (row.kind if row is not None else "")) == "embedding"
    server = _find(app, ragflow, server, name)
    done = ragflow.ensure_served(
        server,
        chat=None if is_embedding else spec,
        embedding=spec if is_embedding else None,
        default=default,
        reporter=app.reporter(),
    )
    model = done.chat or done.embedding
    assert model is not None
    proof = None
    if is_embedding and done.changed:
        proof = prove(ragflow.api, model, reporter=app.reporter())
    return Served(model, spec.max_tokens, server.url, done.changed, proof)


def _ask(app: App, server: ModelServer) -> tuple[ModelServer, tuple[ServedModel, ...], str]:
    """(the server with a key that it takes, its models, why they could not be listed from here)."""
    from rfctl.ragflow_client.model_server import read_models

    try:
        try:
            return server, read_models(server.url, server.key), ""
        except AuthError:
            if server.key or not sys.stdin.isatty():
                raise
        text = app.out.text("provider.prompt-key", url=server.url)
        server = replace(server, key=click.prompt(text, hide_input=True, err=True).strip())
        return server, read_models(server.url, server.key), ""
    except AuthError:
        raise
    except RfctlError as error:
        # RAGFlow may reach what this machine does not: an address that exists among containers only.
        shown = error.text(app.language)
        return server, (), f"{shown.message}: {shown.why}" if shown.why else shown.message


def _find(app: App, ragflow: Ragflow, server: ModelServer, name: str) -> ModelServer:
    """The server by the first address that works from RAGFlow, whose loopback is often a container's."""
    from rfctl.ragflow_client.offer import find_server

    parts = urlsplit(server.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    place = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    url = urlunsplit((parts.scheme, f"{place}:{port}", parts.path, "", ""))
    addresses = list_addresses(app, ragflow, url)
    if len(addresses) < 2:
        return server
    return find_server(ragflow.api, [replace(server, url=one) for one in addresses], [name])
