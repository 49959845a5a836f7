"""Rows of datasets and their form in answers."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from rfctl.engine.ragflow.dataset_schema import ParserConfig, Raptor
from rfctl.engine.ragflow.envelope import DATA, Failure
from rfctl.engine.ragflow.stamp import iso

# Jobs that RAGFlow can run over a dataset and the engine cannot; their fields are there and empty.
_JOBS = (
    "graphrag", "mindmap", "raptor", "session_essence", "session_graph", "skill", "structure",
    "structure_graph", "structure_mindmap", "timeline", "wiki",
)  # fmt: skip
_CONTEXT = {"image_context_size": 0, "table_context_size": 0}
# Methods whose stored configuration names RAPTOR and GraphRAG (v0.27.0 `api_utils.get_parser_config`).
_WITH_GRAPH = ("book", "laws", "manual", "paper", "presentation", "qa")


def base_config(method: str) -> dict[str, Any]:
    """The parser_config of a chunk method when the client sends none.

    For `naive` RAPTOR and GraphRAG read true, as in RAGFlow; the engine runs neither.
    """
    if method == "naive":
        defaults = ParserConfig().model_dump()
        raptor = Raptor(use_raptor=True).model_dump(exclude={"scope", "auto_disable_for_structured_data"})
        graph = {
            key: value
            for key, value in defaults["graphrag"].items()
            if key not in ("community", "resolution")
        }
        kept = (
            "auto_keywords", "auto_questions", "children_delimiter", "chunk_token_num", "delimiter",
            "html4excel", "layout_recognize", "parent_child",
        )  # fmt: skip
        return {
            **{key: defaults[key] for key in kept},
            **_CONTEXT,
            "topn_tags": 3,
            "raptor": raptor,
            "graphrag": graph | {"use_graphrag": True},
        }
    if method in _WITH_GRAPH:
        return {**_CONTEXT, "raptor": {"use_raptor": False}, "graphrag": {"use_graphrag": False}}
    return dict(_CONTEXT)


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`change` over `base`, object by object."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def find(connection: sqlite3.Connection, id: str) -> sqlite3.Row | None:
    """The dataset's row."""
    row: sqlite3.Row | None = connection.execute("SELECT * FROM dataset WHERE id = ?", (id,)).fetchone()
    return row


def get(connection: sqlite3.Connection, id: str, message: str) -> sqlite3.Row:
    """The dataset's row; raises Failure 102 with `message` (its wording differs by route)."""
    row = find(connection, id)
    if row is None:
        raise Failure(DATA, message)
    return row


def refusal(tenant_id: str, id: str) -> str:
    """What dataset routes say about an unknown id or name."""
    return f"User '{tenant_id}' lacks permission for dataset '{id}'"


def free_name(connection: sqlite3.Connection, name: str) -> str:
    """`name`, or `name(1)`, `name(2)`... if it is taken, case ignored."""
    taken = {row["name"].casefold() for row in connection.execute("SELECT name FROM dataset")}
    candidate, number = name, 0
    while candidate.casefold() in taken:
        number += 1
        candidate = f"{name}({number})"
    return candidate


def describe(connection: sqlite3.Connection, row: sqlite3.Row, tenant_id: str) -> dict[str, Any]:
    """A dataset as every route shows it."""
    (documents,) = connection.execute(
        "SELECT count(*) FROM document WHERE dataset_id = ?", (row["id"],)
    ).fetchone()
    jobs = {f"{job}_task_{part}": None for job in _JOBS for part in ("id", "finish_at")}
    return {
        **jobs,
        "avatar": row["avatar"],
        "chunk_count": row["chunk_count"],
        "chunk_method": row["chunk_method"],
        "create_date": iso(row["create_time"]),
        "create_time": row["create_time"],
        "created_by": tenant_id,
        "description": row["description"],
        "document_count": documents,
        "embedding_model": row["embedding_model"],
        "id": row["id"],
        "language": row["language"],
        "name": row["name"],
        "pagerank": row["pagerank"],
        "parser_config": json.loads(row["parser_config_json"]),
        "permission": row["permission"],
        "pipeline_id": row["pipeline_id"],
        "similarity_threshold": 0.2,
        "status": "1",
        "tenant_embd_id": row["embedding_model_id"],
        "tenant_id": tenant_id,
        "token_num": row["token_count"],
        "update_date": iso(row["update_time"]),
        "update_time": row["update_time"],
        "vector_similarity_weight": 0.3,
    }
