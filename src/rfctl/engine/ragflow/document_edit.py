"""Changing a document: name, method, configuration, metadata (RAGFlow v0.27.0 `document_api.py`)."""

from __future__ import annotations

import json
import sqlite3
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rfctl.engine.ragflow import body, dataset_store, document_file, document_store, state
from rfctl.engine.ragflow.dataset_schema import METHODS, ParserConfig, validate
from rfctl.engine.ragflow.document import MAX_NAME_BYTES, TOO_LONG
from rfctl.engine.ragflow.envelope import ARGUMENT, DATA, Failure, ok
from rfctl.engine.ragflow.stamp import now

_FIXED = ("chunk_count", "token_count", "progress")


def _check_method(value: Any) -> Any:
    if value not in METHODS:
        text = "`chunk_method` {value} doesn't exist"
        raise PydanticCustomError("value", text, {"value": str(value)})
    return value


def _check_meta(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    for item in value.values():
        if isinstance(item, list):
            if not all(_is_plain(part) for part in item):
                text = "The type is not supported in list: {item}"
                raise PydanticCustomError("type", text, {"item": str(item)})
        elif not _is_plain(item):
            raise PydanticCustomError("type", "The type is not supported: {item}", {"item": str(item)})
    return value


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


class _UpdateDocument(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    name: str = ""
    chunk_method: Annotated[str, BeforeValidator(_check_method)] = "naive"
    parser_config: ParserConfig = Field(default_factory=ParserConfig)
    meta_fields: Annotated[dict[str, Any], BeforeValidator(_check_meta)] = Field(default_factory=dict)
    enabled: Annotated[int, Field(ge=0, le=1)] = 1
    pipeline_id: str | None = None


async def update_document(request: Request) -> Response:
    """Change name, chunk method, configuration, metadata or whether it takes part in retrieval."""
    shared = state.of(request)
    values = await body.read_object(request)
    dataset_id, id = request.path_params["dataset"], request.path_params["document"]

    def change(connection: sqlite3.Connection) -> dict[str, Any]:
        dataset_store.get(connection, dataset_id, "you don't own the dataset")
        row = document_store.get(connection, dataset_id, id, "the dataset doesn't own the document")
        for key in _FIXED:
            if key in values and values[key] != row[key]:
                raise Failure(DATA, f"can't change `{key}`")
        asked = validate(_UpdateDocument, values, DATA)
        given = asked.model_fields_set
        new: dict[str, Any] = {"update_time": now()}
        if "name" in given:
            _check_rename(connection, row, asked.name)
            new["name"] = asked.name
        config = json.loads(row["parser_config_json"])
        if "chunk_method" in given and asked.chunk_method != row["chunk_method"]:
            base = dataset_store.base_config(asked.chunk_method)
            config = document_store.change_config(config, base)
            new |= {"chunk_method": asked.chunk_method, "pipeline_id": ""}
        if "parser_config" in given:
            sent = asked.parser_config.model_dump(exclude_unset=True)
            config = document_store.change_config(config, sent)
        if "meta_fields" in given:
            new["meta_fields_json"] = json.dumps(asked.meta_fields, ensure_ascii=False)
        if "enabled" in given:
            new["enabled"] = asked.enabled
        new["parser_config_json"] = json.dumps(config, ensure_ascii=False)
        connection.execute(
            f"UPDATE document SET {', '.join(f'{key} = ?' for key in new)} WHERE id = ?",  # noqa: S608 - our keys
            (*new.values(), id),
        )
        row = document_store.get(connection, dataset_id, id, "")
        return document_store.describe(connection, row, shared.tenant_id)

    return ok(await shared.database.write(change))


def _check_rename(connection: sqlite3.Connection, row: sqlite3.Row, name: str) -> None:
    if len(name.encode()) > MAX_NAME_BYTES:
        raise Failure(ARGUMENT, TOO_LONG)
    if document_file.suffix(name).lower() != document_file.suffix(row["name"]).lower():
        raise Failure(ARGUMENT, "The extension of file can't be changed")
    rows = connection.execute(
        "SELECT name FROM document WHERE dataset_id = ? AND id != ?", (row["dataset_id"], row["id"])
    )
    if name.casefold() in {other["name"].casefold() for other in rows}:
        raise Failure(DATA, "Duplicated document name in the same dataset.")


ROUTES = [
    Route("/datasets/{dataset}/documents/{document}", update_document, methods=["PATCH", "PUT"]),
]
