"""Rows of documents and their form in answers."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import PurePosixPath
from typing import Any

from rfctl.engine.ragflow.dataset_store import merge
from rfctl.engine.ragflow.envelope import DATA, Failure
from rfctl.engine.ragflow.stamp import iso

RUNS = ("UNSTART", "RUNNING", "CANCEL", "DONE", "FAIL")
TYPES = ("pdf", "doc", "visual", "aural", "virtual", "folder", "other")
QUEUED = "Task is queued..."
# After this time in the queue the message says how many tasks are ahead (RAGFlow's refresh interval).
_REFRESH_SECONDS = 6


def find(connection: sqlite3.Connection, dataset_id: str, id: str) -> sqlite3.Row | None:
    """The document's row if it is in that dataset."""
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM document WHERE id = ? AND dataset_id = ?", (id, dataset_id)
    ).fetchone()
    return row


def get(connection: sqlite3.Connection, dataset_id: str, id: str, message: str) -> sqlite3.Row:
    """Like `find`; raises Failure 102 with `message`."""
    row = find(connection, dataset_id, id)
    if row is None:
        raise Failure(DATA, message)
    return row


def free_name(connection: sqlite3.Connection, dataset_id: str, name: str) -> str:
    """`name`, or `stem(1).ext`, `stem(2).ext`... if it is taken in the dataset, case ignored."""
    rows = connection.execute("SELECT name FROM document WHERE dataset_id = ?", (dataset_id,))
    taken = {row["name"].casefold() for row in rows}
    suffix = PurePosixPath(name).suffix
    stem = name[: len(name) - len(suffix)] if suffix else name
    candidate, number = name, 0
    while candidate.casefold() in taken:
        number += 1
        candidate = f"{stem}({number}){suffix}"
    return candidate


def describe_upload(row: sqlite3.Row, tenant_id: str) -> dict[str, Any]:
    """A document in the answer to its upload."""
    return {
        "chunk_method": row["chunk_method"],
        "content_hash": row["content_hash"],
        "created_by": tenant_id,
        "dataset_id": row["dataset_id"],
        "id": row["id"],
        "location": row["location"],
        "name": row["name"],
        "parser_config": json.loads(row["parser_config_json"]),
        "pipeline_id": row["pipeline_id"],
        "run": row["run"],
        "size": row["size"],
        "source_type": row["source_type"],
        "suffix": row["suffix"],
        "thumbnail": "",
        "type": row["type"],
    }


def describe(connection: sqlite3.Connection, row: sqlite3.Row, tenant_id: str) -> dict[str, Any]:
    """A document after a change; listings add and drop a few keys."""
    return {
        **describe_upload(row, tenant_id),
        "chunk_count": row["chunk_count"],
        "create_date": iso(row["create_time"]),
        "create_time": row["create_time"],
        "process_begin_at": iso(row["process_begin_at"]),
        "process_duration": _duration(row),
        "progress": row["progress"],
        "progress_msg": _message(connection, row),
        "status": str(row["enabled"]),
        "token_count": row["token_count"],
        "update_date": iso(row["update_time"]),
        "update_time": row["update_time"],
    }


def describe_listed(
    connection: sqlite3.Connection, row: sqlite3.Row, tenant_id: str, tenant_name: str
) -> dict[str, Any]:
    """A document in a listing."""
    shown = describe(connection, row, tenant_id)
    del shown["content_hash"]
    more = {"meta_fields": json.loads(row["meta_fields_json"]), "nickname": tenant_name}
    return shown | more | {"pipeline_name": None}


def change_config(config: dict[str, Any], sent: dict[str, Any]) -> dict[str, Any]:
    """`sent` (only what the client named) over `config`; RAPTOR settings go unless they are sent."""
    if not sent:
        return config
    if "raptor" not in sent:
        config = {key: value for key, value in config.items() if key != "raptor"}
    return merge(config, sent)


def _duration(row: sqlite3.Row) -> float:
    if row["run"] == "RUNNING" and row["process_begin_at"] and row["progress_msg"] != QUEUED:
        return max(0.0, time.time() - float(row["process_begin_at"]) / 1000)
    return float(row["process_duration"])


def _message(connection: sqlite3.Connection, row: sqlite3.Row) -> str:
    waits = row["run"] == "RUNNING" and row["progress_msg"] == QUEUED and row["process_begin_at"]
    if not waits or time.time() - row["process_begin_at"] / 1000 < _REFRESH_SECONDS:
        return str(row["progress_msg"])
    (ahead,) = connection.execute(
        "SELECT count(*) FROM task WHERE seq < (SELECT seq FROM task WHERE document_id = ?)", (row["id"],)
    ).fetchone()
    return f"{ahead} tasks are ahead in the queue..."
