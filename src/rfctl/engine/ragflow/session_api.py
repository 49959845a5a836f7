"""Sessions of chat assistants (RAGFlow v0.27.0 `chat_api.py`)."""

from __future__ import annotations

import sqlite3
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rfctl.engine.ragflow import body, chat_store, page, session_store, state
from rfctl.engine.ragflow.chat_api import report
from rfctl.engine.ragflow.envelope import ARGUMENT, DATA, Failure, ok, refused
from rfctl.engine.ragflow.stamp import now

_ORDERS = ("create_time", "update_time", "name")
_EMPTY_NAME = "`name` can not be empty"
_KNOWN = ("name", "user_id", "avatar", "id")


async def create_session(request: Request) -> Response:
    """Begin a session."""
    shared = state.of(request)
    payload = await body.read_object(request)
    chat_id = request.path_params["chat"]

    def write(connection: sqlite3.Connection) -> dict[str, Any]:
        chat = chat_store.get(connection, chat_id)
        name = payload.get("name", "New session")
        if not isinstance(name, str) or not name.strip():
            raise Failure(DATA, _EMPTY_NAME)
        row = session_store.create(connection, chat, name.strip())
        return session_store.describe(row, shared.tenant_id)

    return ok(await shared.database.write(write), "success")


async def list_sessions(request: Request) -> Response:
    """A page of the chat's sessions; no match is an empty list."""
    shared = state.of(request)
    asked = request.query_params
    chat_id = request.path_params["chat"]
    await shared.database.read(lambda connection: chat_store.get(connection, chat_id))
    number, size = page.read(asked)
    order = asked.get("orderby") or "create_time"
    if order not in _ORDERS:
        raise Failure(ARGUMENT, f"invalid orderby field: {order}", data=None)
    direction = "ASC" if (asked.get("desc") or "true").lower() == "false" else "DESC"
    where, values = ["chat_id = ?"], [chat_id]
    for key in ("id", "name"):
        if asked.get(key):
            where.append(f"{key} = ?")
            values.append(asked[key])
    if asked.get("user_id") and asked["user_id"] != shared.tenant_id:
        where.append("user_id = ?")
        values.append(asked["user_id"])
    statement = (
        f"SELECT * FROM session WHERE {' AND '.join(where)}"  # noqa: S608
        f" ORDER BY {order} {direction}, rowid {direction} LIMIT ? OFFSET ?"
    )
    rows = await shared.database.read(
        lambda connection: connection.execute(statement, (*values, size, (number - 1) * size)).fetchall()
    )
    return ok([session_store.describe(row, shared.tenant_id) for row in rows], "success")


async def show_session(request: Request) -> Response:
    """One session with its messages and the references of its answers."""
    shared = state.of(request)
    row = await shared.database.read(lambda connection: _get(connection, request))
    return ok(session_store.describe(row, shared.tenant_id) | {"avatar": ""}, "success")


async def update_session(request: Request) -> Response:
    """Rename a session."""
    shared = state.of(request)
    payload = await body.read_object(request)

    def write(connection: sqlite3.Connection) -> dict[str, Any]:
        row = _get(connection, request)
        for key in ("messages", "message", "reference"):
            if key in payload:
                shown = "messages" if key == "message" else key
                raise Failure(DATA, f"`{shown}` cannot be changed")
        for key in payload:
            if key not in _KNOWN:
                raise refused(ValueError(f'Unrecognized field name: "{key}" in {payload!r}.'))
        name = payload.get("name", row["name"])
        if not isinstance(name, str) or not name.strip():
            raise Failure(DATA, _EMPTY_NAME)
        connection.execute(
            "UPDATE session SET name = ?, update_time = ? WHERE id = ?",
            (name.strip()[: session_store.MAX_NAME], now(), row["id"]),
        )
        return session_store.describe(_get(connection, request), shared.tenant_id)

    return ok(await shared.database.write(write), "success")


async def delete_sessions(request: Request) -> Response:
    """Delete the given sessions, or all with `delete_all`; without either nothing."""
    shared = state.of(request)
    payload = await body.read_object(request)
    chat_id = request.path_params["chat"]
    every = payload.get("delete_all") is True

    def write(connection: sqlite3.Connection) -> tuple[int, list[str]] | None:
        chat_store.get(connection, chat_id)
        ids = [str(id) for id in payload.get("ids") or []]
        if not ids:
            if every:
                connection.execute("DELETE FROM session WHERE chat_id = ?", (chat_id,))
            return None
        unique = list(dict.fromkeys(ids))
        errors = [f"Duplicate session ids: {id}" for id in unique if ids.count(id) > 1]
        done = 0
        for id in unique:
            gone = connection.execute("DELETE FROM session WHERE id = ? AND chat_id = ?", (id, chat_id))
            if gone.rowcount:
                done += 1
            else:
                errors.append(f"The chat doesn't own the session {id}")
        return done, errors

    result = await shared.database.write(write)
    if result is None or not result[1]:
        return ok(True if result or every else {}, "success")
    return report(result, "sessions")


def _get(connection: sqlite3.Connection, request: Request) -> sqlite3.Row:
    chat_store.get(connection, request.path_params["chat"])
    return session_store.get(connection, request.path_params["chat"], request.path_params["session"])


ROUTES = [
    Route("/chats/{chat}/sessions", create_session, methods=["POST"]),
    Route("/chats/{chat}/sessions", list_sessions, methods=["GET"]),
    Route("/chats/{chat}/sessions", delete_sessions, methods=["DELETE"]),
    Route("/chats/{chat}/sessions/{session}", show_session, methods=["GET"]),
    Route("/chats/{chat}/sessions/{session}", update_session, methods=["PATCH", "PUT"]),
]
