"""Making the models of an Ollama server usable in RAGFlow, without its web page.

Order and traps: provider_api_service.py of v0.26.0 and v0.27.0. An instance is looked for before it is made,
because a repeated name makes `local(1)`; the server tests only the first model, so every chat model is called
by us (embedding models: `proof.prove`). Before 0.26 there are no instances, and the server tests every model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from rfctl.core.error import RfctlError
from rfctl.core.progress import SILENT, Reporter, Stage
from rfctl.ragflow_client.failure import ServerError, UncertainError, shorten
from rfctl.ragflow_client.model import Kind, Model, choose_model, default_model
from rfctl.ragflow_client.model_table import add_row, read_default, read_table, write_default
from rfctl.ragflow_client.offer import PROVIDER, check_offer, full_tag, list_instances
from rfctl.ragflow_client.record import mapping, records, text
from rfctl.ragflow_client.transport import ANSWER_SECONDS, Api

INSTANCE = "local"
_KEY = "x"  # Ollama has none, but 0.26.0-0.26.2 require a value, and 0.26.0 a different one per instance
_ERROR = "**ERROR**"


@dataclass(frozen=True)
class ModelSpec:
    """A model of the Ollama server. max_tokens: its context length, which must equal its `num_ctx`."""

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
    wanted: list[tuple[Kind, ModelSpec]] = []
    if chat is not None:
        wanted.append(("chat", ModelSpec(full_tag(chat.name), chat.max_tokens)))
    if embedding is not None:
        wanted.append(("embedding", ModelSpec(full_tag(embedding.name), embedding.max_tokens)))
    with reporter.stage("ragflow.stage-models", total=len(wanted), unit="items") as stage:
        added = _add_provider(api)
        if added is None:
            return _ensure_table(api, ollama_url, wanted, default, stage)
        changed = added
        check_offer(api, ollama_url, [spec.name for _, spec in wanted])
        instance, made = _ensure_instance(api, ollama_url, wanted)
        changed |= made
        models: dict[str, Model] = {}
        for kind, spec in wanted:
            stage.update(detail=spec.name)
            before = default_model(api, kind)
            changed |= _ensure_model(api, instance, kind, spec, reporter)
            if kind == "chat" and prove:
                _prove(api, instance, spec.name)
            was_default = before == (spec.name, instance, PROVIDER)
            if default or was_default or (default is None and before is None):
                changed |= _set_default(api, instance, kind, spec.name)
            models[kind] = choose_model(api, kind, f"{spec.name}@{instance}@{PROVIDER}")
            stage.advance(1)
    return Registration(instance, models.get("chat"), models.get("embedding"), changed)


def _ensure_table(
    api: Api, ollama_url: str, wanted: list[tuple[Kind, ModelSpec]], default: bool | None, stage: Stage
) -> Registration:
    """The same on a server before 0.26."""
    changed = False
    models: dict[str, Model] = {}
    rows = {(row.name.lower(), row.kind): row for row in read_table(api) if row.provider == PROVIDER}
    for kind, spec in wanted:
        stage.update(detail=spec.name)
        row = rows.get((spec.name.lower(), kind))
        fits = row is not None and row.is_active and row.max_tokens == spec.max_tokens
        if row is None or not fits or not _same_url(row.url, ollama_url):
            add_row(api, PROVIDER, spec.name, kind, ollama_url, spec.max_tokens, _KEY)
            changed = True
        full_name = f"{spec.name}@{PROVIDER}"
        before = read_default(api, kind)
        if (default or (default is None and not before)) and before != full_name:
            write_default(api, kind, full_name)
            changed = True
            if read_default(api, kind) != full_name:
                raise RfctlError("ragflow.default-not-kept", name=spec.name)
        models[kind] = choose_model(api, kind, full_name)
        stage.advance(1)
    return Registration("", models.get("chat"), models.get("embedding"), changed)


def _add_provider(api: Api) -> bool | None:
    """Whether it was added now; None where the server knows no providers."""
    try:
        api.call("PUT", "/providers", json={"provider_name": PROVIDER}, repeatable=True)
    except ServerError as error:
        if error.id == "ragflow.route-missing":
            return None
        if "already exists" not in error.message:
            raise
        return False
    return True


def _ensure_instance(api: Api, ollama_url: str, wanted: list[tuple[Kind, ModelSpec]]) -> tuple[str, bool]:
    names = []
    for name in list_instances(api):
        names.append(name)
        detail = mapping(api.call("GET", f"/providers/{PROVIDER}/instances/{quote(name, safe='')}"))
        url = text(detail, "base_url")
        # 0.26.0 does not tell the address: there the name decides.
        if _same_url(url, ollama_url) or (not url and name == INSTANCE):
            return name, False
    name = INSTANCE
    number = 2
    while name in names:
        name, number = f"{INSTANCE}-{number}", number + 1
    body = {
        "instance_name": name,
        "api_key": _KEY if name == INSTANCE else f"{_KEY}-{name}",
        "base_url": ollama_url,
        "model_info": [_describe(kind, spec) for kind, spec in wanted],
    }
    try:
        try:
            api.call("POST", f"/providers/{PROVIDER}/instances", json=body, read_seconds=ANSWER_SECONDS)
        except ServerError as error:
            if "Already exist instance" not in error.message:
                raise
            body["api_key"] = f"{_KEY}-rfctl"  # somebody else's instance has ours (0.26.0)
            api.call("POST", f"/providers/{PROVIDER}/instances", json=body, read_seconds=ANSWER_SECONDS)
    except UncertainError:
        if name not in list_instances(api):
            raise
    except ServerError as error:
        raise RfctlError(
            "ragflow.model-fails", name=", ".join(spec.name for _, spec in wanted), detail=error.message
        ) from error
    return name, True


def _describe(kind: Kind, spec: ModelSpec) -> dict[str, Any]:
    # 0.26.0 fails without `extra`.
    extra = {"is_tools": False} if kind == "chat" else {}
    return {"model_name": spec.name, "model_type": [kind], "max_tokens": spec.max_tokens, "extra": extra}


def _ensure_model(api: Api, instance: str, kind: Kind, spec: ModelSpec, reporter: Reporter) -> bool:
    path = f"/providers/{PROVIDER}/instances/{quote(instance, safe='')}/models"
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


def _prove(api: Api, instance: str, name: str) -> None:
    path = f"/providers/{PROVIDER}/instances/{quote(instance, safe='')}/models/{quote(name)}"
    try:
        data = api.call("POST", path, json={"message": "hello"}, read_seconds=ANSWER_SECONDS)
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


def _set_default(api: Api, instance: str, kind: Kind, name: str) -> bool:
    if default_model(api, kind) == (name, instance, PROVIDER):
        return False
    body = {"model_type": kind, "model_provider": PROVIDER, "model_instance": instance, "model_name": name}
    api.call("PATCH", "/models/default", json=body, repeatable=True)
    if default_model(api, kind) != (name, instance, PROVIDER):
        raise RfctlError("ragflow.default-not-kept", name=name)
    return True


def _same_url(one: str, other: str) -> bool:
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
