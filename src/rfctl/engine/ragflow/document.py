"""Documents: upload, download, delete (RAGFlow v0.27.0 `document_api.py`).

Deviations: no thumbnails; only files that can be parsed are accepted (`document_type.toml`); no `?type=web`;
names outside ASCII are sent as `filename*` (RFC 5987) in Content-Disposition, RAGFlow sends raw bytes.
"""

from __future__ import annotations

import mimetypes
import sqlite3
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from rfctl.engine.ragflow import body, dataset_store, document_file, document_store, queue, state, upload
from rfctl.engine.ragflow.dataset_schema import validate
from rfctl.engine.ragflow.envelope import ARGUMENT, DATA, SERVER, Failure, fail, ok
from rfctl.engine.ragflow.stamp import new_id, now

MAX_NAME_BYTES = 255
TOO_LONG = f"File name must be {MAX_NAME_BYTES} bytes or less."
_UNSUPPORTED = "This type of file has not been supported yet!"


class _DeleteDocuments(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    ids: list[str] | None = None
    delete_all: bool = False


async def add_documents(request: Request) -> Response:
    """Upload: every acknowledged file and row is on the disk before the answer."""
    kind = request.query_params.get("type", "local").lower()
    if kind not in ("local", "web", "empty"):
        await upload.drain(request)
        raise Failure(ARGUMENT, '`type` must be one of "local", "web", or "empty".')
    shared = state.of(request)
    dataset_id = request.path_params["dataset"]
    dataset = await shared.database.read(lambda c: dataset_store.find(c, dataset_id))
    if dataset is None:
        await upload.drain(request)
        raise Failure(DATA, f"Can't find the dataset with ID {dataset_id}!")
    if kind == "web":
        await upload.drain(request)
        text = "rfctl's embedded engine does not fetch web pages; a RAGFlow server does"
        raise Failure(501, text, status=501)
    if kind == "empty":
        return await _add_virtual(request, shared, dataset_id)

    def accept(name: str) -> document_file.Incoming | None:
        if document_file.type_of(name) is None or len(name.encode()) > MAX_NAME_BYTES:
            return None
        return document_file.Incoming(shared.document_dir, new_id())

    try:
        parts = await upload.receive(request, accept)
    except OSError as error:
        await upload.drain(request)
        raise Failure(SERVER, f"The upload could not be stored: {error.strerror or error}") from error
    refusal = _refuse(parts)
    if refusal is not None:
        upload.discard(parts)
        raise Failure(ARGUMENT, refusal)
    kept = [part for part in parts if part.file is not None]
    refused = [f"{part.name}: {_UNSUPPORTED}" for part in parts if part.file is None]
    await document_file.sync(shared)
    try:
        added = await shared.database.write(lambda c: _insert(c, shared.tenant_id, dataset_id, kept))
    except BaseException:
        upload.discard(parts)
        raise
    if refused:
        text = "\n".join(refused)
        return fail(SERVER, text, data=added) if added else fail(SERVER, text)
    return ok(added)


async def download_document(request: Request) -> Response:
    """The file as it was uploaded."""
    shared = state.of(request)
    dataset_id, id = request.path_params.get("dataset"), request.path_params["document"]
    row = await shared.database.read(
        lambda c: c.execute(
            "SELECT * FROM document WHERE id = ? AND (? IS NULL OR dataset_id = ?)",
            (id, dataset_id, dataset_id),
        ).fetchone()
    )
    if row is None:
        raise Failure(DATA, "document not found")
    if row["size"] == 0:
        raise Failure(DATA, "This file is empty.")
    kind = mimetypes.guess_type("x." + row["suffix"].lower())[0] or "application/octet-stream"
    name = row["name"]
    plain = name.isascii() and all(letter.isalnum() or letter in "._-()" for letter in name)
    shown = f"filename={name}" if plain else f"filename*=UTF-8''{quote(name, safe='')}"
    headers = {"Content-Disposition": f"attachment; {shown}"}
    return FileResponse(shared.document_dir / row["id"], media_type=kind, headers=headers)


async def delete_documents(request: Request) -> Response:
    """Delete documents with their files and chunks; an unknown id means that nothing is deleted."""
    shared = state.of(request)
    dataset_id = request.path_params["dataset"]
    asked = validate(_DeleteDocuments, await body.read_strict(request))
    for id in asked.ids or ():
        if asked.ids is not None and asked.ids.count(id) > 1:
            text = f"Field: <ids> - Message: <Duplicate ids: '{id}'> - Value: <{asked.ids}>"
            raise Failure(ARGUMENT, text)

    def delete(connection: sqlite3.Connection) -> list[str]:
        dataset_store.get(connection, dataset_id, f"You don't own the dataset {dataset_id}. ")
        if asked.ids and asked.delete_all:
            text = f"should not provide both doc ids and delete_all(true), dataset: {dataset_id}. "
            raise Failure(DATA, text)
        if not asked.ids and not asked.delete_all:
            text = f"should either provide doc ids or set delete_all(true), dataset: {dataset_id}. "
            raise Failure(DATA, text)
        rows = connection.execute("SELECT id FROM document WHERE dataset_id = ?", (dataset_id,)).fetchall()
        known = [row["id"] for row in rows]
        unknown = [id for id in asked.ids or () if id not in known]
        if unknown:
            text = f"These documents do not belong to dataset {dataset_id} or Document not found: "
            raise Failure(DATA, text + ", ".join(unknown))
        ids = asked.ids or known
        for id in ids:
            remove(connection, id)
        return ids

    ids = await shared.database.write(delete)
    queue.interrupt(shared, ids)
    await document_file.remove(shared, ids)
    return ok({"deleted": len(ids)})


def remove(connection: sqlite3.Connection, id: str) -> None:
    """Delete a document's row with its chunks and task, and correct the dataset's counters."""
    row = connection.execute(
        "DELETE FROM document WHERE id = ? RETURNING dataset_id, chunk_count, token_count", (id,)
    ).fetchone()
    connection.execute(
        "UPDATE dataset SET chunk_count = max(0, chunk_count - ?), token_count = max(0, token_count - ?),"
        " revision = revision + 1 WHERE id = ?",
        (row["chunk_count"], row["token_count"], row["dataset_id"]),
    )


async def _add_virtual(request: Request, shared: state.State, dataset_id: str) -> Response:
    name = (await body.read_object(request)).get("name")
    name = name.strip() if isinstance(name, str) else ""
    if not name:
        raise Failure(ARGUMENT, "File name can't be empty.")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise Failure(ARGUMENT, TOO_LONG)

    def insert(connection: sqlite3.Connection) -> dict[str, Any]:
        dataset = dataset_store.get(connection, dataset_id, f"Can't find the dataset with ID {dataset_id}!")
        free = document_store.free_name(connection, dataset_id, name)
        id = _insert_row(connection, dataset, new_id(), free, "", 0, "virtual", "")
        row = document_store.get(connection, dataset_id, id, "")
        shown = document_store.describe(connection, row, shared.tenant_id)
        hidden = ("thumbnail", "create_date", "create_time", "update_date", "update_time", "process_begin_at")
        return {key: value for key, value in shown.items() if key not in hidden}

    return ok(await shared.database.write(insert))


def _insert(
    connection: sqlite3.Connection, tenant_id: str, dataset_id: str, parts: list[upload.Part]
) -> list[dict[str, Any]]:
    dataset = dataset_store.get(connection, dataset_id, f"Can't find the dataset with ID {dataset_id}!")
    added = []
    for part in parts:
        assert part.file is not None
        name = document_store.free_name(connection, dataset_id, part.name)
        kind = document_file.type_of(name) or ""
        id = _insert_row(
            connection, dataset, part.file.path.name, name, name, part.file.size, kind, part.content_hash
        )
        row = document_store.get(connection, dataset_id, id, "")
        added.append(document_store.describe_upload(row, tenant_id))
    return added


def _insert_row(
    connection: sqlite3.Connection,
    dataset: sqlite3.Row,
    id: str,
    name: str,
    location: str,
    size: int,
    kind: str,
    content_hash: str,
) -> str:
    moment = now()
    connection.execute(
        "INSERT INTO document (id, dataset_id, name, location, size, type, suffix, content_hash,"
        " chunk_method, parser_config_json, pipeline_id, create_time, update_time)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            id,
            dataset["id"],
            name,
            location,
            size,
            kind,
            document_file.suffix(name),
            content_hash,
            dataset["chunk_method"],
            dataset["parser_config_json"],
            dataset["pipeline_id"],
            moment,
            moment,
        ),
    )
    return id


def _refuse(parts: list[upload.Part]) -> str | None:
    if not parts:
        return "No file part!"
    if any(not part.name for part in parts):
        return "No file selected!"
    if any(len(part.name.encode()) > MAX_NAME_BYTES for part in parts):
        return TOO_LONG
    return None


_DOCUMENTS = "/datasets/{dataset}/documents"
ROUTES = [
    Route(_DOCUMENTS, add_documents, methods=["POST"]),
    Route(_DOCUMENTS, delete_documents, methods=["DELETE"]),
    Route(_DOCUMENTS + "/{document}", download_document, methods=["GET"]),
    Route("/documents/{document}", download_document, methods=["GET"]),
]
