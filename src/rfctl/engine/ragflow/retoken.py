"""Keep the words of all chunks in step with the tokeniser.

The full-text index finds a chunk only by words that were made the same way as the question's. When the
tokeniser changes (another release, or rjieba came or went), every chunk's words are made anew, once, in
batches: a kill in between only means that the next start goes over all of them again.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from functools import partial

from rfctl.engine.ragflow.database import Database
from rfctl.engine.text import token

BATCH = 500
_KEY = "tokenizer"
_log = logging.getLogger(__name__)


async def ensure(database: Database) -> int:
    """Make the words anew if another tokeniser made them; returns the number of chunks changed."""
    if await database.write(_held) == token.tokenizer_name():
        return 0
    done, last = 0, 0
    while True:
        count, last = await database.write(partial(_renew, start=last))
        if not count:
            break
        done += count
    await database.write(_note)
    if done:
        _log.info("words of %d chunks made anew by %s", done, token.tokenizer_name())
    return done


def _held(connection: sqlite3.Connection) -> str:
    connection.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_KEY,)).fetchone()
    return "" if row is None else str(row["value"])


def _note(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_KEY, token.tokenizer_name()))


def _renew(connection: sqlite3.Connection, start: int) -> tuple[int, int]:
    rows = connection.execute(
        "SELECT c.seq, c.content, c.important_keywords_json, c.questions_json, d.name FROM chunk c"
        " JOIN document d ON d.id = c.document_id WHERE c.seq > ? ORDER BY c.seq LIMIT ?",
        (start, BATCH),
    ).fetchall()
    for row in rows:
        tokens = token.index_text(
            row["content"],
            title=row["name"],
            keywords=json.loads(row["important_keywords_json"]),
            questions=json.loads(row["questions_json"]),
        )
        connection.execute("UPDATE chunk SET tokens = ? WHERE seq = ?", (tokens, row["seq"]))
    return len(rows), rows[-1]["seq"] if rows else start
