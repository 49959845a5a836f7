"""Test calls before a model server is taken in."""

from __future__ import annotations

from typing import Any

import httpx

from rfctl.engine.ragflow import model, state
from rfctl.engine.ragflow.envelope import DATA, Failure


async def verify(
    shared: state.State, provider: str, payload: dict[str, Any], models: list[dict[str, Any]]
) -> str | None:
    """Call the models at payload's base_url until one answers; its name, None for an empty list.

    Like RAGFlow: the first that answers is enough. Raises Failure 102 with the reasons if none does.
    """
    reasons = []
    for entry in models:
        name, kinds = str(entry["model_name"]), entry["model_type"]
        target = model.Target(
            id="",
            name=name,
            full_name=name,
            base_url=str(payload.get("base_url") or "").rstrip("/"),
            api_key=str(payload.get("api_key") or ""),
            model_types=tuple([kinds] if isinstance(kinds, str) else kinds),
            max_tokens=0,
            provider=provider,
        )
        try:
            if "embedding" in target.model_types:
                await model.embed(shared, target, ["Test if the api key is available"])
            elif "chat" in target.model_types:
                await _say_hello(shared, target)
        except model.EmbeddingError as error:
            reasons.append(f"\nFail to access embedding model({name}).{error}")
        except model.ChatError:
            reasons.append(f"\nFail to access model({provider}/{name}).No valid response received")
        else:
            return name
    if reasons:
        raise Failure(DATA, "".join(reasons))
    return None


async def _say_hello(shared: state.State, target: model.Target) -> None:
    messages = [{"role": "user", "content": "Hello! How are you doing!"}]
    async for _ in model.chat(shared, target, messages, {"num_predict": 8}):
        pass


def explain(error: Exception, url: str) -> str:
    """Why nothing could be listed at `url`, as RAGFlow words it."""
    if isinstance(error, httpx.ConnectError):
        host = model.host(url)
        return f"Cannot connect to host {host} ssl:default [Connect call failed {_pair(host)}]"
    return str(error) or repr(error)


def _pair(host: str) -> str:
    name, _, port = host.rpartition(":")
    return f"('{name}', {port})"
