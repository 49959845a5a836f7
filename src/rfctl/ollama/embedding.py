"""What an embedding model's header promises for a knowledge base: pooling, length, and prefixes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rfctl.core.error import VerdictError
from rfctl.ollama.candidate import Candidate
from rfctl.ollama.context import default_need
from rfctl.ollama.proof import Check, Verdict

_RANK = 4


@cache
def _facts() -> Mapping[str, Any]:
    with (Path(__file__).parent / "embedding.toml").open("rb") as file:
        return tomllib.load(file)


def demand_pooling(candidate: Candidate) -> None:
    """Raise VerdictError `embedding.pooling-missing` for an encoder whose file does not say how a text
    becomes one vector: a server would take it for a chat model and answer 501 (Ollama v0.33.0-rc2,
    llm/llama_server.go)."""
    if candidate.is_causal is False and not candidate.is_embedding:
        raise VerdictError(
            "embedding.pooling-missing", path=candidate.path, architecture=candidate.architecture
        )


def judge_embedding(candidate: Candidate, chunk_tokens: int | None = None) -> tuple[Check, ...]:
    """Pooling, context against the size of chunks (tokens; default RAGFlow's), prefixes."""
    checks = [
        _check_pooling(candidate),
        _check_context(candidate, chunk_tokens or default_need().chunk_tokens),
    ]
    facts = _find_model(candidate)
    if facts is not None:
        params = {key: _show(str(facts[key])) for key in ("query", "passage")}
        checks.append(Check("embedding.prefix", Verdict.WARNED, {**params, "source": facts["source"]}))
    return tuple(checks)


def _check_pooling(candidate: Candidate) -> Check:
    names: list[str] = _facts()["pooling_names"]
    number = candidate.pooling if candidate.pooling is not None else 0
    found = names[number] if 0 <= number < len(names) else str(number)
    if number == _RANK:
        return Check("embedding.rank", Verdict.FAILED, {"pooling": found})
    facts = _find_model(candidate)
    if facts is not None and facts["pooling"] != found:
        params = {"pooling": found, "wanted": facts["pooling"], "source": facts["source"]}
        return Check("embedding.pooling-differs", Verdict.FAILED, params)
    return Check("embedding.pooling", Verdict.PASSED, {"pooling": found})


def _check_context(candidate: Candidate, chunk_tokens: int) -> Check:
    limit = candidate.context_length
    margin = float(_facts()["token_margin"])
    if limit is None:
        return Check("embedding.context-unknown", Verdict.UNKNOWN)
    params = {"limit": limit, "chunk_tokens": chunk_tokens, "fitting": int(limit / margin) // 32 * 32}
    if limit < chunk_tokens * margin:
        return Check("embedding.context-short", Verdict.WARNED, params)
    return Check("embedding.context", Verdict.PASSED, params)


def _find_model(candidate: Candidate) -> Mapping[str, Any] | None:
    for facts in _facts()["model"]:
        pattern = re.compile(facts["match"], re.IGNORECASE)
        if any(pattern.search(name.replace(" ", "-")) for name in candidate.names):
            found: Mapping[str, Any] = facts
            return found
    return None


def _show(prefix: str) -> str:
    return repr(prefix) if prefix else "-"
