"""Retrieval of the engine over N chunks of random vectors and real words: time per question, memory, recall.

    python benchmarks/search.py PDF [PDF ...] [--chunks 100000] [--dimension 384] [--questions 100]

The words come from the given PDFs, shuffled, so that word frequencies are those of real text. Prints one
JSON object; times in milliseconds, `cpu` of this process, `wall` as a user waits.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np

from rfctl.engine.ragflow import chunk_store
from rfctl.engine.ragflow.database import Database
from rfctl.engine.text import chunk, extract, index, query, token


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pdf", type=Path, nargs="+")
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--questions", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rfctl-bench-") as folder:
        print(json.dumps(measure(options, Path(folder)), indent=2))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    chance, generator = random.Random(1), np.random.default_rng(1)
    pieces = [
        piece.content.split()
        for pdf in options.pdf
        for piece in chunk.split(extract.extract(pdf, "pdf"), 128)
    ]
    Database(folder / "bench.sqlite").close()
    connection = sqlite3.connect(folder / "bench.sqlite", isolation_level=None)
    connection.row_factory = sqlite3.Row
    begin = time.process_time()
    fill(connection, options, pieces, chance, generator)
    inserted = time.process_time() - begin
    cache = index.MatrixCache()
    asked = [
        query.analyse(" ".join(chance.choices([word for piece in pieces for word in piece], k=7)))
        for _ in range(options.questions)
    ]
    vectors = generator.standard_normal((options.questions, options.dimension)).astype(np.float32)
    begin = time.perf_counter()
    index.search(connection, cache, asked[0], vectors[0], ["d"])
    first = time.perf_counter() - begin
    walls, cpus, right = [], [], 0
    for one, vector in zip(asked, vectors, strict=True):
        wall, cpu = time.perf_counter(), time.process_time()
        index.search(connection, cache, one, vector, ["d"])
        walls.append((time.perf_counter() - wall) * 1000)
        cpus.append((time.process_time() - cpu) * 1000)
        right += is_exact(connection, cache, vector)
    size = (folder / "bench.sqlite").stat().st_size
    connection.close()
    return {
        "chunks": options.chunks,
        "dimension": options.dimension,
        "insert_per_cpu_second": round(options.chunks / inserted),
        "disk_mb": round(size / 1e6),
        "first_query_ms": round(first * 1000),
        "wall_ms": spread(walls),
        "cpu_ms": spread(cpus),
        "recall_at_10": right / options.questions,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def fill(
    connection: sqlite3.Connection,
    options: argparse.Namespace,
    pieces: list[list[str]],
    chance: random.Random,
    generator: np.random.Generator,
) -> None:
    prepare(connection)
    for start in range(0, options.chunks, 1000):
        rows = []
        for number in range(start, min(start + 1000, options.chunks)):
            words = list(chance.choice(pieces))
            chance.shuffle(words)
            text = " ".join([*words, str(number)])
            rows.append(chunk_store.NewChunk(text, token.index_text(text, title="x.pdf"), len(words)))
        connection.execute("BEGIN")
        shape = (len(rows), options.dimension)
        chunk_store.insert(connection, "x", "d", rows, generator.standard_normal(shape).astype(np.float32))
        connection.execute("COMMIT")


def prepare(connection: sqlite3.Connection) -> None:
    """A dataset and a document to put the chunks into."""
    connection.execute(
        "INSERT INTO dataset (id, name, parser_config_json, create_time, update_time)"
        " VALUES ('d', 'd', '{}', 0, 0)"
    )
    connection.execute(
        "INSERT INTO document (id, dataset_id, name, location, size, type, suffix, content_hash, chunk_method,"
        " parser_config_json, create_time, update_time)"
        " VALUES ('x', 'd', 'x.pdf', '', 1, 'pdf', 'pdf', '', 'naive', '{}', 0, 0)"
    )


def is_exact(connection: sqlite3.Connection, cache: index.MatrixCache, vector: np.ndarray) -> bool:
    """The ten nearest by vectors alone, against every row of the table."""
    found = index.search(connection, cache, query.analyse("?"), vector, ["d"], threshold=0, weight=1.0)
    matrix = cache.get(connection, "d", vector.size)
    order = np.argsort(-(matrix.rows @ (vector / np.linalg.norm(vector))))[:10]
    return [hit.seq for hit in found[:10]] == [int(seq) for seq in matrix.seqs[order]]


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {name: round(ordered[int(len(ordered) * part)], 1) for name, part in (("p50", 0.5), ("p95", 0.95))}


if __name__ == "__main__":
    main()
