"""The parse queue: rows of the table `task`, worked off one by one in the order of their start.

A task row lives from the start of a run to the transaction that ends it, so after a crash the rows that are
left are what must be done again. Each start and each stop raises the document's generation; a worker writes
only while the generation is the one it began with.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterable

import httpx

from rfctl.engine.ragflow import chunk_store, document_file, document_store, ingest
from rfctl.engine.ragflow.stamp import now
from rfctl.engine.ragflow.state import State

MAX_ATTEMPTS = 3
# How long a resumed task waits for the engine's own Ollama API to come up, and for a full disk to be freed.
SELF_WAIT_SECONDS = 30.0
RETRY_SECONDS = 5.0
_CURRENT = "queue.current"

_log = logging.getLogger(__name__)


def start(connection: sqlite3.Connection, id: str) -> None:
    """Queue a document: its old chunks go, it is RUNNING from now on. Call `wake` after the commit."""
    chunk_store.delete_of_document(connection, id)
    connection.execute(
        "UPDATE document SET run = 'RUNNING', generation = generation + 1, progress = ?, progress_msg = ?,"
        " process_begin_at = ?, process_duration = 0 WHERE id = ?",
        (round(random.uniform(0, 0.01), 8), document_store.QUEUED, now(), id),  # noqa: S311 - as RAGFlow does
    )
    connection.execute("DELETE FROM task WHERE document_id = ?", (id,))
    connection.execute(
        "INSERT INTO task (document_id, generation, create_time)"
        " SELECT id, generation, ? FROM document WHERE id = ?",
        (now(), id),
    )


def stop(connection: sqlite3.Connection, id: str) -> None:
    """Take a document out of the queue: CANCEL, without chunks. Call `interrupt` after the commit."""
    chunk_store.delete_of_document(connection, id)
    connection.execute(
        "UPDATE document SET run = 'CANCEL', generation = generation + 1, progress = 0, progress_msg ="
        " CASE progress_msg WHEN ? THEN progress_msg ELSE progress_msg || ? END WHERE id = ?",
        (document_store.QUEUED, ingest.line("Task stopped by user."), id),
    )
    connection.execute("DELETE FROM task WHERE document_id = ?", (id,))


def wake(state: State) -> None:
    """Tell the worker that there is something to do."""
    state.wake.set()


def interrupt(state: State, ids: Iterable[str]) -> None:
    """Stop the work on these documents as soon as possible; their rows say already that it is over."""
    current = state.cache.get(_CURRENT)
    if current is not None and current[0] in set(ids):
        current[1].set()


@contextlib.asynccontextmanager
async def running(state: State) -> AsyncIterator[None]:
    """Resume what a former process left, and run the worker while the block lasts."""
    await document_file.sweep(state)
    await state.database.write(_requeue)
    state.wake.set()
    worker = asyncio.create_task(_work(state))
    try:
        yield
    finally:
        current = state.cache.get(_CURRENT)
        if current is not None:
            current[1].set()
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker


def _requeue(connection: sqlite3.Connection) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO task (document_id, generation, create_time)"
        " SELECT id, generation, ? FROM document WHERE run = 'RUNNING'",
        (now(),),
    )
    for row in connection.execute("SELECT document_id FROM task").fetchall():
        chunk_store.delete_of_document(connection, row["document_id"])
    connection.execute(
        "UPDATE document SET progress = 0, progress_msg = ? WHERE id IN (SELECT document_id FROM task)",
        (document_store.QUEUED,),
    )


async def _work(state: State) -> None:
    waited = False
    while True:
        try:
            row = await state.database.write(_take)
            if row is None:
                # Cleared before the next look, so that a start in between is not lost.
                await state.wake.wait()
                state.wake.clear()
                continue
            if not waited:
                waited = True
                await _wait_for_self(state)
            await _run(state, row)
        except (sqlite3.Error, OSError):
            _log.exception("the parse queue cannot write")
            await asyncio.sleep(RETRY_SECONDS)
        except Exception:  # without the worker every later document would wait for ever
            _log.exception("the parse queue")
            await asyncio.sleep(RETRY_SECONDS)


def _take(connection: sqlite3.Connection) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT d.*, t.attempt FROM task t JOIN document d ON d.id = t.document_id ORDER BY t.seq LIMIT 1"
    ).fetchone()
    if row is not None:
        connection.execute("UPDATE task SET attempt = attempt + 1 WHERE document_id = ?", (row["id"],))
    return row


async def _run(state: State, row: sqlite3.Row) -> None:
    stopped = threading.Event()
    state.cache[_CURRENT] = (row["id"], stopped)
    run = ingest.Run(state, row["id"], row["generation"], stopped)
    try:
        if row["attempt"] >= MAX_ATTEMPTS:
            # Each attempt ended with the end of the process: the document itself may be what ends it.
            await run.fail(f"Parsing was interrupted {row['attempt']} times by the end of the engine")
        else:
            await ingest.ingest(run, row)
    except ingest.Superseded:
        pass
    except (sqlite3.Error, OSError):
        raise
    except Exception as error:  # a fault in one document must not stop the queue; the trace is in the log
        _log.exception("parsing document %s", row["id"])
        with contextlib.suppress(ingest.Superseded):
            await run.fail(f"[Exception]: {error!r}")
    finally:
        state.cache.pop(_CURRENT, None)


async def _wait_for_self(state: State) -> None:
    deadline = time.monotonic() + SELF_WAIT_SECONDS
    while state.self_url and time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            await state.http.get(f"{state.self_url}/api/version", timeout=5.0)
            return
        await asyncio.sleep(0.1)
