"""The SQLite file of the embedded RAG server: one writer, several readers.

Writes go through one thread in the order in which they were asked for, each in its own transaction that is
synced to the disk before the call returns (WAL with synchronous=FULL): what a client was told is kept, even
if the process is killed a moment later. Reads run on other threads and see the last committed state.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rfctl.core.error import RfctlError

SCHEMA_VERSION = 1
READERS = 2
BUSY_TIMEOUT_SECONDS = 30.0
_SCHEMA = Path(__file__).with_name("schema.sql")


class DatabaseError(RfctlError):
    """The file cannot be used; ids `database.newer`, `database.unreadable`."""


class Database:
    """Open (or make) the database file at `path`.

    Raises DatabaseError for a file of a newer release and for one that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._writer = ThreadPoolExecutor(1, "ragflow-write")
        self._readers = ThreadPoolExecutor(READERS, "ragflow-read")
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        try:
            self._writer.submit(self._prepare).result()
        except sqlite3.Error as error:
            self.close()
            raise DatabaseError("database.unreadable", path=path, reason=error) from error
        except BaseException:
            self.close()
            raise

    async def write[T](self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work(connection)` inside one transaction; it is durable when this returns."""
        return await asyncio.wrap_future(self._writer.submit(self._transact, work))

    async def read[T](self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work(connection)` on a reader thread; rows are sqlite3.Row."""
        return await asyncio.wrap_future(self._readers.submit(self._query, work))

    def close(self) -> None:
        """Wait for what was begun and close the file. The Database is unusable afterwards."""
        self._writer.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            # Used by one thread at a time; closed by the thread that calls close().
            connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
            )
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            self._local.connection = connection
            with self._lock:
                self._connections.append(connection)
        return connection

    def _prepare(self) -> None:
        connection = self._connection()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise DatabaseError("database.newer", path=self.path, found=version, known=SCHEMA_VERSION)
        if version == 0:
            script = _SCHEMA.read_text(encoding="utf-8")
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version={SCHEMA_VERSION};\nCOMMIT;"
            )

    def _transact[T](self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return result

    def _query[T](self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection()
        connection.execute("BEGIN")
        try:
            return work(connection)
        finally:
            connection.execute("ROLLBACK")
