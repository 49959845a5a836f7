"""Finding the chunks for a question in one or more datasets."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfctl.engine.ragflow import dataset_store, model
from rfctl.engine.ragflow.envelope import DATA, Failure
from rfctl.engine.ragflow.state import State
from rfctl.engine.text import index, query, similarity, token

_CACHE = "retrieval"
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Request:
    """What to look for. document_ids None = in all documents; threshold, weight: see `text.similarity`."""

    question: str
    dataset_ids: Sequence[str]
    document_ids: Sequence[str] | None = None
    threshold: float = similarity.DEFAULT_THRESHOLD
    weight: float = similarity.DEFAULT_WEIGHT
    top_k: int = 1024


@dataclass(frozen=True)
class Found:
    """hits: by falling similarity; doc_aggs: RAGFlow's count of hits per document, most first."""

    hits: tuple[index.Hit, ...]
    doc_aggs: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Row:
    """A hit with its chunk (columns of `chunk` and `name`, the document's)."""

    hit: index.Hit
    chunk: sqlite3.Row

    def positions(self) -> list[list[int]]:
        """[[page, x0, x1, top, bottom], ...]"""
        value = json.loads(self.chunk["positions_json"])
        assert isinstance(value, list)
        return value


async def find(state: State, request: Request) -> Found:
    """All hits above the threshold. Raises model.EmbeddingError, LookupError, Failure 102."""
    datasets = await state.database.read(lambda connection: datasets_of(connection, request.dataset_ids))
    ids = [row["id"] for row in datasets if row["chunk_count"]]
    if not ids or not request.question.strip() or request.document_ids == []:
        return Found((), ())
    analysed = query.analyse(request.question)
    target = await embedding_target(state, datasets)
    vector = (await model.embed(state, target, [request.question]))[0]
    cache = state.cache.setdefault(_CACHE, index.MatrixCache())

    def run(connection: sqlite3.Connection) -> Found:
        hits = index.search(
            connection,
            cache,
            analysed,
            vector,
            ids,
            document_ids=request.document_ids,
            threshold=request.threshold,
            weight=request.weight,
            top_k=request.top_k,
        )
        return Found(tuple(hits), tuple(_count(connection, hits)))

    return await state.database.read(run)


async def load(state: State, hits: Sequence[index.Hit]) -> list[Row]:
    """The chunks of some hits, in their order; those deleted meanwhile are left out."""

    def run(connection: sqlite3.Connection) -> list[Row]:
        rows = []
        for hit in hits:
            row = connection.execute(
                "SELECT c.*, d.name FROM chunk c JOIN document d ON d.id = c.document_id WHERE c.seq = ?",
                (hit.seq,),
            ).fetchone()
            if row is not None:
                rows.append(Row(hit, row))
        return rows

    return await state.database.read(run)


async def load_vectors(state: State, rows: Sequence[Row]) -> NDArray[np.float32]:
    """The stored vectors of some chunks, float32 (len(rows), dimension), zeros where one is gone."""
    seqs = [row.hit.seq for row in rows]

    def run(connection: sqlite3.Connection) -> list[NDArray[np.float32]]:
        found = []
        for seq in seqs:
            row = connection.execute("SELECT data FROM vector WHERE chunk_seq = ?", (seq,)).fetchone()
            found.append(np.frombuffer(row["data"] if row else b"", dtype="<f4"))
        return found

    vectors = await state.database.read(run)
    size = max((vector.size for vector in vectors), default=0)
    return np.array(
        [vector if vector.size == size else np.zeros(size) for vector in vectors], dtype=np.float32
    )


def datasets_of(connection: sqlite3.Connection, ids: Sequence[str], end: str = ".") -> list[sqlite3.Row]:
    """Rows of distinct datasets with one embedding model. Raises Failure 102 with RAGFlow's texts."""
    rows = [
        dataset_store.get(connection, id, f"You don't own the dataset {id}{end}") for id in dict.fromkeys(ids)
    ]
    models = list(dict.fromkeys(row["embedding_model"] for row in rows))
    if len(models) > 1:
        raise Failure(DATA, f"Datasets use different embedding models: {models}")
    return rows


async def embedding_target(state: State, datasets: Sequence[sqlite3.Row]) -> model.Target:
    """The embedding model of datasets that share one. Raises LookupError."""
    name = datasets[0]["embedding_model"] if datasets else ""
    if name:
        return await model.resolve(state, name, "embedding", loose=True)
    target = await model.default(state, "embedding")
    if target is None:
        raise LookupError("No default embedding model is set.")
    return target


def highlight(content: str, analysed: query.Query) -> str:
    """The sentences of a text that hold a word of the query, its words in <em>; "" if none does."""
    parts = []
    for sentence in _SENTENCE.split(" ".join(content.split("\n"))):
        marked = _WORD.sub(lambda match: _mark(match.group(), analysed), sentence)
        if marked != sentence:
            parts.append(marked.strip(" .。"))
    return "... ".join(parts)


def _mark(word: str, analysed: query.Query) -> str:
    if token.is_han(word):
        pieces = token.coarse(word).split()
        if "".join(pieces) == word:
            return "".join(f"<em>{piece}</em>" if piece in analysed.terms else piece for piece in pieces)
    return f"<em>{word}</em>" if analysed.terms.intersection(token.coarse(word).split()) else word


def _count(connection: sqlite3.Connection, hits: Sequence[index.Hit]) -> list[dict[str, Any]]:
    names: dict[str, str] = {}
    counter = Counter[str]()
    for hit in hits:
        row = connection.execute(
            "SELECT d.id, d.name FROM chunk c JOIN document d ON d.id = c.document_id WHERE c.seq = ?",
            (hit.seq,),
        ).fetchone()
        names[row["id"]] = row["name"]
        counter[row["id"]] += 1
    return [{"doc_name": names[id], "doc_id": id, "count": count} for id, count in counter.most_common()]
