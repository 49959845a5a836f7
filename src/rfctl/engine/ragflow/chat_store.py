"""Rows of chat assistants and their form in answers."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from rfctl.engine.ragflow.envelope import AUTHENTICATION, Failure
from rfctl.engine.ragflow.stamp import iso

# Defaults of RAGFlow v0.27.0 `chat_api.py`.
PROLOGUE = "Hi! I'm your assistant. What can I do for you?"
EMPTY_RESPONSE = "Sorry! No relevant content was found in the knowledge base!"
SYSTEM = (
    "You are an intelligent assistant. Please summarize the content of the dataset to answer the question."
    " Please list the data in the dataset and answer in detail. When all dataset content is irrelevant to the"
    ' question, your answer must include the sentence "The answer you are looking for is not found in the'
    ' dataset!" Answers need to consider chat history.\n      Here is the knowledge base:\n'
    "      {knowledge}\n      The above is the knowledge base."
)
PARAMETERS = ({"key": "knowledge", "optional": False}, {"key": "date", "optional": True})


def fill_prompt(sent: dict[str, Any]) -> dict[str, Any]:
    """prompt_config with what a new chat gets where the client sends nothing."""
    config = {
        "empty_response": EMPTY_RESPONSE,
        "prologue": PROLOGUE,
        "quote": True,
        "refine_multiturn": True,
        "system": SYSTEM,
        "tts": False,
    } | sent
    given = [dict(one) for one in sent.get("parameters") or [] if isinstance(one, dict)]
    keys = {one.get("key") for one in given}
    config["parameters"] = given + [dict(one) for one in PARAMETERS if one["key"] not in keys]
    return config


def find(connection: sqlite3.Connection, id: str) -> sqlite3.Row | None:
    """The chat's row."""
    row: sqlite3.Row | None = connection.execute("SELECT * FROM chat WHERE id = ?", (id,)).fetchone()
    return row


def get(connection: sqlite3.Connection, id: str) -> sqlite3.Row:
    """The chat's row; raises Failure 109 as RAGFlow does."""
    row = find(connection, id)
    if row is None:
        raise Failure(AUTHENTICATION, "no authorization", data=False)
    return row


def is_taken(connection: sqlite3.Connection, name: str, but: str = "") -> bool:
    """True if another chat than `but` has the name, case ignored."""
    rows = connection.execute("SELECT id, name FROM chat")
    return any(row["name"].casefold() == name.casefold() and row["id"] != but for row in rows)


def describe(connection: sqlite3.Connection, row: sqlite3.Row, tenant_id: str) -> dict[str, Any]:
    """A chat as create, show and update answer it."""
    extra = json.loads(row["extra_json"])
    return {
        **_common(connection, row, tenant_id),
        "create_date": iso(row["create_time"]),
        "meta_data_filter": json.loads(row["meta_data_filter_json"]),
        "tenant_llm_id": extra.get("tenant_llm_id"),
        "tenant_rerank_id": None,
        "update_date": iso(row["update_time"]),
    }


def describe_listed(
    connection: sqlite3.Connection, row: sqlite3.Row, tenant_id: str, tenant_name: str
) -> dict[str, Any]:
    """A chat in a listing."""
    return _common(connection, row, tenant_id) | {"nickname": tenant_name, "tenant_avatar": None}


def _common(connection: sqlite3.Connection, row: sqlite3.Row, tenant_id: str) -> dict[str, Any]:
    ids = json.loads(row["dataset_ids_json"])
    found = [connection.execute("SELECT id, name FROM dataset WHERE id = ?", (id,)).fetchone() for id in ids]
    datasets = [dataset for dataset in found if dataset is not None]
    return {
        "create_time": row["create_time"],
        "dataset_ids": [dataset["id"] for dataset in datasets],
        "description": row["description"],
        "do_refer": "1",
        "icon": row["icon"],
        "id": row["id"],
        "kb_names": [dataset["name"] for dataset in datasets],
        "language": "English",
        "llm_id": row["llm_id"],
        "llm_setting": json.loads(row["llm_setting_json"]),
        "name": row["name"],
        "prompt_config": json.loads(row["prompt_config_json"]),
        "prompt_type": "simple",
        "rerank_id": row["rerank_id"],
        "similarity_threshold": row["similarity_threshold"],
        "status": "1",
        "tenant_id": tenant_id,
        "top_k": row["top_k"],
        "top_n": row["top_n"],
        "update_time": row["update_time"],
        "vector_similarity_weight": row["vector_similarity_weight"],
    }
