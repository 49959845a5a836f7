"""Making the models of a model server usable in RAGFlow, without its web page.

Order and traps: provider_api_service.py of v0.26.0 and v0.27.0. An instance is looked for before it is made,
because a repeated name makes `local(1)`; the server tests only the first model, so every chat model is called
by us (embedding models: `proof.prove`). Before 0.26 there are no instances, and the server tests every model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from rfctl.core.error import RfctlError, UsageError
from rfctl.core.progress import SILENT, Reporter, Stage
from rfctl.ragflow_client.failure import ServerError, UncertainError, shorten
from rfctl.ragflow_client.model import Kind, Model, choose_model, default_model
from rfctl.ragflow_client.model_server import OLLAMA, ModelServer
from rfctl.ragflow_client.model_table import add_row, read_default, read_table, write_default
from rfctl.ragflow_client.offer import check_offer, list_instances, same_url
from rfctl.ragflow_client.record import mapping, records, text
from rfctl.ragflow_client.transport import ANSWER_SECONDS, Api

INSTANCE = "local"
_ERROR = "**ERROR**"


@dataclass(frozen=True)
class ModelSpec:
    """A model of the server. max_tokens: its context length, with Ollama its `num_ctx`."""

    name: str
    max_tokens: int


@dataclass(frozen=True)
class Registration:
    """What the account uses now. instance: "" before 0.26. changed: whether anything had to be done."""

    instance: str
    chat: Model | None
    embedding: Model | None
    changed: bool


def ensure_models(
    api: Api,
    *,
    ollama_url: str,
    chat: ModelSpec | None = None,
    embedding: ModelSpec | None = None,
    default: bool | None = True,
    prove: bool = True,
    reporter: Reporter = SILENT,
) -> Registration:
    """Register models, make them the defaults, and prove by a call that the chat model answers.

    ollama_url: Ollama as the RAGFlow SERVER sees it (from a container: http://host.docker.internal:11434).
    default: whether they become the account's defaults; None: where it has none yet. A model that is
    registered with another max_tokens is registered anew. Raises RfctlError `ragflow.ollama-unreachable`,
    UsageError `ragflow.model-not-there`, RfctlError `ragflow.model-fails`, and what a call raises.
    """
    return ensure_served(
        api,
        ModelServer(OLLAMA, ollama_url),
        chat=chat,
        embedding=embedding,
        default=default,
        prove=prove,
        reporter=reporter,
    )


def ensure_served(
    api: Api,
    server: ModelServer,
    *,
    chat: ModelSpec | None = None,
    embedding: ModelSpec | None = None,
    default: bool | None = True,
    prove: bool = True,
    reporter: Reporter = SILENT,
) -> Registration:
    """`ensure_models` for a server of any kind that RAGFlow knows.

    Raises too: RfctlError `ragflow.server-unreachable`, UsageError `ragflow.provider-old` (RAGFlow before
    0.26 and not Ollama) and `ragflow.provider-unknown` (this RAGFlow does not know the kind).
    """
    wanted: list[tuple[Kind, ModelSpec]] = []
    if chat is not None:
        wanted.append(("chat", ModelSpec(server.full_name(chat.name), chat.max_tokens)))
    if embedding is not None:
        wanted.append(("embedding", ModelSpec(server.full_name(embedding.name), embedding.max_tokens)))
    with reporter.stage("ragflow.stage-models", total=len(wanted), unit="items") as stage:
        added = _add_provider(api, server)
        if added is None and not server.is_ollama:
            raise UsageError("ragflow.provider-old", provider=server.provider)
        if added is None:
            return _ensure_table(api, server, wanted, default, stage)
        changed = added
        check_offer(api, server, [spec.name for _, spec in wanted])
        instance, made = _ensure_instance(api, server, wanted)
        changed |= made
        models: dict[str, Model] = {}
        for kind, spec in wanted:
            stage.update(detail=spec.name)
            before = default_model(api, kind)
            path = _path(server.provider, instance)
            changed |= _ensure_model(api, f"{path}/models", kind, spec, reporter)
            if kind == "chat" and prove:
                _prove(api, path, spec.name)
            place = (spec.name, instance, server.provider)
            if default or before == place or (default is None and before is None):
                changed |= _set_default(api, kind, place)
            models[kind] = choose_model(api, kind, "@".join(place))
            stage.advance(1)
    return Registration(instance, models.get("chat"), models.get("embedding"), changed)


def _ensure_table(
    api: Api, server: ModelServer, wanted: list[tuple[Kind, ModelSpec]], default: bool | None, stage: Stage
) -> Registration:
    """The same on a server before 0.26."""
    changed = False
    models: dict[str, Model] = {}
    rows = {(row.name.lower(), row.kind): row for row in read_table(api) if row.provider == OLLAMA}
    for kind, spec in wanted:
        stage.update(detail=spec.name)
        row = rows.get((spec.name.lower(), kind))
        fits = row is not None and row.is_active and row.max_tokens == spec.max_tokens
        if row is None or not fits or not same_url(row.url, server.url):
            add_row(api, OLLAMA, spec.name, kind, server.url, spec.max_tokens, server.sent_key)
            changed = True
        full_name = f"{spec.name}@{OLLAMA}"
        before = read_default(api, kind)
        if (default or (default is None and not before)) and before != full_name:
            write_default(api, kind, full_name)
            changed = True
            if read_default(api, kind) != full_name:
                raise RfctlError("ragflow.default-not-kept", name=spec.name)
        models[kind] = choose_model(api, kind, full_name)
        stage.advance(1)
    return Registration("", models.get("chat"), models.get("embedding"), changed)


def _add_provider(api: Api, server: ModelServer) -> bool | None:
    """Whether it was added now; None where the server knows no providers."""
    try:
        api.call("PUT", "/providers", json={"provider_name": server.provider}, repeatable=True)
    except ServerError as error:
        if error.id == "ragflow.route-missing":
            return None
        if "is not allowed" in error.message:
            raise UsageError("ragflow.provider-unknown", provider=server.provider) from error
        if "already exists" not in error.message:
            raise
        return False
    return True


def _ensure_instance(api: Api, server: ModelServer, wanted: list[tuple[Kind, ModelSpec]]) -> tuple[str, bool]:
    names = []
    for name in list_instances(api, server.provider):
        names.append(name)
        detail = mapping(api.call("GET", _path(server.provider, name)))
        url = text(detail, "base_url")
        # 0.26.0 does not tell the address: there the name decides.
        if same_url(url, server.url) or (not url and name == INSTANCE):
            return name, _renew_key(api, server, name, text(detail, "api_key"))
    name = INSTANCE
    number = 2
    while name in names:
        name, number = f"{INSTANCE}-{number}", number + 1
    body = {
        "instance_name": name,
        "api_key": server.sent_key if server.key or name == INSTANCE else f"{server.sent_key}-{name}",
        "base_url": server.url,
        "model_info": [_describe(kind, spec) for kind, spec in wanted],
    }
    path = _path(server.provider)
    try:
        try:
            api.call("POST", path, json=body, read_seconds=ANSWER_SECONDS)
        except ServerError as error:
            if server.key or "Already exist instance" not in error.message:
                raise
            body["api_key"] = f"{server.sent_key}-rfctl"  # somebody else's instance has ours (0.26.0)
            api.call("POST", path, json=body, read_seconds=ANSWER_SECONDS)
    except UncertainError:
        if name not in list_instances(api, server.provider):
            raise
    except ServerError as error:
        detail_text = error.message.replace(server.key, "***") if server.key else error.message
        raise RfctlError(
            "ragflow.model-fails", name=", ".join(spec.name for _, spec in wanted), detail=detail_text
        ) from error
    return name, True


def _renew_key(api: Api, server: ModelServer, name: str, known: str) -> bool:
    """Give an instance the key that its server asks for now; without one of ours theirs stays."""
    if not server.key or not known or known == server.key:
        return False
    body = {
        "instance_name": name,
        "api_key": server.key,
        "base_url": server.url,
        "model_info": [],
        "verify": False,
    }
    try:
        api.call("PUT", _path(server.provider, name), json=body, repeatable=True)
    except ServerError as error:
        raise RfctlError("ragflow.instance-key", name=name, provider=server.provider) from error
    return True


def _path(provider: str, instance: str = "") -> str:
    path = f"/providers/{quote(provider, safe='')}/instances"
    return f"{path}/{quote(instance, safe='')}" if instance else path


def _describe(kind: Kind, spec: ModelSpec) -> dict[str, Any]:
    # 0.26.0 fails without `extra`.
    extra = {"is_tools": False} if kind == "chat" else {}
    return {"model_name": spec.name, "model_type": [kind], "max_tokens": spec.max_tokens, "extra": extra}


def _ensure_model(api: Api, path: str, kind: Kind, spec: ModelSpec, reporter: Reporter) -> bool:
    rows = records(api.call("GET", path), path)
    row = next((row for row in rows if text(row, "name").lower() == spec.name.lower()), None)
    if row is not None and row.get("max_tokens") == spec.max_tokens:
        if text(row, "status") != "inactive":
            return False
        api.call("PATCH", f"{path}/{quote(spec.name)}", json={"status": "active"}, repeatable=True)
        return True
    if not _add_model(api, path, kind, spec) and row is not None:
        # Nothing changes the number of a registered model, and RAGFlow cuts the prompt by it.
        api.call("DELETE", path, json={"model_name": [text(row, "name")]}, repeatable=True)
        tokens = row.get("max_tokens") or 0
        reporter.warn("ragflow.model-anew", name=spec.name, tokens=tokens, wanted=spec.max_tokens)
        _add_model(api, path, kind, spec)
    return True


def _add_model(api: Api, path: str, kind: Kind, spec: ModelSpec) -> bool:
    """Register a model without a test; False where one of that name is registered."""
    body = {"model_name": spec.name, "model_type": kind, "max_tokens": spec.max_tokens, "extra": {}}
    try:
        api.call("POST", path, json=body)
    except ServerError as error:
        if "already exists" not in error.message:
            raise
        return False
    except UncertainError:
        if all(
            text(row, "name").lower() != spec.name.lower() for row in records(api.call("GET", path), path)
        ):
            raise
    return True


def _prove(api: Api, path: str, name: str) -> None:
    try:
        data = api.call(
            "POST", f"{path}/models/{quote(name)}", json={"message": "hello"}, read_seconds=ANSWER_SECONDS
        )
    except ServerError as error:
        raise RfctlError("ragflow.model-fails", name=name, detail=error.message) from error
    answer = text(data, "answer") if isinstance(data, Mapping) else ""
    if answer.startswith(_ERROR):
        raise RfctlError(
            "ragflow.model-fails", name=name, detail=shorten(answer.removeprefix(_ERROR).lstrip(": "))
        )
    thought = text(data, "reasoning_content") if isinstance(data, Mapping) else ""
    if not answer.strip() and not thought.strip():
        raise RfctlError("ragflow.model-silent", name=name)


def _set_default(api: Api, kind: Kind, place: tuple[str, str, str]) -> bool:
    """place: name, instance, provider."""
    if default_model(api, kind) == place:
        return False
    name, instance, provider = place
    body = {"model_type": kind, "model_provider": provider, "model_instance": instance, "model_name": name}
    api.call("PATCH", "/models/default", json=body, repeatable=True)
    if default_model(api, kind) != place:
        raise RfctlError("ragflow.default-not-kept", name=name)
    return True
