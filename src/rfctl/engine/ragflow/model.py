"""Finding a model by name or id and calling it over Ollama's HTTP API, or OpenAI's (`served`).

Names are `model:tag@instance@provider`, read from the right (RAGFlow v0.27.0 `tenant_model_service.py`);
texts of the errors are RAGFlow's.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from rfctl.engine.ragflow import listing, provider_store, served
from rfctl.engine.ragflow.state import State

EMBED_BATCH = 16
TIMEOUT = httpx.Timeout(600.0, connect=10.0)
_HEX = re.compile(r"[0-9a-f]{32}")
_UNREACHABLE = (
    "Failed to connect to Ollama. Please check that Ollama is downloaded, running and accessible."
    " https://ollama.com/download"
)


class EmbeddingError(Exception):
    """The embedding model did not give vectors; the text is what clients see."""


class ChatError(Exception):
    """The chat model did not answer; the text is the reason."""


@dataclass(frozen=True)
class Target:
    """A model that can be called.

    id          32 hex, RAGFlow's model_id
    full_name   model:tag@instance@provider
    base_url    of its server, without a slash at the end
    max_tokens  context length in tokens as registered, 0 = unknown
    """

    id: str
    name: str
    full_name: str
    base_url: str
    api_key: str
    model_types: tuple[str, ...]
    max_tokens: int
    provider: str = provider_store.OLLAMA

    @property
    def is_ollama(self) -> bool:
        return self.provider == provider_store.OLLAMA


def error_text(error: Exception, target: Target) -> str:
    """The answer that stands for a failed call; RAGFlow's clients look for its first word."""
    source = "Ollama_chatException" if target.is_ollama else "OpenAIException"
    return f"**ERROR**: CONNECTION_ERROR - {source} - {error}"


_SELECT = (
    "SELECT m.*, i.name AS instance_name, i.base_url, i.api_key, p.name AS provider_name FROM model m"
    " JOIN instance i ON i.id = m.instance_id JOIN provider p ON p.id = i.provider_id"
    " WHERE m.present = 1 AND m.status = 'active'"
)


async def resolve(state: State, reference: str, kind: str, *, loose: bool = False) -> Target:
    """The active model that `reference` (name or 32 hex id) means, of type `kind` ("chat", "embedding").

    loose: a two-part name falls back to the provider's only instance, as RAGFlow does for datasets.
    Raises LookupError with RAGFlow's text.
    """
    try:
        return await state.database.read(lambda connection: _find(connection, state, reference, kind, loose))
    except LookupError:
        if not await listing.refresh(state):
            raise
    return await state.database.read(lambda connection: _find(connection, state, reference, kind, loose))


async def default(state: State, kind: str) -> Target | None:
    """The account's default model of a type; without one, the newest model that the engine itself lists."""
    target = await state.database.read(lambda connection: _find_default(connection, state, kind))
    if target is None and await listing.refresh(state):
        target = await state.database.read(lambda connection: _find_default(connection, state, kind))
    return target


