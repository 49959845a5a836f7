"""Hybrid search: full-text candidates from SQLite, exact vector candidates from memory, RAGFlow's ranking.

Works on the tables `chunk`, `chunk_text`, `vector`, `document` and `dataset` of `engine/ragflow/schema.sql`.
As in RAGFlow the words are a condition: a chunk that shares none with the question is not found, however
near its vector is; only a question without any word is answered by the vectors alone. A row's vector never
changes: a chunk with new content gets a new `seq`.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfctl.engine.text import similarity, token
from rfctl.engine.text.query import Query

# Of each kind; RAGFlow itself ranks 64 in all.
CANDIDATES = 256
CACHE_BYTES = 2 << 30
# Datasets share one full-text table: this many more matches are looked at before the slower joined query.
_SPARE = 4
_BATCH = 500
# Ranking a match costs about a microsecond; words that would bring in more rows than this only rank.
_ROWS = 8000
_WORDS_KEPT = 10_000
_SELECT = (
    "SELECT c.seq, c.document_id, c.tokens, c.important_keywords_json, c.questions_json, d.name"
    " FROM chunk c JOIN document d ON d.id = c.document_id WHERE c.seq IN "
)
_MATCH_IN = (
    "SELECT t.rowid FROM chunk_text t JOIN chunk c ON c.seq = t.rowid JOIN document d ON d.id = c.document_id"
    " WHERE chunk_text MATCH ? AND c.dataset_id = ? AND c.available = 1 AND d.enabled = 1"
)
_OF_DOCUMENTS = "SELECT c.seq FROM document d JOIN chunk c ON c.document_id = d.id WHERE d.dataset_id = ?"


@dataclass(frozen=True)
class Hit:
    """A found chunk: `chunk.seq` and the three similarities."""

    seq: int
    similarity: float
    vector_similarity: float
    term_similarity: float


@dataclass(frozen=True)
class Matrix:
    """The vectors of a dataset: seqs int64 (n,) ascending, rows float32 (n, dimension) of length 1."""

    revision: int
    seqs: NDArray[np.int64]
    rows: NDArray[np.float32]

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.seqs.nbytes + self.rows.nbytes


class MatrixCache:
    """Matrices of the datasets that were searched last, brought up to date by the dataset's revision."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._held: OrderedDict[tuple[str, int], Matrix] = OrderedDict()
        self._lock = threading.Lock()
        # How many rows hold a word, as of the last change that was seen: only an estimate is needed.
        self.frequencies: dict[str, int] = {}

    def get(self, connection: sqlite3.Connection, dataset_id: str, dimension: int) -> Matrix:
        """The matrix of a dataset's vectors with that dimension, as the connection sees them."""
        row = connection.execute("SELECT revision FROM dataset WHERE id = ?", (dataset_id,)).fetchone()
        revision = -1 if row is None else int(row[0])
        key = (dataset_id, dimension)
        with self._lock:
            old = self._held.get(key)
            if old is None or old.revision != revision:
                old = _load(connection, dataset_id, dimension, revision, old)
                self.frequencies.clear()
                self._held[key] = old
            self._held.move_to_end(key)
            while len(self._held) > 1 and sum(matrix.size for matrix in self._held.values()) > self._limit:
                self._held.popitem(last=False)
            return old


