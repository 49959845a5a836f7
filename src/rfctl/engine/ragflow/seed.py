"""What a fresh database holds: the account, and the engine itself as model provider."""

from __future__ import annotations

import sqlite3

from rfctl.engine.ragflow.stamp import new_id, now

PROVIDER = "Ollama"
INSTANCE = "local"


def plant(connection: sqlite3.Connection, *, preset: bool) -> str:
    """Make the account if there is none, the preset provider if asked; returns the account's id."""
    row = connection.execute("SELECT id FROM tenant").fetchone()
    if row is not None:
        return str(row["id"])
    tenant = new_id()
    connection.execute("INSERT INTO tenant VALUES (?, ?, ?)", (tenant, "rfctl", now()))
    if preset:
        provider = new_id()
        connection.execute("INSERT INTO provider VALUES (?, ?, ?)", (provider, PROVIDER, now()))
        connection.execute(
            "INSERT INTO instance (id, provider_id, name, create_time) VALUES (?, ?, ?, ?)",
            (new_id(), provider, INSTANCE, now()),
        )
    return tenant
