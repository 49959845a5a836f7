"""How much a chat model takes: its context and what its Modelfile already fixes.

A prompt that is longer than the server's context is cut by Ollama without a word, so it must be known before.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx

from rfctl.engine.ragflow.model import Target
from rfctl.engine.ragflow.state import State

# Ollama's default when neither the Modelfile nor the request says num_ctx.
SERVER_DEFAULT = 4096
MAX_ANSWER = 512
_KEPT_SECONDS = 30.0
_MAX_DIGITS = 10
_TIMEOUT = httpx.Timeout(20.0, connect=5.0)
_CACHE = "limit"


@dataclass(frozen=True)
class Limit:
    """
    context  tokens that prompt and answer may have together
    fixed    parameters that the Modelfile sets, so that the request need not
    """

    context: int
    fixed: frozenset[str]


async def find(state: State, target: Target) -> Limit:
    """The model's limit, from /api/show and the max_tokens it was registered with. Never raises for a server
    that does not answer: then the registered number holds, or Ollama's default. A server that is no Ollama
    has a fixed context, so the registered number is it."""
    if not target.is_ollama:
        return Limit(max(target.max_tokens or SERVER_DEFAULT, 64), frozenset())
    cache = state.cache.setdefault(_CACHE, {})
    key = (target.base_url, target.name)
    known = cache.get(key)
    if known is None or time.monotonic() - known[0] > _KEPT_SECONDS:
        known = (time.monotonic(), await _show(state, target))
        cache[key] = known
    parameters, trained = known[1]
    fixed = parameters.get("num_ctx", "")
    number = int(fixed) if fixed.isascii() and fixed.isdigit() and len(fixed) < _MAX_DIGITS else 0
    context = number or min(trained or SERVER_DEFAULT, SERVER_DEFAULT)
    if target.max_tokens > 0:
        context = min(context, target.max_tokens)
    return Limit(max(context, 64), frozenset(parameters))


async def _show(state: State, target: Target) -> tuple[dict[str, str], int]:
    headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    try:
        response = await state.http.post(
            f"{target.base_url}/api/show", json={"model": target.name}, headers=headers, timeout=_TIMEOUT
        )
        shown = response.json()
    except (httpx.HTTPError, ValueError):
        return {}, 0
    if not isinstance(shown, dict):
        return {}, 0
    parameters = {}
    for line in str(shown.get("parameters") or "").splitlines():
        name, _, value = line.strip().partition(" ")
        parameters[name] = value.strip()
    return parameters, _trained(shown.get("model_info"))


def _trained(info: Any) -> int:
    if not isinstance(info, dict):
        return 0
    values = (value for key, value in info.items() if key.endswith(".context_length"))
    return next((value for value in values if isinstance(value, int)), 0)
