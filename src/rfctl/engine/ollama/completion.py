"""One generation: llama-server's event streams turned into pieces and final counters of the Ollama API."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rfctl.engine.failure import ApiError
from rfctl.engine.ollama.answer import timestamp
from rfctl.engine.ollama.backend import Backend

_NANOSECONDS = 10**9


@dataclass(frozen=True)
class Piece:
    """What one event adds to the answer; tokens: ids, where the path reports them; logprobs: if asked for."""

    content: str = ""
    thinking: str = ""
    tool_calls: Sequence[dict[str, Any]] = ()
    tokens: Sequence[int] = ()
    logprobs: Sequence[dict[str, Any]] = ()

    def extra(self) -> dict[str, Any]:
        """The keys of a line behind `done`."""
        return {"logprobs": list(self.logprobs)} if self.logprobs else {}


@dataclass(frozen=True)
class Final:
    """reason: "stop" or "length"; counts in tokens; times in seconds."""

    reason: str
    prompt_count: int
    prompt_seconds: float
    count: int
    seconds: float


@dataclass
class Clock:
    """Measures a request; load_seconds is set when the model is there."""

    begin: float = field(default_factory=time.perf_counter)
    load_seconds: float = 0.0

    def counters(self, final: Final) -> dict[str, Any]:
        """The last keys of a final line, durations in nanoseconds."""
        return {
            "total_duration": round((time.perf_counter() - self.begin) * _NANOSECONDS),
            "load_duration": round(self.load_seconds * _NANOSECONDS),
            "prompt_eval_count": final.prompt_count,
            "prompt_eval_duration": round(final.prompt_seconds * _NANOSECONDS),
            "eval_count": final.count,
            "eval_duration": round(final.seconds * _NANOSECONDS),
        }


async def complete(backend: Backend, body: Mapping[str, Any]) -> AsyncGenerator[Piece | Final]:
    """`/completion` for a finished prompt; the Final comes last."""
    async with contextlib.aclosing(backend.events("/completion", {**body, "return_tokens": True})) as events:
        async for event in events:
            if event.get("content") or event.get("tokens"):
                yield Piece(
                    content=event.get("content", ""),
                    tokens=event.get("tokens", ()),
                    logprobs=_logprobs(event.get("completion_probabilities", ()), body["n_probs"]),
                )
            if event.get("stop"):
                reason = "length" if event.get("stop_type") == "limit" else "stop"
                yield _final(reason, event, event["tokens_evaluated"], event["tokens_predicted"])


async def chat(backend: Backend, body: Mapping[str, Any]) -> AsyncGenerator[Piece | Final]:
    """`/v1/chat/completions` for messages; tool calls come whole, before the Final."""
    reason = "stop"
    calls: dict[int, dict[str, str]] = {}
    body = {**body, "stream_options": {"include_usage": True}}
    async with contextlib.aclosing(backend.events("/v1/chat/completions", body)) as events:
        async for event in events:
            for choice in event.get("choices", ()):
                delta = choice.get("delta", {})
                _add_calls(calls, delta.get("tool_calls") or ())
                content, thinking = delta.get("content") or "", delta.get("reasoning_content") or ""
                if content or thinking:
                    found = (choice.get("logprobs") or {}).get("content", ())
                    logprobs = _logprobs(found, body.get("top_logprobs", 0))
                    yield Piece(content=content, thinking=thinking, logprobs=logprobs)
                if choice.get("finish_reason"):
                    reason = "length" if choice["finish_reason"] == "length" else "stop"
            if usage := event.get("usage"):
                if calls:
                    yield Piece(tool_calls=[_tool_call(call) for _, call in sorted(calls.items())])
                yield _final(reason, event, usage["prompt_tokens"], usage["completion_tokens"])


def _add_calls(calls: dict[int, dict[str, str]], deltas: Sequence[Mapping[str, Any]]) -> None:
    for call in deltas:
        function = call.get("function", {})
        known = calls.setdefault(int(call.get("index", 0)), {"name": "", "arguments": ""})
        known["name"] += function.get("name") or ""
        known["arguments"] += function.get("arguments") or ""


def _tool_call(call: Mapping[str, str]) -> dict[str, Any]:
    try:
        arguments = json.loads(call["arguments"] or "{}")
    except ValueError:
        arguments = {"arguments": call["arguments"]}
    return {"function": {"name": call["name"], "arguments": arguments}}


def _final(reason: str, event: Mapping[str, Any], prompt_count: int, count: int) -> Final:
    timings = event.get("timings", {})
    milliseconds = [max(float(timings.get(key, 0.0)), 0.0) / 1000 for key in ("prompt_ms", "predicted_ms")]
    return Final(reason, prompt_count, milliseconds[0], count, milliseconds[1])


def probabilities(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that ask llama-server for log probabilities; `/completion` gives them for n_probs > 0."""
    if not body.get("logprobs"):
        return {"n_probs": 0}
    count = int(body.get("top_logprobs") or 0)
    return {"n_probs": max(count, 1), "logprobs": True, "top_logprobs": count}


def _logprobs(found: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    def keep(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {key: entry[key] for key in ("token", "logprob", "bytes") if key in entry}

    return [
        keep(entry) | {"top_logprobs": [keep(other) for other in entry.get("top_logprobs", ())[:count]]}
        for entry in found
        if count or "logprob" in entry
    ]


def parse_format(value: object) -> dict[str, Any] | None:
    """The JSON schema that `format` asks for, None for free text. Raises ApiError 500."""
    if value in (None, ""):
        return None
    if value == "json":
        return {"type": "object"}
    if isinstance(value, dict):
        return value
    shown = json.dumps(json.dumps(value, ensure_ascii=False, separators=(",", ":")), ensure_ascii=False)
    raise ApiError(500, f'invalid format: {shown}; expected "json" or a valid JSON Schema object')


def line(model: str, **values: Any) -> dict[str, Any]:
    """A line of an answer with its first two keys."""
    return {"model": model, "created_at": timestamp(), **values}


def fold_logprobs(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last line with the log probabilities of all, in Go's place for them."""
    found = [entry for item in lines for entry in item.get("logprobs", ())]
    if not found:
        return dict(lines[-1])
    folded: dict[str, Any] = {}
    for key, value in lines[-1].items():
        folded[key] = value
        if key == "done_reason":
            folded["logprobs"] = found
    return folded
