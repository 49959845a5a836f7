"""What an Ollama server lists, in RAGFlow's terms, and the engine's own models kept in step with it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import httpx

from rfctl.engine.ragflow import provider_store, served
from rfctl.engine.ragflow.stamp import new_id, now
from rfctl.engine.ragflow.state import State

TIMEOUT = httpx.Timeout(20.0, connect=5.0)
DEFAULT_CONTEXT = 8192
MAX_CONTEXT = 1 << 31
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Listed:
    """One model of an Ollama server. max_tokens: its context length; features: "is_tools" or nothing."""

    name: str
    digest: str
    model_types: tuple[str, ...]
    max_tokens: int
    features: tuple[str, ...]


async def fetch(
    state: State, base_url: str, api_key: str = "", known: Mapping[str, str] = NOTHING
) -> list[Listed]:
    """The models of the server at `base_url`, sorted by name; those with the digest in `known` are left out.

    known: name -> digest. One model may have several names, so a digest alone tells nothing.

    Raises httpx.HTTPError and ValueError (no Ollama there).
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    base_url = base_url.rstrip("/")
    response = await state.http.get(f"{base_url}/api/tags", headers=headers, timeout=TIMEOUT)
    response.raise_for_status()
    listed = []
    for entry in _models(response.json()):
        name, digest = str(entry.get("name", "")), str(entry.get("digest", ""))
        if digest and known.get(name) == digest:
            continue
        shown = await state.http.post(
            f"{base_url}/api/show", json={"model": name}, headers=headers, timeout=TIMEOUT
        )
        if shown.status_code == 200:
            listed.append(_describe(name, digest, shown.json()))
    return sorted(listed, key=lambda model: model.name)


async def offer(state: State, provider: str, base_url: str, api_key: str) -> list[Listed]:
    """The models of a server of any kind that the engine talks to. Raises as `fetch`."""
    if provider == provider_store.OLLAMA:
        return await fetch(state, base_url, api_key)
    found = await served.list_models(state.http, base_url, api_key)
    rows = (
        Listed(name, "", (kind,), size if 0 < size <= MAX_CONTEXT else DEFAULT_CONTEXT, ())
        for name, kind, size in found
    )
    return sorted(rows, key=lambda model: model.name)


async def refresh(state: State) -> bool:
    """Bring the rows of the preset instance in step with what the engine lists now.

    False if there is no such instance or the engine does not answer (then nothing is changed).
    """
    if not state.self_url:
        return False
    known = await state.database.read(_known)
    if known is None:
        return False
    instance, digests = known
    try:
        names = await _names(state)
        fresh = await fetch(state, state.self_url, known=digests)
    except (httpx.HTTPError, ValueError):
        return False
    if names == digests and not fresh:
        return True
    await state.database.write(lambda connection: _store(connection, instance, names, fresh))
    return True


async def _names(state: State) -> dict[str, str]:
    response = await state.http.get(f"{state.self_url}/api/tags", timeout=TIMEOUT)
    response.raise_for_status()
    return {str(entry.get("name", "")): str(entry.get("digest", "")) for entry in _models(response.json())}


def _models(answer: object) -> list[dict[str, object]]:
    models = answer.get("models") if isinstance(answer, dict) else None
    if not isinstance(models, list):
        raise ValueError("not an Ollama server")
    return [entry for entry in models if isinstance(entry, dict)]


def _describe(name: str, digest: str, shown: object) -> Listed:
    shown = shown if isinstance(shown, dict) else {}
    capabilities = shown.get("capabilities") or []
    info = shown.get("model_info")
    info = info if isinstance(info, dict) else {}
    context = next((value for key, value in info.items() if key.endswith(".context_length")), None)
    # The header is the model's own word: a number that fits into no column would stop every listing.
    if not isinstance(context, int) or not 0 < context <= MAX_CONTEXT:
        context = DEFAULT_CONTEXT
    types = ("embedding",) if "embedding" in capabilities else ("chat",)
    return Listed(
        name=name,
        digest=digest,
        model_types=types,
        max_tokens=context,
        features=("is_tools",) if "tools" in capabilities else (),
    )


def _known(connection: sqlite3.Connection) -> tuple[str, dict[str, str]] | None:
    row = connection.execute("SELECT id FROM instance WHERE base_url = ''").fetchone()
    if row is None:
        return None
    models = connection.execute(
        "SELECT name, digest FROM model WHERE instance_id = ? AND live = 1 AND present = 1", (row["id"],)
    )
    return row["id"], {model["name"]: model["digest"] for model in models}


def _store(connection: sqlite3.Connection, instance: str, names: dict[str, str], fresh: list[Listed]) -> None:
    rows = connection.execute("SELECT name FROM model WHERE instance_id = ? AND live = 1", (instance,))
    for row in rows.fetchall():
        connection.execute(
            "UPDATE model SET present = ? WHERE instance_id = ? AND name = ? AND live = 1",
            (int(row["name"] in names), instance, row["name"]),
        )
    # One stamp for what was found together: the default among them must not hang on the clock's tick.
    found_at = now()
    for model in fresh:
        # A model that a client registered itself stays as it was registered.
        connection.execute(
            "INSERT INTO model (id, instance_id, name, model_type_json, max_tokens, live, digest,"
            " create_time) VALUES (?, ?, ?, ?, ?, 1, ?, ?) ON CONFLICT (instance_id, name) DO UPDATE SET"
            " digest = excluded.digest, present = 1,"
            " model_type_json = CASE live WHEN 1 THEN excluded.model_type_json ELSE model_type_json END,"
            " max_tokens = CASE live WHEN 1 THEN excluded.max_tokens ELSE max_tokens END",
            (
                new_id(),
                instance,
                model.name,
                json.dumps(model.model_types),
                model.max_tokens,
                model.digest,
                found_at,
            ),
        )