def search(
    connection: sqlite3.Connection,
    cache: MatrixCache,
    query: Query,
    vector: NDArray[np.float32],
    dataset_ids: Sequence[str],
    *,
    document_ids: Sequence[str] | None = None,
    threshold: float = similarity.DEFAULT_THRESHOLD,
    weight: float = similarity.DEFAULT_WEIGHT,
    top_k: int = 1024,
) -> list[Hit]:
    """Chunks by falling similarity, those below `threshold` left out (none if weight <= 0).

    vector: float32 (dimension,) of the question. document_ids: only chunks of these; None = all. Hidden
    chunks and disabled documents are left out. top_k bounds the vector candidates.
    """
    vector = np.asarray(vector, dtype=np.float32).ravel()
    length = float(np.linalg.norm(vector))
    unit = (vector / length if length else vector).astype(np.float32)
    cosines: dict[int, float] = {}
    near: list[int] = []
    lexical: list[int] = []
    expression = _narrow(connection, cache, query)
    matched = _match(connection, expression) if expression else []
    for dataset_id in dataset_ids:
        matrix = cache.get(connection, dataset_id, vector.size)
        scores = matrix.rows @ unit
        barred = _barred(connection, dataset_id, matrix.seqs, document_ids)
        near += _largest(matrix.seqs, np.where(barred, -np.inf, scores), min(top_k, CANDIDATES))
        ours = _among(matched, matrix.seqs[~barred])
        if len(matched) == CANDIDATES * _SPARE and len(ours) < CANDIDATES:
            ours = _among(_match_in(connection, expression, dataset_id, document_ids), matrix.seqs)
        lexical += ours[:CANDIDATES]
        wanted = np.array([*near, *lexical], dtype=np.int64)
        at = np.searchsorted(matrix.seqs, wanted)
        for seq, index in zip(wanted.tolist(), at.tolist(), strict=True):
            if index < len(matrix.seqs) and matrix.seqs[index] == seq and not barred[index]:
                cosines[seq] = float(scores[index])
    candidates = [seq for seq in dict.fromkeys([*lexical, *near]) if seq in cosines]
    terms = _compare(connection, query, candidates, set(lexical), query.least)
    if not terms and query.least > 1:
        terms = _compare(connection, query, candidates, set(lexical), 1)
    return _rank(terms, cosines, threshold, weight)


def _rank(terms: dict[int, float], cosines: dict[int, float], threshold: float, weight: float) -> list[Hit]:
    seqs = list(terms)
    vectors = similarity.compare_vectors(np.array([cosines.get(seq, -1.0) for seq in seqs], dtype=np.float32))
    hits = [
        Hit(seq, (1 - weight) * terms[seq] + weight * float(near), float(near), terms[seq])
        for seq, near in zip(seqs, vectors, strict=True)
    ]
    least = threshold if weight > 0 else 0.0
    return sorted((hit for hit in hits if hit.similarity >= least), key=lambda hit: -hit.similarity)


def _load(
    connection: sqlite3.Connection, dataset_id: str, dimension: int, revision: int, old: Matrix | None
) -> Matrix:
    """The matrix from the database; rows that `old` has are not read again."""
    listed = connection.execute(
        "SELECT chunk_seq, dimension FROM vector WHERE dataset_id = ? ORDER BY chunk_seq", (dataset_id,)
    ).fetchall()
    now = np.array([row[0] for row in listed], dtype=np.int64)
    seqs, rows = (
        (old.seqs, old.rows) if old else (np.zeros(0, np.int64), np.zeros((0, dimension), np.float32))
    )
    kept = np.isin(seqs, now, assume_unique=True)
    if not kept.all():
        seqs, rows = seqs[kept], rows[kept]
    last = int(seqs[-1]) if len(seqs) else -1
    fresh = np.array([row[0] for row in listed if row[0] > last and row[1] == dimension], dtype=np.int64)
    if not len(fresh):
        return Matrix(revision, seqs, rows)
    # Filled row by row: a list of all of them would hold everything twice.
    grown = np.empty((len(seqs) + len(fresh), dimension), dtype=np.float32)
    grown[: len(seqs)] = rows
    found = connection.execute(
        "SELECT data FROM vector WHERE dataset_id = ? AND dimension = ? AND chunk_seq > ? ORDER BY chunk_seq",
        (dataset_id, dimension, last),
    )
    for place, (data,) in enumerate(found, len(seqs)):
        grown[place] = np.frombuffer(data, dtype="<f4")
    added = grown[len(seqs) :]
    lengths = np.sqrt(np.einsum("ij,ij->i", added, added))[:, None]
    added /= np.where(lengths == 0, 1, lengths)
    return Matrix(revision, np.concatenate([seqs, fresh]), grown)


def _largest(seqs: NDArray[np.int64], scores: NDArray[np.floating[Any]], count: int) -> list[int]:
    if count < len(scores):
        return [int(seq) for seq in seqs[np.argpartition(scores, -count)[-count:]]]
    return [int(seq) for seq in seqs]


