"""Calling a server that speaks OpenAI's API (vLLM, Xinference, any), with answers in Ollama's form."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx

_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
_LIST_TIMEOUT = httpx.Timeout(20.0, connect=5.0)
# Options of Ollama that OpenAI's API has too; the others have no name there and are left out.
_OPTIONS = {
    "num_predict": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
}
# Where a server says the context of a model, as RAGFlow v0.27.0 looks for it (`model_meta.py`).
_CONTEXT = ("max_tokens", "max_completion_tokens", "context_length", "max_model_len")


class ServedError(Exception):
    """The server refused or broke off; the text is its reason."""


async def chat(
    http: httpx.AsyncClient,
    base_url: str,
    api_key: str,
    name: str,
    messages: Sequence[Mapping[str, str]],
    options: Mapping[str, Any],
) -> AsyncIterator[dict[str, Any]]:
    """The answer in pieces of Ollama's form; the last has done true, unless the server broke off.

    Raises ServedError, httpx.HTTPError, ValueError (no JSON).
    """
    body = {"model": name, "messages": list(messages), "stream": True}
    body |= {theirs: options[ours] for ours, theirs in _OPTIONS.items() if ours in options}
    reason = ""
    async with http.stream(
        "POST", _place(base_url, "chat/completions"), json=body, headers=_headers(api_key), timeout=_TIMEOUT
    ) as response:
        if response.status_code != 200:
            raise ServedError(_explain(response.status_code, await response.aread()))
        async for line in response.aiter_lines():
            if not line.startswith("data:"):
                continue
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                break
            try:
                event = json.loads(data)
            except RecursionError as error:
                raise ServedError("the answer nests without end") from error
            if not isinstance(event, dict) or event.get("error"):
                raise ServedError(_explain(response.status_code, data.encode()))
            choices = event.get("choices")
            for choice in choices if isinstance(choices, list) else []:
                delta = (choice.get("delta") or {}) if isinstance(choice, dict) else None
                if not isinstance(delta, dict):
                    raise ServedError("the answer is no completion of OpenAI's API")
                thinking = delta.get("reasoning_content") or delta.get("reasoning") or ""
                message = {"role": "assistant", "content": delta.get("content") or "", "thinking": thinking}
                reason = choice.get("finish_reason") or reason
                yield {"message": message, "done": False}
    if reason:
        done_reason = "length" if reason == "length" else "stop"
        yield {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": done_reason}


async def embed(
    http: httpx.AsyncClient, base_url: str, api_key: str, name: str, texts: Sequence[str]
) -> list[list[float]]:
    """One vector for each text, in their order. Raises ServedError, httpx.HTTPError, ValueError."""
    body = {"model": name, "input": list(texts), "encoding_format": "float"}
    response = await http.post(
        _place(base_url, "embeddings"), json=body, headers=_headers(api_key), timeout=_TIMEOUT
    )
    if response.status_code != 200:
        raise ServedError(_explain(response.status_code, response.content))
    rows = response.json()
    rows = rows.get("data") if isinstance(rows, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ServedError("the answer holds no embeddings")
    ordered = sorted(rows, key=lambda row: row["index"] if isinstance(row.get("index"), int) else 0)
    return [row.get("embedding") or [] for row in ordered]


async def list_models(http: httpx.AsyncClient, base_url: str, api_key: str) -> list[tuple[str, str, int]]:
    """(name, "chat" or "embedding", context in tokens or 0) of each model. Raises as `embed`."""
    response = await http.get(_place(base_url, "models"), headers=_headers(api_key), timeout=_LIST_TIMEOUT)
    response.raise_for_status()
    answer = response.json()
    rows = answer.get("data") if isinstance(answer, dict) else None
    found = []
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and row.get("id"):
            sizes = [row[key] for key in _CONTEXT if isinstance(row.get(key), int)]
            name = str(row["id"])
            is_embedding = row.get("model_type") == "embedding" or "embed" in name.lower()
            found.append((name, "embedding" if is_embedding else "chat", sizes[0] if sizes else 0))
    return found


def _place(base_url: str, route: str) -> str:
    return f"{base_url.rstrip('/').removesuffix('/v1')}/v1/{route}"


def _headers(api_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _explain(status: int, content: bytes) -> str:
    """The server's own words: `{"error": {"message": ...}}` of OpenAI, `message` or `detail` of others."""
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    reason = answer
    while isinstance(reason, dict):
        reason = next((reason[key] for key in ("error", "message", "detail") if reason.get(key)), "")
    return f"{reason or content[:500].decode(errors='replace')} (status code: {status})"
