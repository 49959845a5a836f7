"""Listing documents with filters (RAGFlow v0.27.0 `document_api.py`)."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rfctl.engine.ragflow import account, dataset_store, document_store, metadata, page, state
from rfctl.engine.ragflow.envelope import ARGUMENT, DATA, EXCEPTION, Failure, ok

_ORDER = ("create_time", "update_time", "name")


async def list_documents(request: Request) -> Response:
    """A page of documents. An unknown id or name is an error; `create_time_*` apply after paging."""
    shared = state.of(request)
    query = request.query_params
    dataset_id = request.path_params["dataset"]
    tenant_name = await account.tenant_name(shared)

    def select(connection: sqlite3.Connection) -> dict[str, Any]:
        dataset_store.get(connection, dataset_id, f"You don't own the dataset {dataset_id}. ")
        number, size = page.read(query)
        # Waiting clients ask for one id again and again: do not read the others for that.
        rows = connection.execute(
            "SELECT * FROM document WHERE dataset_id = ? AND (? IS NULL OR id = ?)"
            " ORDER BY create_time, rowid",
            (dataset_id, query.get("id") or None, query.get("id")),
        ).fetchall()
        rows = _order(_filter(rows, query), query)
        if query.get("type") == "filter":
            return _summarize(rows)
        shown = rows[(number - 1) * size : number * size]
        begin, end = _time(query, "create_time_from"), _time(query, "create_time_to")
        return {
            "docs": [
                document_store.describe_listed(connection, row, shared.tenant_id, tenant_name)
                for row in shown
                if row["create_time"] >= begin and (end == 0 or row["create_time"] <= end)
            ],
            "total": len(rows),
        }

    return ok(await shared.database.read(select), "success")


def _filter(rows: list[sqlite3.Row], query: QueryParams) -> list[sqlite3.Row]:
    id, name = query.get("id"), query.get("name")
    ids = query.getlist("ids")
    if id and ids:
        text = "ValueError('not enough values to unpack (expected 4, got 2)')"
        raise Failure(EXCEPTION, text, data=None)
    runs = _runs(query.getlist("run"))
    types = query.getlist("types")
    if bad := [kind for kind in types if kind not in document_store.TYPES]:
        raise Failure(DATA, f"Invalid filter conditions: {', '.join(bad)} type")
    if name:
        rows = [row for row in rows if row["name"].casefold() == name.casefold()]
        if not rows:
            raise Failure(DATA, f"you don't own the document {name}")
    if id:
        rows = [row for row in rows if row["id"] == id]
        if not rows:
            raise Failure(DATA, f"you don't own the document {id}")
    suffixes = [suffix.casefold() for suffix in query.getlist("suffix")]
    keywords = query.get("keywords", "").casefold()
    fits = metadata.matcher(query.get("metadata"), query.get("metadata_condition"))
    return [
        row
        for row in rows
        if (not ids or row["id"] in ids)
        and (not runs or row["run"] in runs)
        and (not types or row["type"] in types)
        and (not suffixes or row["suffix"].casefold() in suffixes)
        and keywords in row["name"].casefold()
        and fits(json.loads(row["meta_fields_json"]))
    ]


def _runs(values: list[str]) -> set[str]:
    runs = set()
    bad = []
    for value in values:
        if value in document_store.RUNS:
            runs.add(value)
        elif value.isdecimal() and int(value) < len(document_store.RUNS):
            runs.add(document_store.RUNS[int(value)])
        else:
            bad.append(value)
    if bad:
        raise Failure(DATA, f"Invalid filter run status conditions: {', '.join(bad)}")
    return runs


def _order(rows: list[sqlite3.Row], query: QueryParams) -> list[sqlite3.Row]:
    key = query.get("orderby", "create_time")
    if key not in _ORDER:
        raise Failure(ARGUMENT, f"invalid orderby field: {key}")
    rows = sorted(rows, key=lambda row: row[key].casefold() if key == "name" else row[key])
    return rows if query.get("desc", "true").lower() == "false" else rows[::-1]


def _summarize(rows: list[sqlite3.Row]) -> dict[str, Any]:
    meta: dict[str, Counter[str]] = {}
    for row in rows:
        fields = json.loads(row["meta_fields_json"])
        for key, value in fields.items():
            for item in value if isinstance(value, list) else [value]:
                meta.setdefault(key, Counter())[str(item)] += 1
        if not fields:
            meta.setdefault("empty_metadata", Counter())["true"] += 1
    runs = Counter(str(document_store.RUNS.index(row["run"])) for row in rows)
    return {
        "filter": {"metadata": meta, "run_status": runs, "suffix": Counter(row["suffix"] for row in rows)},
        "total": len(rows),
    }


def _time(query: QueryParams, key: str) -> int:
    try:
        return int(query.get(key, 0))
    except ValueError:
        return 0


ROUTES = [Route("/datasets/{dataset}/documents", list_documents, methods=["GET"])]