def _narrow(connection: sqlite3.Connection, cache: MatrixCache, query: Query) -> str:
    """The query's expression with its rarest words only, so many that they match about `_ROWS` rows."""
    connection.execute(
        "CREATE VIRTUAL TABLE IF NOT EXISTS temp.chunk_vocab USING fts5vocab(main, chunk_text, row)"
    )
    counts: dict[str, int] = {}
    for term in query.terms:
        if term not in cache.frequencies:
            row = connection.execute("SELECT doc FROM temp.chunk_vocab WHERE term = ?", (term,)).fetchone()
            # The full-text table folds accents away, so a word with one is not listed under its own name.
            cache.frequencies[term] = 0 if row is None else int(row[0])
        counts[term] = cache.frequencies.get(term, 0)
    if len(cache.frequencies) > _WORDS_KEPT:
        cache.frequencies.clear()
    kept, total = list[str](), 0
    for count, term in sorted((count, term) for term, count in counts.items()):
        if total and total + count > _ROWS:
            break
        kept.append(term)
        total += count
    return " OR ".join(f'"{term}"' for term in kept)


def _match(connection: sqlite3.Connection, expression: str) -> list[int]:
    rows = connection.execute(
        "SELECT rowid FROM chunk_text WHERE chunk_text MATCH ? ORDER BY rank LIMIT ?",
        (expression, CANDIDATES * _SPARE),
    )
    return [row[0] for row in rows]


def _match_in(
    connection: sqlite3.Connection, expression: str, dataset_id: str, document_ids: Sequence[str] | None
) -> list[int]:
    condition, values = _documents(document_ids)
    statement = _MATCH_IN + condition + " ORDER BY t.rank LIMIT ?"
    rows = connection.execute(statement, (expression, dataset_id, *values, CANDIDATES))
    return [row[0] for row in rows]


def _documents(ids: Sequence[str] | None) -> tuple[str, Sequence[str]]:
    return ("", ()) if ids is None else (f" AND d.id IN ({','.join('?' * len(ids))})", ids)


def _barred(
    connection: sqlite3.Connection,
    dataset_id: str,
    seqs: NDArray[np.int64],
    document_ids: Sequence[str] | None,
) -> NDArray[np.bool_]:
    """Which of the rows may not be found: hidden, of a disabled document, outside the asked documents."""
    barred = np.zeros(len(seqs), dtype=np.bool_)
    hidden = connection.execute("SELECT seq FROM chunk WHERE dataset_id = ? AND available = 0", (dataset_id,))
    rows = [row[0] for row in hidden]
    disabled = connection.execute(
        "SELECT c.seq FROM document d JOIN chunk c ON c.document_id = d.id"
        " WHERE d.dataset_id = ? AND d.enabled = 0",
        (dataset_id,),
    )
    rows += [row[0] for row in disabled]
    if rows:
        barred |= np.isin(seqs, np.array(rows, dtype=np.int64))
    if document_ids is not None:
        condition, values = _documents(document_ids)
        asked = connection.execute(_OF_DOCUMENTS + condition, (dataset_id, *values))
        barred |= ~np.isin(seqs, np.array([row[0] for row in asked], dtype=np.int64))
    return barred


def _among(found: Sequence[int], seqs: NDArray[np.int64]) -> list[int]:
    if not found or not len(seqs):
        return []
    numbers = np.array(found, dtype=np.int64)
    at = np.minimum(np.searchsorted(seqs, numbers), len(seqs) - 1)
    return [int(seq) for seq in numbers[seqs[at] == numbers]]


def _compare(
    connection: sqlite3.Connection,
    query: Query,
    candidates: Sequence[int],
    lexical: set[int],
    least: int,
) -> dict[int, float]:
    """Term similarity by seq of the candidates that hold enough keywords."""
    titles: dict[str, str] = {}
    result: dict[int, float] = {}
    for start in range(0, len(candidates), _BATCH):
        batch = candidates[start : start + _BATCH]
        rows = connection.execute(_SELECT + f"({','.join('?' * len(batch))})", batch)
        for seq, document_id, tokens, keywords, questions, name in rows:
            if query.terms and (least > 1 or seq not in lexical):
                present = query.terms.intersection(tokens.split())
                if not present or len(present) < least:
                    continue
            if document_id not in titles:
                titles[document_id] = token.coarse(token.title_text(name))
            words = similarity.chunk_words(
                token.content_words(tokens),
                titles[document_id],
                () if keywords == "[]" else map(token.coarse, json.loads(keywords)),
                () if questions == "[]" else map(token.coarse, json.loads(questions)),
            )
            result[seq] = similarity.compare_terms(query.units, words)
    order = {seq: place for place, seq in enumerate(candidates)}
    return dict(sorted(result.items(), key=lambda item: order[item[0]]))
