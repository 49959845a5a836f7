"""One run of one document: text, chunks, vectors, rows.

Deviations from RAGFlow v0.27.0: a PDF that cannot be read FAILs with the reason (RAGFlow leaves it RUNNING
for ever); every chunk method works like `naive`; no OCR, layout model, keywords, questions, RAPTOR or
GraphRAG; the same content twice in a document is one chunk; a chunk is never longer than the embedding model
reads (RAGFlow and Ollama cut the rest off silently). A document without text is DONE with no chunk, as in
RAGFlow.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfctl.core.error import RfctlError
from rfctl.engine.ragflow import alphabet, chunk_store, dataset_store, limit, model
from rfctl.engine.ragflow.state import State
from rfctl.engine.text import chunk, extract, token

# Share of the progress when text and chunks are there, and when the vectors are.
PARSED = 0.4
INDEXED = 0.9
# Chunks stored in one transaction (each waits for the disk); the progress moves in between.
STORE_BATCH = 4 * model.EMBED_BATCH
TITLE_WEIGHT = 0.1
# WordPiece makes up to this many tokens of one that `chunk.count_tokens` counts (names, code, numbers).
_TOKENS_PER_COUNTED = 1.5
_REPORT_SECONDS = 0.5
# A progress report that takes longer means that the engine is going down.
_WRITE_SECONDS = 60.0


class Superseded(Exception):
    """The document was stopped, deleted or started anew; nothing more may be written."""


def line(text: str) -> str:
    """A line of progress_msg with the time of day."""
    return f"\n{datetime.now():%H:%M:%S} {text}"


class Run:
    """A run of one document and its log in the database."""

    def __init__(self, state: State, id: str, generation: int, stopped: threading.Event) -> None:
        self.state = state
        self.id = id
        self.generation = generation
        self.stopped = stopped
        self.begin = time.monotonic()
        self.reported = 0.0
        self.scope = ""

    async def log(self, text: str, progress: float, *, first: bool = False) -> None:
        """Append a line and set the progress; `first` drops the queue message. Raises Superseded."""
        added = line(self.scope + text)

        def write(connection: sqlite3.Connection) -> None:
            self.check(connection)
            connection.execute(
                "UPDATE document SET progress = ?, progress_msg = iif(?, '', progress_msg) || ? WHERE id = ?",
                (round(progress, 6), first, added, self.id),
            )

        await self.state.database.write(write)

    async def advance(self, progress: float, *, pause: float = 0.0) -> None:
        """Set the progress without a line, unless that was done in the last `pause` seconds.

        Raises Superseded.
        """
        if self.stopped.is_set():
            raise Superseded
        if time.monotonic() - self.reported < pause:
            return
        self.reported = time.monotonic()

        def write(connection: sqlite3.Connection) -> None:
            self.check(connection)
            connection.execute("UPDATE document SET progress = ? WHERE id = ?", (round(progress, 6), self.id))

        await self.state.database.write(write)

    async def store(
        self, dataset_id: str, chunks: Sequence[chunk_store.NewChunk], vectors: NDArray[np.float32], at: float
    ) -> None:
        """Store chunks and the progress they mean in one transaction. Raises Superseded."""

        def write(connection: sqlite3.Connection) -> None:
            self.check(connection)
            chunk_store.insert(connection, self.id, dataset_id, chunks, vectors)
            connection.execute("UPDATE document SET progress = ? WHERE id = ?", (round(at, 6), self.id))

        await self.state.database.write(write)

    async def finish(self) -> None:
        """DONE. Raises Superseded."""
        await self._end("DONE", 1.0, line(f"{self.scope}Task done ({self.seconds():.2f}s)"))

    async def fail(self, reason: str) -> None:
        """FAIL with `[ERROR]` and the reason; the chunks stored so far go. Raises Superseded."""
        await self._end("FAIL", -1.0, line(f"{self.scope}[ERROR]{reason}"))

    def seconds(self) -> float:
        """Since the begin of the run."""
        return time.monotonic() - self.begin

    def check(self, connection: sqlite3.Connection) -> None:
        """Raise Superseded unless this run is still the document's."""
        row = connection.execute(
            "SELECT 1 FROM document WHERE id = ? AND generation = ? AND run = 'RUNNING'",
            (self.id, self.generation),
        ).fetchone()
        if row is None or self.stopped.is_set():
            raise Superseded

    async def _end(self, run: str, progress: float, text: str) -> None:
        def write(connection: sqlite3.Connection) -> None:
            self.check(connection)
            if run == "FAIL":
                chunk_store.delete_of_document(connection, self.id)
            connection.execute(
                "UPDATE document SET run = ?, progress = ?, progress_msg = progress_msg || ?,"
                " process_duration = ? WHERE id = ?",
                (run, progress, text, round(self.seconds(), 3), self.id),
            )
            connection.execute("DELETE FROM task WHERE document_id = ?", (self.id,))

        await self.state.database.write(write)


async def ingest(run: Run, document: sqlite3.Row) -> None:
    """Parse `document` to the end, DONE or FAIL. Raises Superseded, sqlite3.Error, OSError."""
    config = json.loads(document["parser_config_json"])
    await run.log("Task has been received.", 0.02, first=True)
    try:
        target = await _bind(run, document)
        chunks = await _cut(run, document, config, target)
        if not chunks:
            await run.log(f"No chunk built from {document['name']}", INDEXED)
        else:
            await _index(run, document, config, target, chunks)
        await run.finish()
    except RfctlError as error:
        error.params["name"] = document["name"]
        text = error.text()
        why = f" ({text.why})" if text.why else ""
        await run.fail(f"[{error.id}]: {text.message}{why}")
    except (model.EmbeddingError, LookupError) as error:
        await run.fail(f"Fail to bind embedding model: {error}")


