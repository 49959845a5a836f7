"""Rows of chat sessions and their form in answers."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from rfctl.engine.ragflow.envelope import DATA, Failure
from rfctl.engine.ragflow.stamp import iso, new_id, now

MAX_NAME = 255


def create(connection: sqlite3.Connection, chat: sqlite3.Row, name: str) -> sqlite3.Row:
    """A session that begins with the chat's prologue."""
    prologue = json.loads(chat["prompt_config_json"]).get("prologue") or ""
    messages = [{"content": prologue, "role": "assistant"}]
    id, moment = new_id(), now()
    connection.execute(
        "INSERT INTO session (id, chat_id, name, messages_json, create_time, update_time)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (id, chat["id"], name[:MAX_NAME], json.dumps(messages, ensure_ascii=False), moment, moment),
    )
    row = find(connection, id)
    assert row is not None
    return row


def find(connection: sqlite3.Connection, id: str) -> sqlite3.Row | None:
    """The session's row."""
    row: sqlite3.Row | None = connection.execute("SELECT * FROM session WHERE id = ?", (id,)).fetchone()
    return row


def get(connection: sqlite3.Connection, chat_id: str, id: str) -> sqlite3.Row:
    """The session's row if it belongs to the chat; raises Failure 102."""
    row = find(connection, id)
    if row is None:
        raise Failure(DATA, "Session not found!")
    if row["chat_id"] != chat_id:
        raise Failure(DATA, "Session does not belong to this chat!")
    return row


def append(
    connection: sqlite3.Connection, id: str, messages: list[dict[str, Any]], reference: dict[str, Any]
) -> None:
    """Add the messages of one exchange and the reference of its answer; a deleted session stays so."""
    row = find(connection, id)
    if row is None:
        return
    kept = json.loads(row["messages_json"]) + messages
    references = [*json.loads(row["references_json"]), reference]
    connection.execute(
        "UPDATE session SET messages_json = ?, references_json = ?, update_time = ? WHERE id = ?",
        (json.dumps(kept, ensure_ascii=False), json.dumps(references, ensure_ascii=False), now(), id),
    )


def describe(row: sqlite3.Row, tenant_id: str) -> dict[str, Any]:
    """A session as every route shows it."""
    return {
        "chat_id": row["chat_id"],
        "create_date": iso(row["create_time"]),
        "create_time": row["create_time"],
        "id": row["id"],
        "messages": json.loads(row["messages_json"]),
        "name": row["name"],
        "reference": json.loads(row["references_json"]),
        "update_date": iso(row["update_time"]),
        "update_time": row["update_time"],
        "user_id": row["user_id"] or tenant_id,
    }
