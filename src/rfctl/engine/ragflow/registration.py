"""Registered models: those of an instance, all of them, and which are the account's defaults."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rfctl.engine.ragflow import account, body, listing, model, provider_store, state
from rfctl.engine.ragflow.envelope import ARGUMENT, DATA, Failure, ok

# A test call wants a sign of life; a small model can go on for the whole context.
_PROOF_TOKENS = 64


async def list_instance_models(request: Request) -> Response:
    """The models of one instance."""
    shared = state.of(request)
    provider, name = request.path_params["provider"], request.path_params["instance"]
    instance = await shared.database.read(lambda c: provider_store.get_instance(c, provider, name))
    if not instance["base_url"]:
        await listing.refresh(shared)
    rows = await shared.database.read(lambda c: provider_store.list_models(c, instance["id"]))
    return ok([_describe(row) for row in rows])


async def add_instance_model(request: Request) -> Response:
    """Register a model without a test call."""
    payload = await body.read_object(request)
    if not payload.get("model_name") or not payload.get("model_type"):
        raise Failure(ARGUMENT, "model_name and model_type are required")
    provider, name = request.path_params["provider"], request.path_params["instance"]

    def add(connection: sqlite3.Connection) -> None:
        instance = provider_store.get_instance(connection, provider, name)
        provider_store.add_model(connection, instance, provider, payload, None)

    await state.of(request).database.write(add)
    return ok()


async def update_instance_model(request: Request) -> Response:
    """Set `status` to active or inactive."""
    status = (await body.read_object(request)).get("status")
    if status not in ("active", "inactive"):
        raise Failure(ARGUMENT, "status is required")
    provider, name = request.path_params["provider"], request.path_params["instance"]
    target = request.path_params["model"]

    def change(connection: sqlite3.Connection) -> None:
        instance = provider_store.get_instance(connection, provider, name)
        cursor = connection.execute(
            "UPDATE model SET status = ? WHERE instance_id = ? AND name = ?", (status, instance["id"], target)
        )
        if cursor.rowcount == 0:
            raise Failure(DATA, f"Model '{target}@{name}@{provider}' not authorized")

    await state.of(request).database.write(change)
    return ok()


async def delete_instance_models(request: Request) -> Response:
    """Forget models by name."""
    names = (await body.read_object(request)).get("model_name")
    if not names:
        raise Failure(ARGUMENT, "model_name is required")
    names = [names] if isinstance(names, str) else list(names)
    provider, name = request.path_params["provider"], request.path_params["instance"]

    def delete(connection: sqlite3.Connection) -> None:
        instance = provider_store.get_instance(connection, provider, name)
        for target in names:
            connection.execute(
                "DELETE FROM model WHERE instance_id = ? AND name = ?", (instance["id"], str(target))
            )

    await state.of(request).database.write(delete)
    return ok()


async def talk(request: Request) -> Response:
    """One message to a chat model; a model that fails answers code 0 with `**ERROR**: ...`."""
    payload = await body.read_object(request)
    parts = [request.path_params[key] for key in ("model", "instance", "provider")]
    name = "@".join(parts)
    shared = state.of(request)
    try:
        target = await model.resolve(shared, name, "chat")
    except LookupError as error:
        raise Failure(DATA, f"Model '{name}' not authorized") from error
    answer, thinking = [], []
    try:
        messages = [{"role": "user", "content": str(payload.get("message") or "")}]
        async for piece in model.chat(shared, target, messages, {"num_predict": _PROOF_TOKENS}):
            message = piece.get("message") or {}
            answer.append(message.get("content") or "")
            thinking.append(message.get("thinking") or "")
    except model.ChatError as error:
        answer = [model.error_text(error, target)]
    return ok({"answer": "".join(answer), "reasoning_content": "".join(thinking)})


async def list_models(request: Request) -> Response:
    """All active models, of one type if `type` names a known one."""
    shared = state.of(request)
    await listing.refresh(shared)
    rows = await shared.database.read(provider_store.list_models)
    kind = request.query_params.get("type")
    tenant_name = await account.tenant_name(shared)
    return ok(
        [
            {
                "instance_id": row["instance_id"],
                "instance_name": row["instance_name"],
                "model_id": row["id"],
                "model_type": json.loads(row["model_type_json"]),
                "name": row["name"],
                "provider_id": row["provider_id"],
                "provider_name": row["provider_name"],
                "rank": provider_store.RANK,
                "tenant_id": shared.tenant_id,
                "tenant_name": tenant_name,
            }
            for row in rows
            if row["status"] == "active"
            and (kind not in provider_store.MODEL_TYPES or kind in json.loads(row["model_type_json"]))
        ]
    )


async def list_defaults(request: Request) -> Response:
    """The default model of each type that has one."""
    shared = state.of(request)
    models = []
    for kind in provider_store.MODEL_TYPES:
        target = await model.default(shared, kind)
        if target is not None:
            name, instance, provider = target.full_name.rsplit("@", 2)
            models.append(
                {
                    "enable": True,
                    "model_id": target.id,
                    "model_instance": instance,
                    "model_name": name,
                    "model_provider": provider,
                    "model_type": kind,
                }
            )
    return ok({"models": models})


async def set_default(request: Request) -> Response:
    """Choose the default model of a type; with nothing but `model_type`, have none."""
    payload = await body.read_object(request)
    kind = payload.get("model_type")
    if not kind:
        raise Failure(ARGUMENT, "model_type is required")
    provider, instance, name = (
        str(payload.get(key) or "") for key in ("model_provider", "model_instance", "model_name")
    )
    shared = state.of(request)
    if not provider and not instance and not name:
        await shared.database.write(
            lambda connection: connection.execute("DELETE FROM default_model WHERE model_type = ?", (kind,))
        )
        return ok()
    await listing.refresh(shared)

    def choose(connection: sqlite3.Connection) -> None:
        if provider_store.find_provider(connection, provider) is None:
            raise Failure(DATA, f"Provider '{provider}' not found")
        found = provider_store.find_instance(connection, provider, instance)
        if found is None:
            raise Failure(DATA, f"Instance '{instance}' not found for provider '{provider}'")
        row = connection.execute(
            "SELECT * FROM model WHERE instance_id = ? AND name = ? AND present = 1", (found["id"], name)
        ).fetchone()
        if row is None:
            raise Failure(DATA, "Internal server error")
        if kind not in provider_store.MODEL_TYPES:
            raise Failure(DATA, f"model type '{kind}' is invalid")
        if kind not in json.loads(row["model_type_json"]):
            raise Failure(DATA, f"Model '{name}' isn't a {kind} model")
        connection.execute(
            "INSERT INTO default_model VALUES (?, ?) ON CONFLICT DO UPDATE SET model_id = excluded.model_id",
            (kind, row["id"]),
        )

    await shared.database.write(choose)
    return ok()


def _describe(row: sqlite3.Row) -> dict[str, Any]:
    extra = json.loads(row["extra_json"]) or {"max_tokens": row["max_tokens"]}
    return {
        "extra": extra,
        "features": [],
        "max_tokens": row["max_tokens"],
        "model_type": json.loads(row["model_type_json"]),
        "name": row["name"],
        "rank": provider_store.RANK,
        "status": row["status"],
        "verify": row["verify"],
    }


_INSTANCE = "/providers/{provider}/instances/{instance}/models"
ROUTES = [
    Route(_INSTANCE, list_instance_models, methods=["GET"]),
    Route(_INSTANCE, add_instance_model, methods=["POST"]),
    Route(_INSTANCE, delete_instance_models, methods=["DELETE"]),
    Route(_INSTANCE + "/{model:path}", update_instance_model, methods=["PATCH"]),
    Route(_INSTANCE + "/{model:path}", talk, methods=["POST"]),
    Route("/models", list_models, methods=["GET"]),
    Route("/models/default", list_defaults, methods=["GET"]),
    Route("/models/default", set_default, methods=["PATCH"]),
]
