"""What indexing a document costs beside embedding it, with a real model and a real PDF.

    python benchmarks/indexing.py MODEL.gguf PDF [--threads 2]

MODEL.gguf is an embedding model (`rfctl model convert DIR`). Embedding: the CPU time of the model's worker
process and of the calls to it. Indexing: the CPU time of this process for the words, the rows, the full-text
index and the vectors on disk, as the engine does it, batch by batch. Both in one run, so that the ratio does
not depend on what else the machine does. Prints one JSON object; Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np
from search import prepare

from rfctl.engine.ollama.backend import Backend
from rfctl.engine.ollama.embed import embed_texts
from rfctl.engine.pool import Pool
from rfctl.engine.process import Spec
from rfctl.engine.ragflow import chunk_store
from rfctl.engine.ragflow.database import Database
from rfctl.engine.ragflow.ingest import STORE_BATCH
from rfctl.engine.ragflow.model import EMBED_BATCH
from rfctl.engine.text import chunk, extract, token

CONTEXT = 512
# Tokens of the chunker for that context, as the engine takes them (`ingest.py`).
CHUNK = int(CONTEXT / 1.5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("pdf", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rfctl-bench-") as folder:
        print(json.dumps(asyncio.run(measure(options, Path(folder))), indent=2))


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    before = children_cpu()
    document = extract.extract(options.pdf, "pdf")
    reading = children_cpu() - before
    begin = time.process_time()
    pieces = list({piece.content: piece for piece in chunk.split(document, CHUNK)}.values())
    cutting = time.process_time() - begin
    Database(folder / "bench.sqlite").close()
    connection = sqlite3.connect(folder / "bench.sqlite", isolation_level=None)
    connection.row_factory = sqlite3.Row
    prepare(connection)
    spec = Spec(str(options.model), "sha256:bench", CONTEXT, CONTEXT, CONTEXT, 0, options.threads, True)
    indexing = calling = 0.0
    async with Pool() as pool, pool.use(spec, "bench") as lease:
        backend = Backend(pool, lease.worker)
        await embed_texts(backend, ["warm"], truncate=True)
        start = process_cpu(lease.worker.process.pid)
        wall = time.perf_counter()
        for at in range(0, len(pieces), STORE_BATCH):
            batch = pieces[at : at + STORE_BATCH]
            begin = time.process_time()
            parts = []
            for offset in range(0, len(batch), EMBED_BATCH):
                texts = [piece.content for piece in batch[offset : offset + EMBED_BATCH]]
                found = await embed_texts(backend, texts, truncate=True)
                assert found is not None
                parts.append(found[0])
            calling += time.process_time() - begin
            begin = time.process_time()
            store(connection, batch, np.concatenate(parts), options.pdf.name)
            indexing += time.process_time() - begin
        wall = time.perf_counter() - wall
        working = process_cpu(lease.worker.process.pid) - start
    connection.close()
    embedding = working + calling
    return {
        "pdf": options.pdf.name,
        "pages": len(document.pages),
        "chunks": len(pieces),
        "characters": sum(len(piece.content) for piece in pieces),
        "wall_seconds": round(wall, 2),
        "cpu_seconds": {
            "read": round(reading, 2),
            "cut": round(cutting, 2),
            "embed": round(embedding, 2),
            "index": round(indexing, 3),
        },
        "chunks_per_cpu_second": round(len(pieces) / embedding, 1),
        "index_percent_of_embed": round(100 * indexing / embedding, 2),
    }


def store(
    connection: sqlite3.Connection, pieces: list[chunk.ChunkText], vectors: np.ndarray, name: str
) -> None:
    """What the engine does with a batch once its vectors are there."""
    rows = [
        chunk_store.NewChunk(
            piece.content, token.index_text(piece.content, title=name), piece.token_count, piece.positions
        )
        for piece in pieces
    ]
    connection.execute("BEGIN")
    chunk_store.insert(connection, "x", "d", rows, vectors.astype(np.float32))
    connection.execute("COMMIT")


def children_cpu() -> float:
    """Seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def process_cpu(pid: int) -> float:
    """Seconds of one process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
