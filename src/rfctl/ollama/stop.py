"""Where an answer ends: derived from what the chat template writes after an assistant turn.

llama.cpp ends a generation at the file's EOS/EOT ids and at tokens with well-known names; everything else
needs a `stop` text, and a control token that is neither cannot be stopped at all, because servers do not
print it.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rfctl.ollama.candidate import Candidate
from rfctl.ollama.family import Family
from rfctl.ollama.template import TemplateError, render_isolated

_QUESTION, _ANSWER, _NEXT = "rfctlquestionone", "rfctlanswerone", "rfctlquestiontwo"
MAX_END = 64


@dataclass(frozen=True)
class Stops:
    """texts: the `stop` parameter. end: what the template writes after an answer ("" if unknown).
    ends_itself: llama.cpp ends there without a stop text (None: unknown). unreachable: `end` is a control
    token that neither ends a generation nor is printed: the model would not stop."""

    texts: tuple[str, ...]
    end: str
    ends_itself: bool | None
    unreachable: bool = False


@cache
def _ending_names() -> frozenset[str]:
    with (Path(__file__).parent / "end_token.toml").open("rb") as file:
        return frozenset(tomllib.load(file)["names"])


def derive_stops(candidate: Candidate, family: Family | None) -> Stops:
    """The stops of a chat model; family adds its own (start tokens of turns, plain-text headers)."""
    texts = list(family.stops) if family is not None else []
    end = _find_end(candidate, texts)
    if not end:
        return Stops(tuple(texts), "", None)
    index = candidate.special_tokens.get(end)
    ends_itself = index is not None and (index in candidate.end_ids or end in _ending_names())
    unreachable = not ends_itself and end in candidate.control_tokens
    if end not in texts and not unreachable:
        texts.append(end)
    return Stops(tuple(texts), end, ends_itself, unreachable)


def _find_end(candidate: Candidate, known: list[str]) -> str:
    """The text between an answer and the next turn: its first special token, else a known stop, else its
    first line."""
    if not candidate.template.text:
        return ""
    messages = (
        {"role": "user", "content": _QUESTION},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": _NEXT},
    )
    try:
        (prompt,) = render_isolated(candidate.template, [messages])
    except TemplateError:
        return ""
    if isinstance(prompt, TemplateError):
        return ""
    _, found, tail = prompt.partition(_ANSWER)
    tail, more, _ = tail.partition(_NEXT)
    tail = tail.lstrip()
    if not found or not more or not tail:
        return ""
    for length in range(min(MAX_END, len(tail)), 0, -1):
        if tail[:length] in candidate.special_tokens:
            return tail[:length]
    for text in known:
        if tail.startswith(text):
            return text
    return tail.splitlines()[0].rstrip()[:MAX_END]
