"""Datasets (RAGFlow v0.27.0 `dataset_api.py`).

Deviations: a name of at most 128 characters but more than 128 bytes is refused with a text that says so
(RAGFlow answers with a serialisation error of its own).
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rfctl.engine.ragflow import account, body, dataset_store, document_file, model, queue, state
from rfctl.engine.ragflow.dataset_schema import (
    MAX_NAME_BYTES,
    CreateDataset,
    DeleteDatasets,
    ListDatasets,
    UpdateDataset,
    validate,
)
from rfctl.engine.ragflow.envelope import ARGUMENT, DATA, Failure, ok
from rfctl.engine.ragflow.stamp import new_id, now


async def create_dataset(request: Request) -> Response:
    """Make a dataset; a name that is taken gets a number."""
    shared = state.of(request)
    asked = validate(CreateDataset, await body.read_strict(request))
    _check_name(asked.name)
    if asked.embedding_model is None:
        target = await model.default(shared, "embedding")
        embedding = target.full_name if target else ""
    else:
        embedding = asked.embedding_model
        await _resolve(shared, embedding)
    chat = await model.default(shared, "chat")
    method = asked.chunk_method or "naive"
    config = dataset_store.base_config(method) | {"llm_id": chat.full_name if chat else ""}
    if asked.parser_config is not None and asked.parser_config.model_fields_set:
        config = {"image_context_size": 0, "table_context_size": 0, "llm_id": config["llm_id"]}
        config = dataset_store.merge(config, asked.parser_config.model_dump())
    id, moment = new_id(), now()

    def insert(connection: sqlite3.Connection) -> dict[str, Any]:
        connection.execute(
            "INSERT INTO dataset (id, name, avatar, description, language, embedding_model, permission,"
            " chunk_method, parser_config_json, pipeline_id, create_time, update_time)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                id,
                dataset_store.free_name(connection, asked.name),
                asked.avatar,
                asked.description,
                asked.language or "English",
                embedding,
                asked.permission,
                method,
                json.dumps(config, ensure_ascii=False),
                asked.pipeline_id,
                moment,
                moment,
            ),
        )
        row = dataset_store.get(connection, id, "")
        return dataset_store.describe(connection, row, shared.tenant_id)

    return ok(await shared.database.write(insert))


async def list_datasets(request: Request) -> Response:
    """A page of datasets; an unknown name or id is an error, not an empty list."""
    shared = state.of(request)
    query: dict[str, Any] = dict(request.query_params)
    if "ids" in query:
        query["ids"] = request.query_params.getlist("ids")
    asked = validate(ListDatasets, query)
    tenant_name = await account.tenant_name(shared)

    def select(connection: sqlite3.Connection) -> tuple[list[dict[str, Any]], int]:
        if asked.id is not None and dataset_store.find(connection, asked.id) is None:
            raise Failure(DATA, dataset_store.refusal(shared.tenant_id, asked.id))
        rows = connection.execute("SELECT * FROM dataset ORDER BY create_time, rowid").fetchall()
        if asked.name:
            rows = [row for row in rows if row["name"].casefold() == asked.name.casefold()]
            if not rows:
                raise Failure(DATA, dataset_store.refusal(shared.tenant_id, asked.name))
        if asked.id is not None:
            rows = [row for row in rows if row["id"] == asked.id]
        if asked.ids:
            rows = [row for row in rows if row["id"] in asked.ids]
        rows.sort(key=lambda row: row[asked.orderby])
        if asked.desc:
            rows.reverse()
        start = (asked.page - 1) * asked.page_size
        more = {"embedding_model_name": "", "nickname": tenant_name, "tenant_avatar": None}
        page = rows[start : start + asked.page_size]
        return [dataset_store.describe(connection, row, shared.tenant_id) | more for row in page], len(rows)

    found, total = await shared.database.read(select)
    return ok(found, total_datasets=total)


async def show_dataset(request: Request) -> Response:
    """One dataset with the bytes of its files."""
    shared = state.of(request)
    id = request.path_params["dataset"]

    def select(connection: sqlite3.Connection) -> dict[str, Any]:
        row = dataset_store.get(connection, id, dataset_store.refusal(shared.tenant_id, id))
        (size,) = connection.execute(
            "SELECT coalesce(sum(size), 0) FROM document WHERE dataset_id = ?", (id,)
        ).fetchone()
        more = {"connectors": [], "size": size}
        return dataset_store.describe(connection, row, shared.tenant_id) | more

    return ok(await shared.database.read(select))


async def summarize_dataset(request: Request) -> Response:
    """Counters by state of the documents."""
    shared = state.of(request)
    id = request.path_params["dataset"]

    def select(connection: sqlite3.Connection) -> dict[str, Any]:
        row = dataset_store.get(connection, id, dataset_store.refusal(shared.tenant_id, id))
        counts = dict(
            connection.execute("SELECT run, count(*) FROM document WHERE dataset_id = ? GROUP BY run", (id,))
        )
        states = ("unstart", "running", "cancel", "done", "fail")
        return {
            "chunk_num": row["chunk_count"],
            "doc_num": sum(counts.values()),
            "status": {f"{name}_count": counts.get(name.upper(), 0) for name in states},
            "token_num": row["token_count"],
        }

    return ok(await shared.database.read(select))


async def update_dataset(request: Request) -> Response:
    """Change some properties; parser_config is merged into the stored one."""
    shared = state.of(request)
    values = await body.read_strict(request)
    asked = validate(UpdateDataset, {"dataset_id": request.path_params["dataset"], **values})
    given = asked.model_fields_set - {"dataset_id"}
    if not given:
        raise Failure(DATA, "no properties were modified")
    if asked.name is not None:
        _check_name(asked.name)
    target = None
    if asked.embedding_model is not None:
        target = await _resolve(shared, asked.embedding_model)

    def change(connection: sqlite3.Connection) -> dict[str, Any]:
        id = asked.dataset_id
        row = dataset_store.get(connection, id, dataset_store.refusal(shared.tenant_id, id))
        new: dict[str, Any] = {}
        if asked.name is not None and asked.name != row["name"]:
            others = connection.execute("SELECT name FROM dataset WHERE id != ?", (id,))
            if asked.name.casefold() in {other["name"].casefold() for other in others}:
                raise Failure(DATA, f"Dataset name '{asked.name}' already exists")
            new["name"] = asked.name
        for key in ("avatar", "description", "permission", "pagerank", "pipeline_id", "language"):
            if key in given and getattr(asked, key) is not None:
                new[key] = getattr(asked, key)
        if target is not None:
            if target.full_name != row["embedding_model"] and row["chunk_count"]:
                raise Failure(DATA, _chunked(row))
            new |= {"embedding_model": asked.embedding_model, "embedding_model_id": target.id}
        config = json.loads(row["parser_config_json"])
        if asked.chunk_method is not None and asked.chunk_method != row["chunk_method"]:
            new["chunk_method"] = asked.chunk_method
            config = dataset_store.base_config(asked.chunk_method)
        if asked.parser_config is not None and asked.parser_config.model_fields_set:
            children = {"parent_child": {}, "enable_children": False, "children_delimiter": ""}
            sent = children | asked.parser_config.model_dump(exclude_unset=True)
            config = dataset_store.merge(config, sent)
        new |= {"parser_config_json": json.dumps(config, ensure_ascii=False), "update_time": now()}
        connection.execute(
            f"UPDATE dataset SET {', '.join(f'{key} = ?' for key in new)} WHERE id = ?",  # noqa: S608 - our keys
            (*new.values(), id),
        )
        row = dataset_store.get(connection, id, "")
        return dataset_store.describe(connection, row, shared.tenant_id) | {"connectors": []}

    return ok(await shared.database.write(change))


async def delete_datasets(request: Request) -> Response:
    """Delete by ids, all of them or none; everything only with `delete_all`."""
    shared = state.of(request)
    asked = validate(DeleteDatasets, await body.read_strict(request))

    def delete(connection: sqlite3.Connection) -> tuple[int, list[str]]:
        known = [row["id"] for row in connection.execute("SELECT id FROM dataset")]
        ids = asked.ids or (known if asked.delete_all else [])
        unknown = [id for id in ids if id not in known]
        if unknown:
            text = ", ".join(f"'{id}'" for id in unknown)
            raise Failure(DATA, f"User '{shared.tenant_id}' lacks permission for datasets: {text}")
        documents = []
        for id in ids:
            rows = connection.execute("SELECT id FROM document WHERE dataset_id = ?", (id,))
            documents += [row["id"] for row in rows]
            connection.execute("DELETE FROM dataset WHERE id = ?", (id,))
        return len(ids), documents

    number, documents = await shared.database.write(delete)
    queue.interrupt(shared, documents)
    await document_file.remove(shared, documents)
    return ok({"success_count": number})


def _check_name(name: str) -> None:
    if len(name.encode()) > MAX_NAME_BYTES:
        text = f"Field: <name> - Message: <Name should have at most {MAX_NAME_BYTES} bytes in UTF-8>"
        raise Failure(ARGUMENT, f"{text} - Value: <{name}>")


def _chunked(row: sqlite3.Row) -> str:
    return f"When chunk_num ({row['chunk_count']}) > 0, embedding_model must remain {row['embedding_model']}"


async def _resolve(shared: state.State, name: str) -> model.Target:
    try:
        return await model.resolve(shared, name, "embedding", loose=True)
    except LookupError as error:
        raise Failure(DATA, str(error)) from error


ROUTES = [
    Route("/datasets", create_dataset, methods=["POST"]),
    Route("/datasets", list_datasets, methods=["GET"]),
    Route("/datasets", delete_datasets, methods=["DELETE"]),
    Route("/datasets/{dataset}", show_dataset, methods=["GET"]),
    Route("/datasets/{dataset}", update_dataset, methods=["PUT"]),
    Route("/datasets/{dataset}/ingestions/summary", summarize_dataset, methods=["GET"]),
]
