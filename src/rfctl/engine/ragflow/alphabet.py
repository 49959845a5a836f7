"""Which letters of a text an embedding model knows at all.

A model whose vocabulary has neither a letter nor bytes reads each such word as the same unknown token,
so its vectors say nothing about the text and no search by meaning finds it. Measured at the vocabulary that
Ollama's `/api/show` with `verbose` gives, never guessed from a name.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import httpx

from rfctl.engine.ragflow.model import Target
from rfctl.engine.ragflow.state import State

# The share of unknown letters from which on a document is lost to the search by meaning.
TOO_MANY = 0.3
_SAMPLE = 20_000
# The largest vocabularies (a quarter of a million tokens) come to some ten megabytes.
_MAX_BYTES = 64 << 20
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
_CACHE = "alphabet"
# GGUF's `tokenizer.ggml.model` of those without a token for every byte: WordPiece and Unigram (gguf-py).
_WITHOUT_BYTES = ("bert", "t5")


async def unknown_share(state: State, target: Target, texts: Iterable[str]) -> float:
    """Share (0-1) of the letters of `texts` that the model does not know, of the first 20 000 characters.

    0 where that cannot be known: no Ollama, no answer, no vocabulary in it.
    """
    letters = _letters(texts)
    total = letters.total()
    foreign = {letter: count for letter, count in letters.items() if not letter.isascii()}
    if not target.is_ollama or sum(foreign.values()) < TOO_MANY * total or not total:
        return 0.0
    cache = state.cache.setdefault(_CACHE, {})
    key = (target.base_url, target.name)
    if key not in cache:
        known = await _find(state, target)
        if known is None:
            return 0.0
        cache[key] = known
    alphabet = cache[key]
    if not alphabet:
        return 0.0
    return sum(count for letter, count in foreign.items() if not alphabet.issuperset(_fold(letter))) / total


def read_alphabet(info: Mapping[str, Any]) -> frozenset[str]:
    """The characters that occur in the vocabulary of a verbose `model_info`; empty for one with bytes."""
    tokens = info.get("tokenizer.ggml.tokens")
    if info.get("tokenizer.ggml.model") not in _WITHOUT_BYTES or not isinstance(tokens, list):
        return frozenset()
    if "<0xE4>" in tokens:
        return frozenset()
    return frozenset(part for token in tokens if isinstance(token, str) for part in _fold(token))


def _letters(texts: Iterable[str]) -> Counter[str]:
    letters: Counter[str] = Counter()
    left = _SAMPLE
    for text in texts:
        letters.update(letter for letter in text[:left] if letter.isalpha())
        left -= len(text)
        if left <= 0:
            break
    return letters


def _fold(text: str) -> str:
    """Without case and accents, as WordPiece models for lower case read it; others lose nothing by it."""
    parts = unicodedata.normalize("NFD", text.lower())
    return "".join(part for part in parts if unicodedata.category(part) != "Mn")


async def _find(state: State, target: Target) -> frozenset[str] | None:
    headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    body = {"model": target.name, "verbose": True}
    content = bytearray()
    try:
        async with state.http.stream(
            "POST", f"{target.base_url}/api/show", json=body, headers=headers, timeout=_TIMEOUT
        ) as response:
            if response.status_code != 200:
                return None
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > _MAX_BYTES:
                    return None
        info = json.loads(content).get("model_info")
    except (httpx.HTTPError, ValueError, AttributeError):
        return None
    return read_alphabet(info) if isinstance(info, dict) else None
