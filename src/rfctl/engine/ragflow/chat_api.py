"""Chat assistants (RAGFlow v0.27.0 `chat_api.py`).

Deviations: reranking models do not exist, so every rerank_id but "" is refused as unknown.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rfctl.engine.ragflow import body, chat_store, model, page, retrieval, state
from rfctl.engine.ragflow.envelope import ARGUMENT, DATA, Failure, ok
from rfctl.engine.ragflow.stamp import new_id, now

MAX_NAME_BYTES = 255
_ORDERS = ("create_time", "update_time", "name")
_NUMBERS = ("similarity_threshold", "vector_similarity_weight")
_COUNTS = ("top_n", "top_k")


async def create_chat(request: Request) -> Response:
    """Make an assistant; the name must be free."""
    shared = state.of(request)
    payload = await body.read_object(request)
    _check_form(payload)
    name = _name(payload.get("name"), "`name` is required")
    columns = await _columns(shared, payload)
    if "llm_id" not in columns:
        target = await model.default(shared, "chat")
        columns |= {"llm_id": target.id if target else "", "target": target.id if target else None}
    columns["prompt_config_json"] = json.dumps(
        chat_store.fill_prompt(payload.get("prompt_config") or {}), ensure_ascii=False
    )
    columns.setdefault("dataset_ids_json", "[]")
    moment = now()
    values: dict[str, Any] = {
        "id": new_id(),
        "name": name,
        "description": "A helpful Assistant",
        "create_time": moment,
        "update_time": moment,
    } | _settle(columns, {})

    def insert(connection: sqlite3.Connection) -> dict[str, Any]:
        if chat_store.is_taken(connection, name):
            raise Failure(DATA, "duplicated chat name in creating chat")
        _check_datasets(connection, json.loads(values["dataset_ids_json"]))
        marks = ", ".join("?" * len(values))
        statement = f"INSERT INTO chat ({', '.join(values)}) VALUES ({marks})"  # noqa: S608
        connection.execute(statement, tuple(values.values()))
        return chat_store.describe(connection, chat_store.get(connection, values["id"]), shared.tenant_id)

    return ok(await shared.database.write(insert), "success")


async def list_chats(request: Request) -> Response:
    """A page of assistants; no match is an empty list."""
    shared = state.of(request)
    asked = request.query_params
    number, size = page.read(asked)
    order = asked.get("orderby") or "create_time"
    if order not in _ORDERS:
        raise Failure(ARGUMENT, f"invalid orderby field: {order}", data=None)
    descending = (asked.get("desc") or "true").lower() != "false"
    owners = [owner for value in asked.getlist("owner_ids") for owner in value.split(",") if owner]

    def run(connection: sqlite3.Connection) -> dict[str, Any]:
        rows = connection.execute("SELECT * FROM chat ORDER BY rowid").fetchall()
        if asked.get("id"):
            rows = [row for row in rows if row["id"] == asked["id"]]
        if asked.get("name"):
            rows = [row for row in rows if row["name"].casefold() == asked["name"].casefold()]
        if asked.get("keywords"):
            rows = [row for row in rows if asked["keywords"].casefold() in row["name"].casefold()]
        if owners and shared.tenant_id not in owners:
            rows = []
        keyed = sorted(enumerate(rows), key=lambda item: (item[1][order], item[0]), reverse=descending)
        chosen = [row for _, row in keyed][(number - 1) * size : number * size]
        tenant = connection.execute("SELECT name FROM tenant").fetchone()["name"]
        shown = [chat_store.describe_listed(connection, row, shared.tenant_id, tenant) for row in chosen]
        return {"chats": shown, "total": len(rows)}

    return ok(await shared.database.read(run), "success")


async def show_chat(request: Request) -> Response:
    """One assistant."""
    shared = state.of(request)
    id = request.path_params["chat"]
    shown = await shared.database.read(
        lambda connection: chat_store.describe(connection, chat_store.get(connection, id), shared.tenant_id)
    )
    return ok(shown, "success")


async def update_chat(request: Request) -> Response:
    """PATCH merges prompt_config and llm_setting, PUT replaces them; other fields change where sent."""
    shared = state.of(request)
    id = request.path_params["chat"]
    merging = request.method == "PATCH"
    await shared.database.read(lambda connection: chat_store.get(connection, id))
    payload = await body.read_object(request)
    _check_form(payload)
    name = _name(payload["name"], "`name` cannot be empty") if "name" in payload else None
    columns = await _columns(shared, payload)

    def write(connection: sqlite3.Connection) -> dict[str, Any]:
        row = chat_store.get(connection, id)
        changed = dict(columns)
        if name is not None:
            if chat_store.is_taken(connection, name, but=id):
                raise Failure(DATA, "duplicated chat name")
            changed["name"] = name
        if "dataset_ids_json" in changed:
            _check_datasets(connection, json.loads(changed["dataset_ids_json"]))
        for key in ("prompt_config", "llm_setting"):
            if payload.get(key) is not None:
                old = json.loads(row[f"{key}_json"]) if merging else {}
                changed[f"{key}_json"] = json.dumps(old | payload[key], ensure_ascii=False)
        values = _settle(changed, json.loads(row["extra_json"])) | {"update_time": now()}
        names = ", ".join(f"{key} = ?" for key in values)
        connection.execute(f"UPDATE chat SET {names} WHERE id = ?", (*values.values(), id))  # noqa: S608
        return chat_store.describe(connection, chat_store.get(connection, id), shared.tenant_id)

    return ok(await shared.database.write(write), "success")


async def delete_chat(request: Request) -> Response:
    """Delete one assistant with its sessions."""
    id = request.path_params["chat"]

    def write(connection: sqlite3.Connection) -> None:
        chat_store.get(connection, id)
        connection.execute("DELETE FROM chat WHERE id = ?", (id,))

    await state.of(request).database.write(write)
    return ok(True, "success")


async def delete_chats(request: Request) -> Response:
    """Delete the given assistants, or all with `delete_all`; without either nothing."""
    shared = state.of(request)
    payload = await body.read_object(request)
    every = payload.get("delete_all") is True

    def write(connection: sqlite3.Connection) -> tuple[int, list[str]] | None:
        ids = [str(id) for id in payload.get("ids") or []]
        if not ids and not every:
            return None
        if not ids:
            ids = [row["id"] for row in connection.execute("SELECT id FROM chat").fetchall()]
        unique = list(dict.fromkeys(ids))
        errors = [f"Duplicate chat ids: {id}" for id in unique if ids.count(id) > 1]
        done = 0
        for id in unique:
            if connection.execute("DELETE FROM chat WHERE id = ?", (id,)).rowcount:
                done += 1
            else:
                errors.append(f"Chat({id}) not found.")
        return done, errors

    return report(await shared.database.write(write), "chats")


def report(result: tuple[int, list[str]] | None, noun: str) -> Response:
    """The answer to a deletion of several: (deleted, errors), or None when nothing was asked for."""
    if result is None:
        return ok({}, "success")
    done, errors = result
    if not errors:
        return ok({"success_count": done}, "success")
    if not done:
        raise Failure(DATA, "; ".join(errors))
    text = f"Partially deleted {done} {noun} with {len(errors)} errors"
    return ok({"errors": errors, "success_count": done}, text)


def _check_form(payload: dict[str, Any]) -> None:
    if payload.get("tenant_id"):
        raise Failure(DATA, "`tenant_id` must not be provided")
    for key in ("prompt_config", "llm_setting"):
        if not isinstance(payload.get(key) or {}, dict):
            raise Failure(DATA, f"`{key}` should be an object.")
    parameters = (payload.get("prompt_config") or {}).get("parameters") or []
    names = [one.get("key") for one in parameters if isinstance(one, dict)]
    for name in names:
        if names.count(name) > 1:
            raise Failure(DATA, f"`parameters` contains duplicate key: {name}")
    if payload.get("rerank_id"):
        raise Failure(DATA, f"`rerank_id` {payload['rerank_id']} doesn't exist")


def _name(value: Any, missing: str) -> str:
    if value is not None and not isinstance(value, str):
        raise Failure(DATA, "chat name must be a string")
    name = (value or "").strip()
    if not name:
        raise Failure(DATA, missing)
    size = len(name.encode(errors="replace"))
    if size > MAX_NAME_BYTES:
        raise Failure(DATA, f"chat name length is {size} which is larger than {MAX_NAME_BYTES}")
    return name


async def _columns(shared: state.State, payload: dict[str, Any]) -> dict[str, Any]:
    """What the payload says, by column; `target` is the id of the model."""
    columns: dict[str, Any] = {}
    if "dataset_ids" in payload:
        ids = payload["dataset_ids"] or []
        if not isinstance(ids, list):
            raise Failure(DATA, "`dataset_ids` should be a list.")
        columns["dataset_ids_json"] = json.dumps(list(dict.fromkeys(str(id) for id in ids if id)))
    llm = payload.get("llm_id")
    if llm is not None:
        if not isinstance(llm, str):
            raise Failure(DATA, "`llm_id` must be a string")
        columns["llm_id"] = llm
        columns["target"] = (await _resolve(shared, llm)).id if llm else None
    for key in ("icon", "description"):
        if payload.get(key) is not None:
            columns[key] = str(payload[key])
    for key in _NUMBERS:
        if payload.get(key) is not None:
            columns[key] = _number(payload[key])
    for key in _COUNTS:
        if payload.get(key) is not None:
            columns[key] = int(_number(payload[key]))
    if isinstance(payload.get("meta_data_filter"), dict):
        columns["meta_data_filter_json"] = json.dumps(payload["meta_data_filter"], ensure_ascii=False)
    if isinstance(payload.get("llm_setting"), dict):
        columns["llm_setting_json"] = json.dumps(payload["llm_setting"], ensure_ascii=False)
    return columns


async def _resolve(shared: state.State, reference: str) -> model.Target:
    try:
        return await model.resolve(shared, reference, "chat", loose=True)
    except LookupError as error:
        raise Failure(DATA, f"`llm_id` {reference} doesn't exist") from error


def _settle(columns: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    values = {key: value for key, value in columns.items() if key != "target"}
    if "target" in columns:
        values["extra_json"] = json.dumps(extra | {"tenant_llm_id": columns["target"]})
    return values


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _check_datasets(connection: sqlite3.Connection, ids: list[str]) -> None:
    rows = retrieval.datasets_of(connection, ids, end="") if ids else []
    for row in rows:
        if not row["chunk_count"]:
            raise Failure(DATA, f"The dataset {row['id']} doesn't own parsed file")


ROUTES = [
    Route("/chats", create_chat, methods=["POST"]),
    Route("/chats", list_chats, methods=["GET"]),
    Route("/chats", delete_chats, methods=["DELETE"]),
    Route("/chats/{chat}", show_chat, methods=["GET"]),
    Route("/chats/{chat}", update_chat, methods=["PATCH", "PUT"]),
    Route("/chats/{chat}", delete_chat, methods=["DELETE"]),
]
