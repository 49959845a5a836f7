"""Model providers and their instances (RAGFlow v0.27.0 `provider_api.py`).

Deviations: only Ollama and servers with OpenAI's API can be added; a failed test call names the reason
without LiteLLM's wrapping.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rfctl.engine.ragflow import body, listing, provider_check, provider_store, state
from rfctl.engine.ragflow.envelope import ARGUMENT, DATA, Failure, ok
from rfctl.engine.ragflow.stamp import new_id, now

_URL = {"default": ""}


async def list_providers(request: Request) -> Response:
    """The configured providers, or with `available=true` all that could be."""
    if request.query_params.get("available", "").lower() == "true":
        return ok([{"model_types": [], "name": name, "url": _URL} for name in provider_store.PROVIDERS])
    rows = await state.of(request).database.read(
        lambda connection: connection.execute(
            "SELECT p.name, EXISTS (SELECT 1 FROM instance i WHERE i.provider_id = p.id) AS has_instance"
            " FROM provider p ORDER BY p.create_time"
        ).fetchall()
    )
    return ok(
        [
            {"has_instance": bool(row["has_instance"]), "model_types": [], "name": row["name"], "url": _URL}
            for row in rows
        ]
    )


async def add_provider(request: Request) -> Response:
    """Configure a provider by name."""
    name = (await body.read_object(request)).get("provider_name")
    if not name:
        raise Failure(ARGUMENT, "provider_name is required")
    if name not in provider_store.PROVIDERS:
        raise Failure(DATA, f"Provider '{name}' is not allowed")

    def insert(connection: sqlite3.Connection) -> None:
        if provider_store.find_provider(connection, name) is not None:
            raise Failure(DATA, f"Provider {name} already exists")
        connection.execute("INSERT INTO provider VALUES (?, ?, ?)", (new_id(), name, now()))

    await state.of(request).database.write(insert)
    return ok()


async def show_provider(request: Request) -> Response:
    """What is known of a provider, configured or not."""
    return ok({"base_url": _URL, "name": _known(request), "total_models": 0})


async def delete_provider(request: Request) -> Response:
    """Forget a provider with its instances and models."""
    name = _known(request)
    await state.of(request).database.write(
        lambda connection: connection.execute("DELETE FROM provider WHERE name = ?", (name,))
    )
    return ok()


async def test_connection(request: Request) -> Response:
    """Whether a model server answers at `base_url`."""
    name = _known(request)
    payload = await body.read_object(request)
    url = str(payload.get("base_url") or "")
    text = f"No models found for provider '{name}'."
    if not url:
        raise Failure(DATA, text)
    try:
        found = await listing.offer(state.of(request), name, url, str(payload.get("api_key") or ""))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise Failure(
            DATA, f"{text} Discovery against {url} failed: {provider_check.explain(error, url)}"
        ) from error
    if not found:
        raise Failure(DATA, text)
    return ok()


async def list_provider_models(request: Request) -> Response:
    """What the server at `base_url` lists."""
    provider = _known(request)
    url = request.query_params.get("base_url", "")
    key = request.query_params.get("api_key", "")
    try:
        found = await listing.offer(state.of(request), provider, url, key)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise Failure(DATA, "Internal server error") from error
    return ok(
        [
            {
                "features": list(entry.features),
                "max_tokens": entry.max_tokens,
                "model_types": list(entry.model_types),
                "name": entry.name,
            }
            for entry in found
        ]
    )


async def list_instances(request: Request) -> Response:
    """The instances of a provider, newest first."""
    provider = request.path_params["provider"]
    rows = await state.of(request).database.read(
        lambda connection: connection.execute(
            "SELECT i.* FROM instance i JOIN provider p ON p.id = i.provider_id WHERE p.name = ?"
            " ORDER BY i.create_time DESC, i.rowid DESC",
            (provider,),
        ).fetchall()
    )
    return ok([_describe(row) for row in rows])


async def add_instance(request: Request) -> Response:
    """Add a model server after one of its models answered a test call.

    A name that is taken makes `name(1)`, and the models go to the older instance: RAGFlow does the same.
    """
    provider = request.path_params["provider"]
    payload = await body.read_object(request)
    name = payload.get("instance_name")
    if not name:
        raise Failure(ARGUMENT, "instance_name is required")
    shared = state.of(request)
    found = await shared.database.read(lambda c: provider_store.find_provider(c, provider))
    if found is None:
        raise Failure(DATA, f"Provider '{provider}' does not exist")
    if name == "default":
        raise Failure(DATA, "Instance name cannot be 'default'")
    models = _models(payload)
    verified = await provider_check.verify(shared, provider, payload, models)

    def make(connection: sqlite3.Connection) -> None:
        free = provider_store.free_name(connection, found["id"], str(name))
        provider_store.add_instance(
            connection,
            found["id"],
            free,
            str(payload.get("api_key") or ""),
            str(payload.get("base_url") or ""),
            str(payload.get("region") or ""),
        )

    def fill(connection: sqlite3.Connection) -> None:
        instance = provider_store.get_instance(connection, provider, str(name))
        for entry in models:
            verify = "success" if entry["model_name"] == verified else "unknown"
            provider_store.add_model(connection, instance, provider, entry, verify)

    await shared.database.write(make)
    await shared.database.write(fill)
    return ok()


async def show_instance(request: Request) -> Response:
    """One instance with its address and key."""
    shared = state.of(request)
    row = await shared.database.read(lambda c: _instance(c, request))
    return ok(_describe(row) | {"api_key": row["api_key"], "base_url": row["base_url"] or shared.self_url})


async def update_instance(request: Request) -> Response:
    """Set name, key, address or models; `verify` false skips the test call."""
    shared = state.of(request)
    payload = await body.read_object(request)
    provider = request.path_params["provider"]
    row = await shared.database.read(lambda c: _instance(c, request))
    models = _models(payload)
    merged = {"base_url": row["base_url"] or shared.self_url, "api_key": row["api_key"], **payload}
    verified = (
        await provider_check.verify(shared, provider, merged, models) if payload.get("verify", True) else None
    )

    def change(connection: sqlite3.Connection) -> None:
        url = str(payload.get("base_url", row["base_url"]) or "")
        connection.execute(
            "UPDATE instance SET name = ?, api_key = ?, base_url = ?, region = ? WHERE id = ?",
            (
                str(payload.get("instance_name") or row["name"]),
                str(payload.get("api_key", row["api_key"]) or ""),
                "" if not row["base_url"] and url.rstrip("/") == shared.self_url else url,
                str(payload.get("region", row["region"]) or ""),
                row["id"],
            ),
        )
        for entry in models:
            connection.execute(
                "DELETE FROM model WHERE instance_id = ? AND name = ? AND live = 0",
                (row["id"], entry["model_name"]),
            )
            verify = "success" if entry["model_name"] == verified else "unknown"
            provider_store.add_model(connection, row, provider, entry, verify)

    await shared.database.write(change)
    return ok()


async def delete_instances(request: Request) -> Response:
    """Forget instances by name (or id) with their models."""
    provider = request.path_params["provider"]
    names = (await body.read_object(request)).get("instances")
    if not isinstance(names, list) or not names:
        raise Failure(ARGUMENT, "instances is required")

    def delete(connection: sqlite3.Connection) -> None:
        for name in names:
            row = provider_store.get_instance(connection, provider, str(name))
            connection.execute("DELETE FROM instance WHERE id = ?", (row["id"],))

    await state.of(request).database.write(delete)
    return ok()


def _known(request: Request) -> str:
    name = str(request.path_params["provider"])
    if name not in provider_store.PROVIDERS:
        raise Failure(DATA, f"Provider '{name}' not found")
    return name


def _instance(connection: sqlite3.Connection, request: Request) -> sqlite3.Row:
    provider, name = request.path_params["provider"], request.path_params["instance"]
    return provider_store.get_instance(connection, provider, name)


def _describe(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "instance_name": row["name"],
        "provider_id": row["provider_id"],
        "region": row["region"],
        "status": row["status"],
    }


def _models(payload: dict[str, Any]) -> list[dict[str, Any]]:
    entries = payload.get("model_info") or []
    if not isinstance(entries, list):
        raise Failure(ARGUMENT, "model_info should be a list")
    for entry in entries:
        if not isinstance(entry, dict) or not entry.get("model_name") or not entry.get("model_type"):
            raise Failure(ARGUMENT, "model_name and model_type are required")
    return entries


ROUTES = [
    Route("/providers", list_providers, methods=["GET"]),
    Route("/providers", add_provider, methods=["PUT"]),
    Route("/providers/{provider}", show_provider, methods=["GET"]),
    Route("/providers/{provider}", delete_provider, methods=["DELETE"]),
    Route("/providers/{provider}/connection", test_connection, methods=["POST"]),
    Route("/providers/{provider}/models", list_provider_models, methods=["GET"]),
    Route("/providers/{provider}/instances", list_instances, methods=["GET"]),
    Route("/providers/{provider}/instances", add_instance, methods=["POST"]),
    Route("/providers/{provider}/instances", delete_instances, methods=["DELETE"]),
    Route("/providers/{provider}/instances/{instance}", show_instance, methods=["GET"]),
    Route("/providers/{provider}/instances/{instance}", update_instance, methods=["PUT"]),
]
