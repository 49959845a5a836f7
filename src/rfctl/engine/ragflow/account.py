"""The one account: its keys and its default models, and the check of the key on every request."""

from __future__ import annotations

import hmac
import secrets
import sqlite3
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rfctl.engine.ragflow import body, model, state
from rfctl.engine.ragflow.envelope import AUTHENTICATION, OPERATING, Failure, fail, ok, public
from rfctl.engine.ragflow.stamp import iso, now

_UNAUTHORIZED = "<Unauthorized '401: Unauthorized'>"
_CHUNK_METHODS = (
    "naive:General,qa:Q&A,resume:Resume,manual:Manual,table:Table,paper:Paper,book:Book,laws:Laws,"
    "presentation:Presentation,picture:Picture,one:One,audio:Audio,email:Email,tag:Tag"
)


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


async def tenant_name(shared: state.State) -> str:
    """The account's name."""
    row = await shared.database.read(
        lambda connection: connection.execute("SELECT name FROM tenant").fetchone()
    )
    return str(row["name"])


@public
async def register(request: Request) -> Response:
    """There is one account, and it exists."""
    return fail(OPERATING, "User registration is disabled!", data=False)


@public
async def log_in(request: Request) -> Response:
    """The account has no password; its key is in the engine's key file."""
    email = (await body.read_object(request)).get("email")
    return fail(AUTHENTICATION, f"Email: {email} is not registered!", data=False)


async def show_account(request: Request) -> Response:
    """The one account."""
    shared = state.of(request)
    row = await shared.database.read(lambda connection: connection.execute("SELECT * FROM tenant").fetchone())
    moment = row["create_time"]
    data = {
        "avatar": None,
        "color_schema": "Bright",
        "create_date": iso(moment),
        "create_time": moment,
        "email": "",
        "id": row["id"],
        "is_active": "1",
        "is_anonymous": "0",
        "is_authenticated": "1",
        "is_superuser": False,
        "language": "English",
        "last_login_time": iso(moment),
        "login_channel": "password",
        "nickname": row["name"],
        "status": "1",
        "timezone": "UTC",
        "update_date": iso(moment),
        "update_time": moment,
    }
    return ok(data, "success")


async def show_account_models(request: Request) -> Response:
    """The account's default models by full name and id."""
    shared = state.of(request)
    chat = await model.default(shared, "chat")
    embedding = await model.default(shared, "embedding")
    data = {
        "asr_id": "",
        "embd_id": embedding.full_name if embedding else "",
        "img2txt_id": "",
        "llm_id": chat.full_name if chat else "",
        "name": await tenant_name(shared),
        "ocr_id": None,
        "parser_ids": _CHUNK_METHODS,
        "rerank_id": "",
        "role": "owner",
        "tenant_asr_id": None,
        "tenant_embd_id": embedding.id if embedding else None,
        "tenant_id": shared.tenant_id,
        "tenant_img2txt_id": None,
        "tenant_llm_id": chat.id if chat else None,
        "tenant_ocr_id": None,
        "tenant_rerank_id": None,
        "tenant_tts_id": None,
        "tts_id": None,
    }
    return ok(data, "success")


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
    Route("/users", register, methods=["POST"]),
    Route("/auth/login", log_in, methods=["POST"]),
    Route("/users/me", show_account, methods=["GET"]),
    Route("/users/me/models", show_account_models, methods=["GET"]),
    Route("/system/tokens", create_token, methods=["POST"]),
    Route("/system/tokens", list_tokens, methods=["GET"]),
    Route("/system/tokens/{token}", delete_token, methods=["DELETE"]),
]
