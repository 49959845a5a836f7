"""The one account: its keys and its default models, and the check of the key on every request."""

from __future__ import annotations

import hmac
import secrets
import sqlite3
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rfctl.engine.ragflow import state
from rfctl.engine.ragflow.envelope import Failure, ok
from rfctl.engine.ragflow.stamp import iso, now

_UNAUTHORIZED = "<Unauthorized '401: Unauthorized'>"


async def authenticate(request: Request) -> None:
    """Raise Failure 401 unless the request carries `Authorization: Bearer <key>` with a known key."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    key = key.strip()
    shared = state.of(request)
    if scheme == "Bearer" and key:
        if hmac.compare_digest(key.encode(), shared.api_key.encode()):
            return
        found = await shared.database.read(
            lambda connection: connection.execute("SELECT 1 FROM token WHERE token = ?", (key,)).fetchone()
        )
        if found is not None:
            return
    raise Failure(401, _UNAUTHORIZED, data=None, status=401)


def make_key() -> str:
    """A key in RAGFlow's form: `ragflow-` and 43 characters of A-Za-z0-9_-."""
    return "ragflow-" + secrets.token_urlsafe(32)


async def create_token(request: Request) -> Response:
    """A further key."""
    shared = state.of(request)
    moment = now()
    key, beta = make_key(), secrets.token_urlsafe(24)[:32]
    await shared.database.write(
        lambda connection: connection.execute(
            "INSERT INTO token VALUES (?, ?, ?, ?)", (key, beta, moment, moment)
        )
    )
    data = {
        "beta": beta,
        "create_date": iso(moment),
        "create_time": moment,
        "tenant_id": shared.tenant_id,
        "token": key,
        "update_date": None,
        "update_time": None,
    }
    return ok(data, "success")


async def list_tokens(request: Request) -> Response:
    """The keys made over the API; the engine's own is in its key file only."""
    shared = state.of(request)
    rows = await shared.database.read(
        lambda connection: connection.execute("SELECT * FROM token ORDER BY create_time").fetchall()
    )
    return ok([_describe(row, shared.tenant_id) for row in rows], "success")


async def delete_token(request: Request) -> Response:
    """Forget a key; an unknown one is no error."""
    key = request.path_params["token"]
    await state.of(request).database.write(
        lambda connection: connection.execute("DELETE FROM token WHERE token = ?", (key,))
    )
    return ok(True, "success")


def _describe(row: sqlite3.Row, tenant: str) -> dict[str, Any]:
    return {
        "beta": row["beta"],
        "create_date": iso(row["create_time"]),
        "create_time": row["create_time"],
        "dialog_id": None,
        "source": None,
        "tenant_id": tenant,
        "token": row["token"],
        "update_date": iso(row["update_time"]),
        "update_time": row["update_time"],
    }


ROUTES = [
    Route("/system/tokens", create_token, methods=["POST"]),
    Route("/system/tokens", list_tokens, methods=["GET"]),
    Route("/system/tokens/{token}", delete_token, methods=["DELETE"]),
]