async def _bind(run: Run, document: sqlite3.Row) -> model.Target:
    dataset = await run.state.database.read(
        lambda connection: dataset_store.find(connection, document["dataset_id"])
    )
    if dataset is None:
        raise Superseded
    if dataset["embedding_model"]:
        return await model.resolve(run.state, dataset["embedding_model"], "embedding", loose=True)
    target = await model.default(run.state, "embedding")
    if target is None:
        raise LookupError("the dataset has no embedding model and the account has no default")
    return target


async def _cut(
    run: Run, document: sqlite3.Row, config: dict[str, Any], target: model.Target
) -> list[chunk.ChunkText]:
    loop = asyncio.get_running_loop()

    def on_page(done: int, total: int) -> None:
        # On the extraction's thread; what it raises ends the extraction.
        if run.stopped.is_set():
            raise Superseded
        if not run.scope:
            run.scope = f"Page(1~{total}): "
            asyncio.run_coroutine_threadsafe(run.log("Start to parse.", 0.05), loop).result(_WRITE_SECONDS)
        at = 0.05 + (PARSED - 0.05) * done / max(total, 1)
        report = run.advance(at, pause=_REPORT_SECONDS)
        asyncio.run_coroutine_threadsafe(report, loop).result(_WRITE_SECONDS)

    suffix = document["suffix"].lower()
    kind = suffix if suffix == "pdf" or suffix in extract.TEXT_KINDS else "txt"
    pages = [(pair[0], pair[1]) for pair in config.get("pages") or () if len(pair) == 2]
    if kind != "pdf":
        run.scope = "Page(1~100000000): "
        await run.log("Start to parse.", 0.05)
    path = run.state.document_dir / document["id"]
    extraction = await asyncio.to_thread(
        extract.extract, path, kind, on_page=on_page, pages=pages if kind == "pdf" and pages else None
    )
    if not run.scope:
        run.scope = f"Page(1~{len(extraction.pages)}): "
        await run.log("Start to parse.", 0.05)
    readable = int((await limit.find(run.state, target)).context / _TOKENS_PER_COUNTED)
    size = min(int(config.get("chunk_token_num") or chunk.DEFAULT_TOKENS), readable)
    cut = await asyncio.to_thread(chunk.split, extraction, size, config.get("delimiter") or "\n")
    await run.log("Finish parsing.", PARSED)
    chunks = list({piece.content: piece for piece in reversed(cut)}.values())[::-1]
    if chunks:
        await run.log(f"Generate {len(chunks)} chunks", PARSED)
    return chunks


async def _index(
    run: Run,
    document: sqlite3.Row,
    config: dict[str, Any],
    target: model.Target,
    chunks: Sequence[chunk.ChunkText],
) -> None:
    begin = time.monotonic()
    weight = float(config.get("filename_embd_weight") or TITLE_WEIGHT)
    title = (await model.embed(run.state, target, [document["name"]]))[0]
    await _check_dimension(run, document, title.size)
    unknown = await alphabet.unknown_share(run.state, target, (piece.content for piece in chunks))
    if unknown > alphabet.TOO_MANY:
        # The command line knows this line by its id (`ragflow_client.parse.unknown_letters`).
        text = f"[WARNING][upload.letters-unknown]: {unknown:.0%} of the letters are unknown to {target.name}"
        await run.log(text, PARSED)
    embedding = indexing = 0.0
    for start in range(0, len(chunks), STORE_BATCH):
        batch = chunks[start : start + STORE_BATCH]
        begin = time.monotonic()
        parts = []
        for offset in range(0, len(batch), model.EMBED_BATCH):
            texts = [piece.content for piece in batch[offset : offset + model.EMBED_BATCH]]
            parts.append(await model.embed(run.state, target, texts))
            at = PARSED + (INDEXED - PARSED) * (start + offset) / len(chunks)
            await run.advance(at, pause=_REPORT_SECONDS)
        vectors = np.concatenate(parts)
        if vectors.shape[1] != title.size:
            raise model.EmbeddingError(
                f"vectors of {vectors.shape[1]} and {title.size} numbers from one model"
            )
        embedding += time.monotonic() - begin
        begin = time.monotonic()
        rows = await asyncio.to_thread(_rows, batch, document["name"])
        at = PARSED + (INDEXED - PARSED) * (start + len(batch)) / len(chunks)
        mixed = np.asarray(weight * title + (1 - weight) * vectors, dtype=np.float32)
        await run.store(document["dataset_id"], rows, mixed, at)
        indexing += time.monotonic() - begin
    await run.log(f"Embedding chunks ({embedding:.2f}s)", INDEXED)
    await run.log(f"Indexing done ({indexing:.2f}s).", INDEXED)


def _rows(pieces: Sequence[chunk.ChunkText], name: str) -> list[chunk_store.NewChunk]:
    return [
        chunk_store.NewChunk(
            content=piece.content,
            tokens=token.index_text(piece.content, title=name),
            token_count=piece.token_count,
            positions=piece.positions,
        )
        for piece in pieces
    ]


async def _check_dimension(run: Run, document: sqlite3.Row, size: int) -> None:
    row = await run.state.database.read(
        lambda connection: connection.execute(
            "SELECT dimension FROM vector WHERE dataset_id = ? AND dimension != ? LIMIT 1",
            (document["dataset_id"], size),
        ).fetchone()
    )
    if row is not None:
        raise model.EmbeddingError(
            f"the model gives {size} numbers for each text, the dataset's other chunks have"
            f" {row['dimension']}; parse those documents anew with this model"
        )
