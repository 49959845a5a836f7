"""Rows of chunks and their vectors, and the counters that follow from them.

Every function takes a connection inside a transaction (`Database.write`).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from rfctl.engine.ragflow.stamp import now


@dataclass(frozen=True)
class NewChunk:
    """A chunk to be stored.

    tokens       its words for the full-text index, separated by blanks
    token_count  tokens as chunking counts them
    positions    [[page, x0, x1, top, bottom], ...], page 1-based, PDF points from the top left
    """

    content: str
    tokens: str
    token_count: int
    positions: Sequence[Sequence[float]] = ()
    important_keywords: Sequence[str] = ()
    questions: Sequence[str] = ()
    tags: Sequence[str] = ()
    tag_feas: dict[str, Any] = field(default_factory=dict)


def chunk_id(content: str, document_id: str) -> str:
    """16 hex digits: XXH64 of content and document id (RAGFlow v0.27.0 `chunk_api.py`)."""
    return xxhash.xxh64((content + document_id).encode("utf-8", "surrogatepass")).hexdigest()


def insert(
    connection: sqlite3.Connection,
    document_id: str,
    dataset_id: str,
    chunks: Sequence[NewChunk],
    vectors: NDArray[np.float32],
) -> list[str]:
    """Store chunks with their vectors (float32, shape (len(chunks), dimension)); returns their ids.

    The same content in the same document replaces the older row, yet counts again, as RAGFlow does.
    """
    ids = []
    moment, precise = now(), time.time()
    for chunk, vector in zip(chunks, vectors, strict=True):
        id = chunk_id(chunk.content, document_id)
        ids.append(id)
        first = chunk.positions[0] if chunk.positions else (0, 0, 0, 0, 0)
        connection.execute("DELETE FROM chunk WHERE id = ?", (id,))
        cursor = connection.execute(
            "INSERT INTO chunk (id, document_id, dataset_id, content, tokens, token_count, page, top,"
            " positions_json, important_keywords_json, questions_json, tags_json, tag_feas_json, create_time,"
            " create_timestamp) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                id,
                document_id,
                dataset_id,
                chunk.content,
                chunk.tokens,
                chunk.token_count,
                int(first[0]),
                int(first[3]),
                json.dumps([list(position) for position in chunk.positions]),
                json.dumps(list(chunk.important_keywords), ensure_ascii=False),
                json.dumps(list(chunk.questions), ensure_ascii=False),
                json.dumps(list(chunk.tags), ensure_ascii=False),
                json.dumps(chunk.tag_feas, ensure_ascii=False),
                moment,
                precise,
            ),
        )
        data = np.ascontiguousarray(vector, dtype="<f4")
        connection.execute(
            "INSERT INTO vector VALUES (?, ?, ?, ?)",
            (cursor.lastrowid, dataset_id, data.size, data.tobytes()),
        )
    count(connection, document_id, dataset_id, len(ids), sum(chunk.token_count for chunk in chunks))
    return ids


def count(
    connection: sqlite3.Connection, document_id: str, dataset_id: str, chunks: int, tokens: int
) -> None:
    """Add to the counters of document and dataset and tell indexes in memory that the chunks changed."""
    connection.execute(
        "UPDATE document SET chunk_count = max(0, chunk_count + ?), token_count = max(0, token_count + ?)"
        " WHERE id = ?",
        (chunks, tokens, document_id),
    )
    connection.execute(
        "UPDATE dataset SET chunk_count = max(0, chunk_count + ?), token_count = max(0, token_count + ?),"
        " revision = revision + 1 WHERE id = ?",
        (chunks, tokens, dataset_id),
    )


def delete_of_document(connection: sqlite3.Connection, document_id: str) -> None:
    """Drop all chunks of a document and set its counters to zero."""
    row = connection.execute(
        "SELECT dataset_id, chunk_count, token_count FROM document WHERE id = ?", (document_id,)
    ).fetchone()
    if row is None:
        return
    connection.execute("DELETE FROM chunk WHERE document_id = ?", (document_id,))
    count(connection, document_id, row["dataset_id"], -row["chunk_count"], -row["token_count"])
