"""Single chunks: their vector, changing and deleting them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfctl.engine.ragflow import chunk_store, model
from rfctl.engine.ragflow.state import State
from rfctl.engine.text import chunk, token

# Share of the file name in a chunk's vector (parser_config.filename_embd_weight; 0 counts as this too).
TITLE_WEIGHT = 0.1


@dataclass(frozen=True)
class Edited:
    """The fields of a chunk that a client may change."""

    content: str
    important_keywords: Sequence[str]
    questions: Sequence[str]
    tags: Sequence[str]
    tag_feas: dict[str, Any]
    positions: Sequence[Sequence[float]]


def make(name: str, content: str, payload: Mapping[str, Any]) -> chunk_store.NewChunk:
    """A chunk that a client adds to the document called `name`."""
    keywords, questions = _texts(payload.get("important_keywords")), _texts(payload.get("questions"))
    return chunk_store.NewChunk(
        content=content,
        tokens=token.index_text(content, title=name, keywords=keywords, questions=questions),
        token_count=chunk.count_tokens(content),
        important_keywords=keywords,
        questions=questions,
        tags=_texts(payload.get("tag_kwd")),
        tag_feas=payload.get("tag_feas") or {},
    )


def read(row: sqlite3.Row, payload: Mapping[str, Any]) -> Edited:
    """The chunk's fields with the changes of `payload` (checked before)."""
    old = {
        key: json.loads(row[f"{key}_json"])
        for key in ("important_keywords", "questions", "tags", "positions")
    }
    return Edited(
        content=payload.get("content", row["content"]),
        important_keywords=_texts(payload.get("important_keywords", old["important_keywords"])),
        questions=_texts(payload.get("questions", old["questions"])),
        tags=_texts(payload.get("tag_kwd", old["tags"])),
        tag_feas=payload.get("tag_feas", json.loads(row["tag_feas_json"])) or {},
        positions=payload.get("positions") or old["positions"],
    )


async def embed(
    state: State, target: model.Target, document: sqlite3.Row, content: str, questions: Sequence[str]
) -> NDArray[np.float32]:
    """The chunk's vector, float32 (1, dimension): of the questions if there are any, else of the content,
    with a share of the file name's. Raises model.EmbeddingError."""
    weight = json.loads(document["parser_config_json"]).get("filename_embd_weight") or TITLE_WEIGHT
    text = "\n".join(questions) or content
    title, main = await model.embed(state, target, [document["name"], text])
    return np.asarray([float(weight) * title + (1 - float(weight)) * main], dtype=np.float32)


def replace(
    connection: sqlite3.Connection,
    row: sqlite3.Row,
    name: str,
    edited: Edited,
    available: bool,
    vector: NDArray[np.float32] | None,
) -> None:
    """Write the chunk anew under its id. With a vector it gets a new `seq`, as `text.index` requires."""
    first = edited.positions[0] if edited.positions else (0, 0, 0, 0, 0)
    values = {
        "content": edited.content,
        "tokens": token.index_text(
            edited.content, title=name, keywords=edited.important_keywords, questions=edited.questions
        ),
        "page": int(first[0]),
        "top": int(first[3]),
        "positions_json": json.dumps(edited.positions),
        "important_keywords_json": json.dumps(edited.important_keywords, ensure_ascii=False),
        "questions_json": json.dumps(edited.questions, ensure_ascii=False),
        "tags_json": json.dumps(edited.tags, ensure_ascii=False),
        "tag_feas_json": json.dumps(edited.tag_feas, ensure_ascii=False),
        "available": int(available),
    }
    if vector is None:
        names = ", ".join(f"{key} = ?" for key in values)
        statement = f"UPDATE chunk SET {names} WHERE seq = ?"  # noqa: S608
        connection.execute(statement, (*values.values(), row["seq"]))
    else:
        merged = {key: row[key] for key in row.keys() if key != "seq"} | values  # noqa: SIM118
        connection.execute("DELETE FROM chunk WHERE seq = ?", (row["seq"],))
        marks = ", ".join("?" * len(merged))
        statement = f"INSERT INTO chunk ({', '.join(merged)}) VALUES ({marks})"  # noqa: S608
        cursor = connection.execute(statement, tuple(merged.values()))
        data = np.ascontiguousarray(vector.ravel(), dtype="<f4")
        connection.execute(
            "INSERT INTO vector VALUES (?, ?, ?, ?)",
            (cursor.lastrowid, row["dataset_id"], data.size, data.tobytes()),
        )
    chunk_store.count(connection, row["document_id"], row["dataset_id"], 0, 0)


def delete(connection: sqlite3.Connection, document: sqlite3.Row, ids: Sequence[str]) -> int:
    """Delete chunks of the document; returns how many of the ids there were."""
    done = tokens = 0
    for id in ids:
        row = connection.execute(
            "DELETE FROM chunk WHERE id = ? AND document_id = ? RETURNING token_count", (id, document["id"])
        ).fetchone()
        if row is not None:
            done += 1
            tokens += row["token_count"]
    if done:
        chunk_store.count(connection, document["id"], document["dataset_id"], -done, -tokens)
    return done


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value or []]
