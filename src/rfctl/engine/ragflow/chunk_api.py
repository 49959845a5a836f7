"""Chunks of a document: list, add, change, delete (RAGFlow v0.27.0 `chunk_api.py`).

Deviations: positions that are no lists of five numbers are refused with 102 (RAGFlow stores them and can
then no longer list the document); no images of chunks; in a search by keywords the words are found as
`text.query` finds them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rfctl.engine.ragflow import (
    body,
    chunk_edit,
    chunk_store,
    dataset_store,
    document_store,
    model,
    page,
    retrieval,
    state,
)
from rfctl.engine.ragflow.envelope import DATA, Failure, ok, refused
from rfctl.engine.text import query

_POSITIONS = "`positions` should be a list of [page, left, right, top, bottom]"


async def list_chunks(request: Request) -> Response:
    """A page of the document's chunks in page order; `keywords` searches, `id` picks one."""
    shared = state.of(request)
    asked = request.query_params
    number, size = page.read(asked)

    def run(connection: sqlite3.Connection) -> dict[str, Any]:
        document = _document(connection, request)
        shown = document_store.describe(connection, document, shared.tenant_id)
        if asked.get("id"):
            row = _find(connection, document["id"], asked["id"])
            if row is None:
                raise Failure(DATA, f"Chunk not found: {document['dataset_id']}/{asked['id']}")
            one = _describe(row, document["name"]) | {"tag_feas": json.loads(row["tag_feas_json"])}
            return {"chunks": [one], "doc": shown, "total": 1}
        rows, total, analysed = _select(connection, document["id"], asked, number, size)
        chunks = [_describe(row, document["name"]) for row in rows]
        if analysed is not None:
            for chunk in chunks:
                chunk["content"] = retrieval.highlight(chunk["content"], analysed) or chunk["content"]
        return {"chunks": chunks, "doc": shown, "total": total}

    return ok(await shared.database.read(run))


async def show_chunk(request: Request) -> Response:
    """One chunk under the names of RAGFlow's index."""
    shared = state.of(request)

    def run(connection: sqlite3.Connection) -> dict[str, Any]:
        document = _document(connection, request)
        row = _find(connection, document["id"], request.path_params["chunk"])
        if row is None:
            raise Failure(DATA, "Chunk not found!")
        return {
            "content_with_weight": row["content"],
            "create_time": _moment(row),
            "create_timestamp_flt": row["create_timestamp"],
            "doc_id": document["id"],
            "docnm_kwd": document["name"],
            "id": row["id"],
            "img_id": row["image_id"],
            "kb_id": document["dataset_id"],
        }

    return ok(await shared.database.read(run))


async def add_chunk(request: Request) -> Response:
    """Embed and store a chunk; the same content again replaces the chunk of that content."""
    shared = state.of(request)
    document = await shared.database.read(lambda connection: _document(connection, request))
    payload = await body.read_object(request)
    content = payload.get("content")
    if not content or not str(content).strip():
        raise Failure(DATA, "`content` is required")
    for key in ("important_keywords", "questions"):
        if not isinstance(payload.get(key) or [], list):
            raise Failure(DATA, f"`{key}` is required to be a list")
    if not isinstance(content, str):
        raise refused(TypeError(f"unsupported operand type(s) for +: '{type(content).__name__}' and 'str'"))
    if "tag_kwd" in payload and not isinstance(payload["tag_kwd"] or [], list):
        raise Failure(DATA, "`tag_kwd` is required to be a list")
    new = chunk_edit.make(document["name"], content, payload)
    vector = await _embed(shared, document, content, new.questions)

    def write(connection: sqlite3.Connection) -> sqlite3.Row | None:
        _document(connection, request)
        (id,) = chunk_store.insert(connection, document["id"], document["dataset_id"], [new], vector)
        return _find(connection, document["id"], id)

    row = await shared.database.write(write)
    assert row is not None
    shown = {
        "content": content,
        "create_time": _moment(row),
        "create_timestamp": row["create_timestamp"],
        "dataset_id": document["dataset_id"],
        "doc_type_kwd": "text",
        "document_id": document["id"],
        "id": row["id"],
        "important_keywords": list(new.important_keywords),
        "questions": list(new.questions),
    }
    if "tag_kwd" in payload:
        shown["tag_kwd"] = list(new.tags)
    return ok({"chunk": shown})


async def update_chunk(request: Request) -> Response:
    """Change fields of a chunk; a new text or question is embedded anew. Unknown keys are ignored."""
    shared = state.of(request)
    id = request.path_params["chunk"]

    def look(connection: sqlite3.Connection) -> tuple[sqlite3.Row, sqlite3.Row]:
        document = _document(connection, request)
        row = _find(connection, document["id"], id)
        if row is None:
            raise Failure(DATA, f"Can't find this chunk {id}")
        return document, row

    document, row = await shared.database.read(look)
    payload = await body.read_object(request)
    _check_update(payload)
    text = chunk_edit.read(row, payload)
    vector = None
    if text.content != row["content"] or list(text.questions) != json.loads(row["questions_json"]):
        vector = await _embed(shared, document, text.content, text.questions)
    available = bool(payload.get("available", row["available"]))

    def write(connection: sqlite3.Connection) -> None:
        _, current = look(connection)
        chunk_edit.replace(connection, current, document["name"], text, available, vector)

    await shared.database.write(write)
    return ok()


async def switch_chunks(request: Request) -> Response:
    """Show or hide several chunks."""
    shared = state.of(request)
    payload = await body.read_object(request)
    ids = payload.get("chunk_ids")
    if not isinstance(ids, list) or "available_int" not in payload:
        raise Failure(DATA, "`chunk_ids` and `available_int` are required")

    def write(connection: sqlite3.Connection) -> None:
        document = _document(connection, request)
        for id in ids:
            connection.execute(
                "UPDATE chunk SET available = ? WHERE id = ? AND document_id = ?",
                (int(bool(int(payload["available_int"]))), str(id), document["id"]),
            )

    await shared.database.write(write)
    return ok(True)


