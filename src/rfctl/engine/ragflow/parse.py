"""Starting and stopping the parsing of documents (RAGFlow v0.27.0 `chunk_api.py`, `document_api.py`).

Deviations: a list with a running document starts none of them (RAGFlow starts some, in random order); the
start of an unreadable PDF answers code 0 and the document FAILs with the reason.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rfctl.engine.ragflow import body, dataset_store, document_store, queue, state
from rfctl.engine.ragflow.envelope import AUTHENTICATION, DATA, Failure, fail, ok

_RUNNING = "Can't parse document that is currently being processed"
_IDLE = "Can't stop parsing document that has not started or already completed"


async def start_parsing(request: Request) -> Response:
    """Start documents; known ones are started even if others are unknown."""
    count, errors, unknown = await _start(request)
    if unknown:
        raise Failure(DATA, f"Documents not found: {unknown}")
    return ok({"errors": errors, "success_count": count}) if errors else ok()


async def start_parsing_newer(request: Request) -> Response:
    """The same under the newer path, whose answer counts."""
    count, errors, unknown = await _start(request)
    if unknown:
        raise Failure(DATA, f"Documents not found: {unknown}")
    return ok({"success_count": count} | ({"errors": errors} if errors else {}))


async def stop_parsing(request: Request) -> Response:
    """Stop running documents; one that does not run is an error."""
    count, errors, idle = await _stop(request)
    if idle:
        return fail(DATA, _IDLE, data={"error_code": "DOC_STOP_PARSING_INVALID_STATE"})
    return ok({"errors": errors, "success_count": count}) if errors else ok()


async def stop_parsing_newer(request: Request) -> Response:
    """The same under the newer path; one that does not run is listed."""
    count, errors, idle = await _stop(request)
    errors = errors + [_IDLE] * len(idle)
    return ok({"success_count": count} | ({"errors": errors} if errors else {}))


async def ingest_documents(request: Request) -> Response:
    """Start (`run` "1") or stop ("2") documents of any dataset."""
    shared = state.of(request)
    payload = await body.read_object(request)
    ids = _unique(payload.get("doc_ids") or [])[0]

    def change(connection: sqlite3.Connection) -> None:
        rows = [connection.execute("SELECT * FROM document WHERE id = ?", (id,)).fetchone() for id in ids]
        if not rows or None in rows:
            raise Failure(AUTHENTICATION, "no authorization", data=None)
        for row in rows:
            if str(payload.get("run")) == "1":
                if row["run"] == "RUNNING":
                    raise Failure(DATA, _RUNNING)
                queue.start(connection, row["id"])
            elif row["run"] == "RUNNING":
                queue.stop(connection, row["id"])

    await shared.database.write(change)
    if str(payload.get("run")) == "1":
        queue.wake(shared)
    else:
        queue.interrupt(shared, ids)
    return ok(True)


async def _start(request: Request) -> tuple[int, list[str], list[str]]:
    shared = state.of(request)
    dataset_id = request.path_params["dataset"]
    payload = await body.read_object(request)

    def change(connection: sqlite3.Connection) -> tuple[int, list[str], list[str]]:
        ids, errors = _ids(connection, dataset_id, payload)
        rows = {id: document_store.find(connection, dataset_id, id) for id in ids}
        found = [row for row in rows.values() if row is not None]
        if any(row["run"] == "RUNNING" for row in found):
            raise Failure(DATA, _RUNNING)
        for row in found:
            queue.start(connection, row["id"])
        return len(found), errors, [id for id, row in rows.items() if row is None]

    result = await shared.database.write(change)
    queue.wake(shared)
    return result


async def _stop(request: Request) -> tuple[int, list[str], list[str]]:
    shared = state.of(request)
    dataset_id = request.path_params["dataset"]
    payload = await body.read_object(request)

    def change(connection: sqlite3.Connection) -> tuple[list[str], list[str], list[str]]:
        ids, errors = _ids(connection, dataset_id, payload)
        stopped, idle = [], []
        for id in ids:
            row = document_store.get(connection, dataset_id, id, f"you don't own the document {id}")
            if row["run"] == "RUNNING":
                queue.stop(connection, id)
                stopped.append(id)
            else:
                idle.append(id)
        return stopped, errors, idle

    stopped, errors, idle = await shared.database.write(change)
    queue.interrupt(shared, stopped)
    return len(stopped), errors, idle


def _ids(
    connection: sqlite3.Connection, dataset_id: str, payload: dict[str, Any]
) -> tuple[list[str], list[str]]:
    dataset_store.get(connection, dataset_id, f"You don't own the dataset {dataset_id}.")
    value = payload.get("document_ids")
    if not value or not isinstance(value, list | str):
        raise Failure(DATA, "`document_ids` is required")
    return _unique(value)


def _unique(value: Any) -> tuple[list[str], list[str]]:
    ids = [str(id) for id in ([value] if isinstance(value, str) else value)]
    unique = list(dict.fromkeys(ids))
    errors = [f"Duplicate document ids: {id}" for id in unique if ids.count(id) > 1]
    return unique, errors


ROUTES = [
    Route("/datasets/{dataset}/chunks", start_parsing, methods=["POST"]),
    Route("/datasets/{dataset}/chunks", stop_parsing, methods=["DELETE"]),
    Route("/datasets/{dataset}/documents/parse", start_parsing_newer, methods=["POST"]),
    Route("/datasets/{dataset}/documents/stop", stop_parsing_newer, methods=["POST"]),
    Route("/documents/ingest", ingest_documents, methods=["POST"]),
]
