"""POST /retrieval and the search of one dataset (RAGFlow v0.27.0 `chunk_api.py`, `dataset_api.py`).

Deviations: `total` and `doc_aggs` count all hits above the threshold (RAGFlow: those of a window of 64);
there are no reranking models; keyword, cross_languages, use_kg and toc_enhance, which need a language model
or a graph, are accepted and ignored; similarity differs as `text.query` says.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rfctl.engine.ragflow import body, dataset_store, metadata, model, page, retrieval, state
from rfctl.engine.ragflow.envelope import DATA, Failure, ok, refused
from rfctl.engine.text import query, similarity, token

_NOTHING = {"chunks": [], "doc_aggs": {}, "total": 0}


async def retrieve(request: Request) -> Response:
    """Chunks of several datasets for a question."""
    payload = await body.read_object(request)
    ids = payload.get("dataset_ids")
    if not ids:
        raise Failure(DATA, "`dataset_ids` is required.")
    if not isinstance(ids, list):
        raise Failure(DATA, "`dataset_ids` should be a list")
    ids = [str(id) for id in ids]
    shared = state.of(request)
    await shared.database.read(lambda connection: retrieval.datasets_of(connection, ids))
    if "question" not in payload:
        raise Failure(DATA, "`question` is required.")
    found = await _search(shared, ids, payload)
    if found is None:
        return ok(_NOTHING)
    rows, total, aggs, analysed = found
    marked = _flag(payload.get("highlight", False))
    chunks = [_describe(row, analysed if marked else None) for row in rows]
    return ok({"chunks": chunks, "doc_aggs": aggs, "total": total})


async def search_dataset(request: Request) -> Response:
    """The same for one dataset, with the field names of RAGFlow's web pages."""
    shared = state.of(request)
    id = request.path_params["dataset"]
    payload = await body.read_object(request)
    await shared.database.read(
        lambda connection: dataset_store.get(connection, id, f"You don't own the dataset {id}.")
    )
    payload["document_ids"] = payload.get("doc_ids") or payload.get("document_ids") or []
    found = await _search(shared, [id], payload)
    if found is None:
        return ok(_NOTHING | {"labels": None})
    rows, total, aggs, _ = found
    chunks = [_describe_raw(row) for row in rows]
    return ok({"chunks": chunks, "doc_aggs": aggs, "labels": None, "total": total})


async def _search(
    shared: state.State, ids: list[str], payload: Mapping[str, Any]
) -> tuple[list[retrieval.Row], int, list[dict[str, Any]], query.Query] | None:
    number, size = page.read(payload)
    question = payload.get("question")
    if question is None or question == "":
        return None
    if not isinstance(question, str):
        raise refused(TypeError(f"expected string or bytes-like object, got '{type(question).__name__}'"))
    if not question.strip():
        return None
    documents = payload.get("document_ids") or []
    if not isinstance(documents, list):
        raise Failure(DATA, "`documents` should be a list")
    wanted = await shared.database.read(
        lambda connection: _documents(connection, ids, documents, payload.get("metadata_condition"))
    )
    if wanted == []:
        return None
    try:
        top_k = int(payload.get("top_k", 1024))
        threshold = float(payload.get("similarity_threshold", similarity.DEFAULT_THRESHOLD))
        weight = float(payload.get("vector_similarity_weight", similarity.DEFAULT_WEIGHT))
    except (TypeError, ValueError) as error:
        raise refused(error) from error
    if top_k <= 0:
        raise Failure(DATA, "`top_k` must be greater than 0")
    _flag(payload.get("highlight", False))
    if payload.get("rerank_id"):
        raise refused(LookupError(f"Model {payload['rerank_id']} not found for model rerank"))
    asked = retrieval.Request(
        question=question,
        dataset_ids=ids,
        document_ids=wanted,
        threshold=threshold,
        weight=weight,
        top_k=top_k,
    )
    try:
        found = await retrieval.find(shared, asked)
    except (model.EmbeddingError, LookupError) as error:
        raise refused(error) from error
    start = (number - 1) * size
    if start >= len(found.hits):
        return [], 0, [], query.analyse(question)
    rows = await retrieval.load(shared, found.hits[start : start + size])
    return rows, len(found.hits), list(found.doc_aggs), query.analyse(question)


def _documents(
    connection: sqlite3.Connection, ids: list[str], documents: list[Any], condition: Any
) -> list[str] | None:
    """Ids to search in: those asked for, or those that fit the condition on metadata; None = all."""
    marks = ",".join("?" * len(ids))
    statement = f"SELECT id, meta_fields_json FROM document WHERE dataset_id IN ({marks})"  # noqa: S608
    owned = {row["id"]: row["meta_fields_json"] for row in connection.execute(statement, ids)}
    for id in documents:
        if id not in owned:
            raise Failure(DATA, f"The datasets don't own the document {id}")
    if documents:
        return [str(id) for id in documents]
    if not isinstance(condition, dict) or not condition.get("conditions"):
        return None
    fits = metadata.conditions(condition)
    return [id for id, fields in owned.items() if fits(json.loads(fields))]


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value is None:
        return False
    raise Failure(DATA, "`highlight` should be a boolean")


def _common(row: retrieval.Row) -> dict[str, Any]:
    return {
        "content_ltks": token.content_words(row.chunk["tokens"]),
        "doc_type_kwd": "",
        "image_id": row.chunk["image_id"],
        "mom_id": "",
        "positions": row.positions(),
        "row_id": None,
        "similarity": row.hit.similarity,
        "tag_kwd": json.loads(row.chunk["tags_json"]),
        "term_similarity": row.hit.term_similarity,
        "vector_similarity": row.hit.vector_similarity,
    }


def _describe(row: retrieval.Row, marked: query.Query | None) -> dict[str, Any]:
    shown = _common(row) | {
        "content": row.chunk["content"],
        "dataset_id": row.chunk["dataset_id"],
        "document_id": row.chunk["document_id"],
        "document_keyword": row.chunk["name"],
        "id": row.chunk["id"],
        "important_keywords": json.loads(row.chunk["important_keywords_json"]),
    }
    if marked is not None:
        shown["highlight"] = retrieval.highlight(row.chunk["content"], marked) or row.chunk["content"]
    return shown


def _describe_raw(row: retrieval.Row) -> dict[str, Any]:
    return _common(row) | {
        "chunk_id": row.chunk["id"],
        "content_with_weight": row.chunk["content"],
        "doc_id": row.chunk["document_id"],
        "docnm_kwd": row.chunk["name"],
        "important_kwd": json.loads(row.chunk["important_keywords_json"]),
        "kb_id": row.chunk["dataset_id"],
    }


ROUTES = [
    Route("/retrieval", retrieve, methods=["POST"]),
    Route("/datasets/{dataset}/search", search_dataset, methods=["POST"]),
]