async def delete_chunks(request: Request) -> Response:
    """Delete known ones of the given chunks, or all; without ids nothing."""
    shared = state.of(request)
    payload = await body.read_object(request)

    def write(connection: sqlite3.Connection) -> tuple[int, int, list[str]]:
        document = _document(connection, request)
        ids = [str(id) for id in payload.get("chunk_ids") or []]
        if not ids and payload.get("delete_all") is True:
            rows = connection.execute("SELECT id FROM chunk WHERE document_id = ?", (document["id"],))
            ids = [row["id"] for row in rows.fetchall()]
        unique = list(dict.fromkeys(ids))
        repeated = [f"Duplicate chunk ids: {id}" for id in unique if ids.count(id) > 1]
        return chunk_edit.delete(connection, document, unique), len(unique), repeated

    done, expected, repeated = await shared.database.write(write)
    if done != expected:
        raise Failure(DATA, f"rm_chunk deleted chunks {done}, expect {expected}")
    return ok({"errors": repeated, "success_count": done}) if repeated else ok()


async def _embed(shared: state.State, document: sqlite3.Row, content: str, questions: Any) -> Any:
    dataset = await shared.database.read(
        lambda connection: dataset_store.find(connection, document["dataset_id"])
    )
    if dataset is None:
        raise Failure(DATA, f"You don't own the dataset {document['dataset_id']}.")
    target = await retrieval.embedding_target(shared, [dataset])
    try:
        return await chunk_edit.embed(shared, target, document, content, questions)
    except model.EmbeddingError as error:
        raise Failure(400, repr(error), data=None) from error


def _check_update(payload: Mapping[str, Any]) -> None:
    if "content" in payload and (not isinstance(payload["content"], str) or not payload["content"].strip()):
        raise Failure(DATA, "`content` is required")
    for key in ("important_keywords", "questions", "tag_kwd"):
        if key in payload and not isinstance(payload[key], list):
            raise Failure(DATA, f"`{key}` should be a list")
    positions = payload.get("positions") or []
    if not isinstance(positions, list):
        raise Failure(DATA, _POSITIONS)
    for position in positions:
        numbers = isinstance(position, list) and all(isinstance(value, int | float) for value in position)
        if not numbers or len(position) != 5:
            raise Failure(DATA, _POSITIONS)


def _document(connection: sqlite3.Connection, request: Request) -> sqlite3.Row:
    dataset, document = request.path_params["dataset"], request.path_params["document"]
    dataset_store.get(connection, dataset, f"You don't own the dataset {dataset}.")
    return document_store.get(connection, dataset, document, f"you don't own the document {document}")


def _find(connection: sqlite3.Connection, document_id: str, id: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM chunk WHERE id = ? AND document_id = ?", (id, document_id)
    ).fetchone()
    return row


def _select(
    connection: sqlite3.Connection, document_id: str, asked: Any, number: int, size: int
) -> tuple[list[sqlite3.Row], int, query.Query | None]:
    tables, where, values = "chunk c", ["c.document_id = ?"], [document_id]
    order = "c.page, c.top, c.seq"
    analysed = None
    if asked.get("keywords", "").strip():
        analysed = query.analyse(asked["keywords"])
        if not analysed.expression:
            return [], 0, analysed
        tables = "chunk_text t JOIN chunk c ON c.seq = t.rowid"
        where.append("chunk_text MATCH ?")
        values.append(analysed.expression)
        order = "t.rank"
    if asked.get("available") is not None and asked["available"] != "":
        where.append(f"c.available = {int(asked['available'].lower() in ('true', '1'))}")
    ids = asked.getlist("chunk_ids")
    if ids:
        where.append(f"c.id IN ({','.join('?' * len(ids))})")
        values += ids
    condition = f" FROM {tables} WHERE {' AND '.join(where)}"
    (total,) = connection.execute("SELECT count(*)" + condition, values).fetchone()
    rows = connection.execute(
        f"SELECT c.*{condition} ORDER BY {order} LIMIT ? OFFSET ?", (*values, size, (number - 1) * size)
    )
    return rows.fetchall(), total, analysed


def _describe(row: sqlite3.Row, name: str) -> dict[str, Any]:
    return {
        "available": bool(row["available"]),
        "content": row["content"],
        "dataset_id": row["dataset_id"],
        "doc_type_kwd": "text",
        "docnm_kwd": name,
        "document_id": row["document_id"],
        "id": row["id"],
        "image_id": row["image_id"],
        "important_keywords": json.loads(row["important_keywords_json"]),
        "positions": json.loads(row["positions_json"]),
        "questions": json.loads(row["questions_json"]),
        "tag_kwd": json.loads(row["tags_json"]),
    }


def _moment(row: sqlite3.Row) -> str:
    return f"{datetime.fromtimestamp(row['create_timestamp']):%Y-%m-%d %H:%M:%S}"


_CHUNKS = "/datasets/{dataset}/documents/{document}/chunks"
ROUTES = [
    Route(_CHUNKS, list_chunks, methods=["GET"]),
    Route(_CHUNKS, add_chunk, methods=["POST"]),
    Route(_CHUNKS, switch_chunks, methods=["PATCH"]),
    Route(_CHUNKS, delete_chunks, methods=["DELETE"]),
    Route(_CHUNKS + "/{chunk}", show_chunk, methods=["GET"]),
    Route(_CHUNKS + "/{chunk}", update_chunk, methods=["PATCH", "PUT"]),
]
