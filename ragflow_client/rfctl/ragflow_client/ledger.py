"""What `kb sync` has put where: one small database per user, one row per file and dataset.

The ledger is a memory, not the truth: every row is compared with the server's list before it is believed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rfctl.core.error import RfctlError

FILE_NAME = "sync.sqlite3"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS file (
    dataset TEXT NOT NULL, root BLOB NOT NULL, path BLOB NOT NULL,
    document TEXT NOT NULL, hash TEXT NOT NULL, signature TEXT NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, seen_ns INTEGER NOT NULL, made INTEGER NOT NULL, intent TEXT NOT NULL,
    PRIMARY KEY (dataset, root, path)
) WITHOUT ROWID
"""
_COLUMNS = "path, document, hash, signature, size, mtime_ns, seen_ns, made, intent"


@dataclass(frozen=True, slots=True)
class Row:
    """One file of one folder in one dataset.

    path       below the folder, with the platform's separator
    document   id on the server, "" while there is none
    hash       XXH128 of what that document holds; signature: the parser settings it was parsed with
    seen_ns    when the file was read; a change of the file within the clock's grain after it goes unnoticed
    made       whether sync has put the document there (then it may be pruned), or found it with that content
    intent     hash of what is being sent, from before the sending until the end is known; else ""
    """

    path: str
    document: str = ""
    hash: str = ""
    signature: str = ""
    size: int = 0
    mtime_ns: int = 0
    seen_ns: int = 0
    made: bool = False
    intent: str = ""


class Ledger:
    """The rows of one folder in one dataset. A context manager that holds the dataset's lock.

    Raises RfctlError `sync.busy` when another sync of this dataset runs, `sync.ledger-broken`.
    """

    def __init__(self, folder: Path, dataset_id: str, root: Path) -> None:
        self._folder = folder
        self._dataset = dataset_id
        self._root = os.fsencode(root)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / FILE_NAME
        # The lock is a transaction of its own file: the system ends it with the process, however that ends.
        self._lock = sqlite3.connect(self._folder / f"sync-{self._dataset}.lock", timeout=0)
        try:
            self._lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            self._lock.close()
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise RfctlError("sync.ledger-broken", path=path, detail=str(error)) from error
            raise RfctlError("sync.busy") from error
        try:
            self._base = sqlite3.connect(path, timeout=30)
            with _translated(path), self._base:
                self._base.execute("PRAGMA journal_mode=WAL")
                self._base.execute(_SCHEMA)
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()
        self._lock.close()

    def rows(self) -> dict[str, Row]:
        """All rows by path."""
        query = f"SELECT {_COLUMNS} FROM file WHERE dataset = ? AND root = ?"  # noqa: S608
        with _translated(self._folder / FILE_NAME):
            found = self._base.execute(query, (self._dataset, self._root)).fetchall()
        rows = {}
        for path, document, digest, signature, size, mtime_ns, seen_ns, made, intent in found:
            below = os.fsdecode(path)
            rows[below] = Row(below, document, digest, signature, size, mtime_ns, seen_ns, bool(made), intent)
        return rows

    def elsewhere(self) -> set[str]:
        """Ids of the documents of this dataset that the sync of another folder counts on too."""
        query = "SELECT document FROM file WHERE dataset = ? AND root <> ?"
        with _translated(self._folder / FILE_NAME):
            found = self._base.execute(query, (self._dataset, self._root)).fetchall()
        return {id for (id,) in found if id}

    def write(self, rows: Iterable[Row]) -> None:
        """Insert or replace rows, all or none, durably."""
        values = [
            (
                self._dataset,
                self._root,
                os.fsencode(row.path),
                row.document,
                row.hash,
                row.signature,
                row.size,
                row.mtime_ns,
                row.seen_ns,
                int(row.made),
                row.intent,
            )
            for row in rows
        ]
        with _translated(self._folder / FILE_NAME), self._base:
            self._base.executemany("INSERT OR REPLACE INTO file VALUES (?,?,?,?,?,?,?,?,?,?,?)", values)

    def forget(self, paths: Iterable[str]) -> None:
        values = [(self._dataset, self._root, os.fsencode(path)) for path in paths]
        with _translated(self._folder / FILE_NAME), self._base:
            self._base.executemany("DELETE FROM file WHERE dataset = ? AND root = ? AND path = ?", values)


def read_hashes(folder: Path, dataset_id: str) -> dict[str, str]:
    """XXH128 by document id of what syncs have put into a dataset; empty where there was none. Only reads.

    Raises RfctlError `sync.ledger-broken`.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return {}
    # Not "ro": a database in WAL mode needs its side files to be read.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    query = "SELECT document, hash FROM file WHERE dataset = ? AND document <> '' AND hash <> ''"
    with _translated(path), closing(sqlite3.connect(uri, uri=True, timeout=30)) as base:
        return dict(base.execute(query, (dataset_id,)).fetchall())


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise RfctlError("sync.ledger-broken", path=path, detail=str(error)) from error
