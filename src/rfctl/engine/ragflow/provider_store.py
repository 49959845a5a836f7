"""Rows of providers, instances and models.

Every function takes a connection; those that change something need one inside `Database.write`.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from rfctl.engine.ragflow.envelope import DATA, Failure
from rfctl.engine.ragflow.stamp import new_id, now

OLLAMA = "Ollama"
# The kinds of model server that the engine talks to (the others with OpenAI's API); RAGFlow knows many more.
PROVIDERS = (OLLAMA, "VLLM", "Xinference", "OpenAI-API-Compatible")
MODEL_TYPES = ("chat", "embedding", "rerank", "image2text", "vision", "speech2text", "asr", "tts", "ocr")
RANK = 500


def find_provider(connection: sqlite3.Connection, name: str) -> sqlite3.Row | None:
    """The configured provider of that name."""
    row: sqlite3.Row | None = connection.execute("SELECT * FROM provider WHERE name = ?", (name,)).fetchone()
    return row


def find_instance(connection: sqlite3.Connection, provider: str, name: str) -> sqlite3.Row | None:
    """The instance by name or id."""
    row: sqlite3.Row | None = connection.execute(
        "SELECT i.* FROM instance i JOIN provider p ON p.id = i.provider_id"
        " WHERE p.name = ? AND (i.name = ? OR i.id = ?)",
        (provider, name, name),
    ).fetchone()
    return row


def get_instance(connection: sqlite3.Connection, provider: str, name: str) -> sqlite3.Row:
    """Like `find_instance`; raises Failure 102 if there is none."""
    row = find_instance(connection, provider, name)
    if row is None:
        raise Failure(DATA, f"No instance found for provider '{provider}' and instance '{name}'")
    return row


def free_name(connection: sqlite3.Connection, provider_id: str, name: str) -> str:
    """`name`, or `name(1)`, `name(2)`... if it is taken."""
    taken = {
        row["name"]
        for row in connection.execute("SELECT name FROM instance WHERE provider_id = ?", (provider_id,))
    }
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}({number})"
    return candidate


def add_instance(
    connection: sqlite3.Connection, provider_id: str, name: str, api_key: str, base_url: str, region: str
) -> str:
    """Insert an instance and return its id."""
    id = new_id()
    connection.execute(
        "INSERT INTO instance (id, provider_id, name, api_key, base_url, region, create_time)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (id, provider_id, name, api_key, base_url, region, now()),
    )
    return id


def add_model(
    connection: sqlite3.Connection,
    instance: sqlite3.Row,
    provider: str,
    entry: dict[str, Any],
    verify: str | None,
) -> None:
    """Register a model as a client describes it; one that was only listed so far becomes registered.

    entry: model_name, model_type (text or list), max_tokens, extra. verify None: added without a test call.
    Raises Failure 102 if it is registered already.
    """
    name = str(entry["model_name"])
    row = connection.execute(
        "SELECT id, live FROM model WHERE instance_id = ? AND name = ?", (instance["id"], name)
    ).fetchone()
    if row is not None and not row["live"]:
        text = f"Model '{name}' already exists for provider '{provider}' and instance '{instance['name']}'"
        raise Failure(DATA, text)
    kinds = entry["model_type"]
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    tokens = int(entry.get("max_tokens") or 0)
    extra = {**(entry.get("extra") or {}), "max_tokens": tokens}
    if verify is not None:
        extra["verify"] = verify
    connection.execute(
        "INSERT INTO model (id, instance_id, name, model_type_json, max_tokens, extra_json, verify,"
        " create_time) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (instance_id, name) DO UPDATE SET"
        " live = 0, present = 1, model_type_json = excluded.model_type_json,"
        " max_tokens = excluded.max_tokens, extra_json = excluded.extra_json, verify = excluded.verify",
        (
            row["id"] if row is not None else new_id(),
            instance["id"],
            name,
            json.dumps(kinds),
            tokens,
            json.dumps(extra, ensure_ascii=False),
            verify or "unknown",
            now(),
        ),
    )


def list_models(connection: sqlite3.Connection, instance_id: str | None = None) -> list[sqlite3.Row]:
    """Models that exist, with instance and provider names, ordered by name; of one instance if given."""
    return connection.execute(
        "SELECT m.*, i.name AS instance_name, p.id AS provider_id, p.name AS provider_name FROM model m"
        " JOIN instance i ON i.id = m.instance_id JOIN provider p ON p.id = i.provider_id"
        " WHERE m.present = 1 AND (? IS NULL OR m.instance_id = ?) ORDER BY m.name, i.create_time",
        (instance_id, instance_id),
    ).fetchall()