async def embed(state: State, target: Target, texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of `texts`, float32 (len(texts), dimension), in batches of 16. Raises EmbeddingError."""
    rows: list[NDArray[np.float32]] = []
    for start in range(0, len(texts), EMBED_BATCH):
        batch = list(texts[start : start + EMBED_BATCH])
        rows.append(await _embed_batch(state, target, batch))
    if not rows:
        return np.zeros((0, 0), dtype=np.float32)
    return np.concatenate(rows)


async def chat(
    state: State, target: Target, messages: Sequence[dict[str, str]], options: dict[str, Any] | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Ollama's /api/chat stream: one object per line, the last with done true. Raises ChatError."""
    try:
        if target.is_ollama:
            pieces = _chat_ollama(state, target, messages, options or {})
        else:
            pieces = served.chat(
                state.http, target.base_url, target.api_key, target.name, messages, options or {}
            )
        async with aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                yield piece
    except httpx.ConnectError as error:
        address = host(target.base_url)
        raise ChatError(f"Cannot connect to host {address} [Connect call failed]") from error
    except (served.ServedError, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ChatError(str(error) or repr(error)) from error


async def _chat_ollama(
    state: State, target: Target, messages: Sequence[dict[str, str]], options: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    body = {"model": target.name, "messages": list(messages), "stream": True, "options": options}
    url = f"{target.base_url}/api/chat"
    async with state.http.stream(
        "POST", url, json=body, headers=_headers(target), timeout=TIMEOUT
    ) as response:
        if response.status_code != 200:
            raise ChatError((await response.aread()).decode(errors="replace"))
        async for line in response.aiter_lines():
            if not line.strip():
                continue
            piece = json.loads(line)
            if "error" in piece:
                raise ChatError(line)
            yield piece


def host(url: str) -> str:
    """host:port of a base URL, for messages."""
    parsed = httpx.URL(url)
    return f"{parsed.host}:{parsed.port or (443 if parsed.scheme == 'https' else 80)}"


async def _embed_batch(state: State, target: Target, texts: list[str]) -> NDArray[np.float32]:
    client = "OllamaEmbed" if target.is_ollama else "OpenAI_APIEmbed"
    prefix = f"Embedding request failed for {client}. Error: "
    try:
        if target.is_ollama:
            found = await _embed_ollama(state, target, texts)
        else:
            found = await served.embed(state.http, target.base_url, target.api_key, target.name, texts)
    except httpx.ConnectError as error:
        address = f"Cannot connect to host {host(target.base_url)}"
        raise EmbeddingError(prefix + (_UNREACHABLE if target.is_ollama else address)) from error
    except (served.ServedError, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise EmbeddingError(prefix + (str(error) or repr(error))) from error
    try:
        vectors = np.asarray(found, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise EmbeddingError(f"{prefix}the answer holds no embeddings") from error
    if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
        raise EmbeddingError(f"{prefix}embeddings of shape {vectors.shape} for {len(texts)} texts")
    return vectors


async def _embed_ollama(state: State, target: Target, texts: list[str]) -> object:
    body = {"model": target.name, "input": texts, "truncate": True}
    response = await state.http.post(
        f"{target.base_url}/api/embed", json=body, headers=_headers(target), timeout=TIMEOUT
    )
    answer = response.json()
    if response.status_code != 200:
        reason = answer.get("error", answer) if isinstance(answer, dict) else answer
        raise served.ServedError(f"{reason} (status code: {response.status_code})")
    found = answer.get("embeddings") if isinstance(answer, dict) else None
    if found is None:
        raise served.ServedError("the answer holds no embeddings")
    return found


def _headers(target: Target) -> dict[str, str]:
    return {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}


def _find(connection: sqlite3.Connection, state: State, reference: str, kind: str, loose: bool) -> Target:
    if _HEX.fullmatch(reference):
        row = connection.execute(f"{_SELECT} AND m.id = ?", (reference,)).fetchone()
        if row is not None and kind in json.loads(row["model_type_json"]):
            return _target(row, state)
        if row is not None:
            raise LookupError(f"Model {reference} not found for model {kind}")
    parts = reference.rsplit("@", 2)
    name = parts[0]
    provider = parts[-1] if len(parts) > 1 else ""
    instance = parts[1] if len(parts) == 3 else "default"
    found = connection.execute("SELECT id FROM provider WHERE name = ?", (provider,)).fetchone()
    if found is None:
        raise LookupError(f"Provider {provider} not found for model {reference}.")
    instances = connection.execute(
        "SELECT id, name FROM instance WHERE provider_id = ? AND status = 'active'", (found["id"],)
    ).fetchall()
    chosen = [row["id"] for row in instances if row["name"] == instance]
    if not chosen and loose and len(parts) == 2 and len(instances) == 1:
        chosen = [instances[0]["id"]]
    if not chosen:
        raise LookupError(f"Instance {instance} not found for model {reference}.")
    row = connection.execute(f"{_SELECT} AND m.instance_id = ? AND m.name = ?", (chosen[0], name)).fetchone()
    if row is None or kind not in json.loads(row["model_type_json"]):
        raise LookupError(f"Model {reference} not found for model {kind}")
    return _target(row, state)


def _find_default(connection: sqlite3.Connection, state: State, kind: str) -> Target | None:
    chosen = connection.execute("SELECT model_id FROM default_model WHERE model_type = ?", (kind,)).fetchone()
    row = None
    if chosen is not None:
        row = connection.execute(f"{_SELECT} AND m.id = ?", (chosen["model_id"],)).fetchone()
    if row is None:
        rows = connection.execute(
            f"{_SELECT} AND i.base_url = '' ORDER BY m.create_time DESC, m.name"
        ).fetchall()
        row = next((row for row in rows if kind in json.loads(row["model_type_json"])), None)
    return None if row is None else _target(row, state)


def _target(row: sqlite3.Row, state: State) -> Target:
    return Target(
        id=row["id"],
        name=row["name"],
        full_name=f"{row['name']}@{row['instance_name']}@{row['provider_name']}",
        base_url=(row["base_url"] or state.self_url).rstrip("/"),
        api_key=row["api_key"],
        model_types=tuple(json.loads(row["model_type_json"])),
        max_tokens=row["max_tokens"],
        provider=row["provider_name"],
    )
