"""The one context number: how many tokens a served model may hold, and why that many.

RAGFlow sends no num_ctx, so what is stored with the model decides; without it a server takes 4096 and cuts
longer prompts without a word (Ollama v0.33.0-rc2, server/routes.go, llm/llama_server.go).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rfctl.core.error import UsageError
from rfctl.core.machine import Machine
from rfctl.core.progress import SILENT, Reporter
from rfctl.ollama.candidate import Candidate


@dataclass(frozen=True)
class Need:
    """What a question to an assistant holds, in tokens: `top_n` passages of `chunk_tokens`, the prompt around
    them, the conversation so far, and the answer."""

    top_n: int
    chunk_tokens: int
    prompt_tokens: int
    talk_tokens: int
    answer_tokens: int

    @property
    def tokens(self) -> int:
        return self.top_n * self.chunk_tokens + self.rest

    @property
    def rest(self) -> int:
        """Everything but the passages."""
        return self.prompt_tokens + self.talk_tokens + self.answer_tokens

    def passages(self, num_ctx: int) -> int:
        """How many passages fit into `num_ctx` tokens when the conversation gives up its room."""
        return max(1, (num_ctx - self.prompt_tokens - self.answer_tokens) // self.chunk_tokens)


@dataclass(frozen=True)
class Context:
    """num_ctx: tokens. id: catalog id of the reason; params: the values in it (sizes in bytes)."""

    num_ctx: int
    id: str
    params: Mapping[str, object] = field(default_factory=dict)


@cache
def _facts() -> Mapping[str, Any]:
    with (Path(__file__).parent / "context.toml").open("rb") as file:
        return tomllib.load(file)


def default_need() -> Need:
    """The assistant that RAGFlow makes unless it is told otherwise."""
    names = ("top_n", "chunk_tokens", "prompt_tokens", "talk_tokens", "answer_tokens")
    return Need(**{name: int(_facts()[name]) for name in names})


def choose_context(
    candidate: Candidate,
    *,
    asked: int | None = None,
    written: int | None = None,
    machine: Machine | None = None,
    need: Need | None = None,
    reporter: Reporter = SILENT,
) -> Context:
    """The num_ctx to store with a model.

    asked, written: of the command line and of the Modelfile, which are taken as they are; otherwise what the
    assistant needs, but no more than the model was trained for, and halved while weights and cache do not fit
    into the memory. machine: where the server runs, None when that is not known. Warns where the assistant
    will not fit or the memory will not do. Raises UsageError `ollama.num-ctx`.
    """
    need = need or default_need()
    limit = candidate.context_length
    chosen = asked if asked is not None else written
    if chosen is not None:
        if chosen < 1 or (limit is not None and chosen > limit):
            raise UsageError("ollama.num-ctx", value=chosen, limit=limit or 0, path=candidate.path)
        id = "context.asked" if asked is not None else "context.modelfile"
        context = Context(chosen, id, {"num_ctx": chosen})
    else:
        context = _compute(candidate, need, machine)
    _warn(candidate, context.num_ctx, need, machine, reporter)
    return context


def estimate_memory(candidate: Candidate, num_ctx: int) -> int:
    """Bytes that weights, float16 cache and the server's own buffers take; 0 where the file does not tell.

    Sliding windows and compressed attention need less: the figure is an upper bound.
    """
    if not candidate.weight_bytes or candidate.cache_bytes is None:
        return 0
    return candidate.weight_bytes + num_ctx * candidate.cache_bytes + int(_facts()["reserve_bytes"])


def estimate_seconds(candidate: Candidate, tokens: int, cores: int) -> float:
    """How long a server without a GPU reads a prompt: two operations per weight and token. A rough figure."""
    return 2 * candidate.parameter_count * tokens / (max(1, cores) * float(_facts()["core_speed"]))


def _compute(candidate: Candidate, need: Need, machine: Machine | None) -> Context:
    limit = candidate.context_length
    if candidate.is_embedding:
        # One text at a time and no answer: more than the longest passage is of no use.
        chosen = min(limit or need.tokens, need.tokens)
        return Context(chosen, "context.embedding", {"num_ctx": chosen})
    params: dict[str, object] = {
        "top_n": need.top_n,
        "chunk_tokens": need.chunk_tokens,
        "rest": need.rest,
        "need": need.tokens,
    }
    chosen, id = need.tokens, "context.need"
    if limit is not None and limit < chosen:
        chosen, id = limit, "context.trained"
    budget = int(machine.memory * _facts()["memory_share"]) if machine is not None else 0
    least = min(chosen, int(_facts()["least"]))
    while budget and chosen > least and estimate_memory(candidate, chosen) > budget:
        params |= {"wanted": chosen, "size": estimate_memory(candidate, chosen), "memory": budget}
        chosen, id = max(least, chosen // 2), "context.memory"
    return Context(chosen, id, {"num_ctx": chosen, **params})


def _warn(
    candidate: Candidate, num_ctx: int, need: Need, machine: Machine | None, reporter: Reporter
) -> None:
    if not candidate.is_embedding and num_ctx < need.tokens:
        reporter.warn("context.too-small", num_ctx=num_ctx, need=need.tokens, passages=need.passages(num_ctx))
    if machine is not None and machine.has_gpu is False and not candidate.is_embedding:
        tokens, cores = min(num_ctx, need.tokens), machine.cores
        seconds = estimate_seconds(candidate, tokens, cores)
        if seconds > _facts()["slow_seconds"]:
            reporter.warn("context.slow", tokens=tokens, minutes=round(seconds / 60), cores=cores)
    size = estimate_memory(candidate, num_ctx)
    if machine is not None and machine.free and size > machine.free:
        reporter.warn(
            "context.memory-short",
            num_ctx=num_ctx,
            size=round(size / 1e9, 1),
            free=round(machine.free / 1e9, 1),
        )
