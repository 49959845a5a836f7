"""Proof after a push: does the server serve what the file says?

The prompt that the server renders is compared with the model's own chat template, an answer must end by
itself, embeddings must have the right dimension and length 1. A check that could not run says "unknown".
"""

from __future__ import annotations

import difflib
import enum
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rfctl.core.error import RfctlError
from rfctl.ollama.answer import ModelCard, Version
from rfctl.ollama.candidate import Candidate
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.template import Message, TemplateError, render_isolated
from rfctl.ollama.truncation import check_whole, count_least

ANSWER_TOKENS = 64
NORM_TOLERANCE = 1e-3


class Verdict(enum.Enum):
    PASSED = "passed"
    WARNED = "warned"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Check:
    """One result. id: catalog id of its sentence; params: the values in it."""

    id: str
    verdict: Verdict
    params: Mapping[str, object] = field(default_factory=dict)


@cache
def _corpus() -> Mapping[str, Any]:
    text = (Path(__file__).parent / "conversation.json").read_text(encoding="utf-8")
    document: Mapping[str, Any] = json.loads(text)
    return document


def tool_conversation() -> tuple[tuple[Message, ...], tuple[Mapping[str, object], ...]]:
    """The messages and the tools of the conversation with tools."""
    item = _corpus()["with_tools"]
    return tuple(item["messages"]), tuple(item["tools"])


@cache
def corpus() -> Mapping[str, tuple[Message, ...]]:
    """The conversations without tools, by name."""
    return {name: tuple(messages) for name, messages in _corpus()["conversations"].items()}


def check_chat(
    client: OllamaClient, name: str, candidate: Candidate, card: ModelCard, version: Version, *, native: bool
) -> tuple[Check, ...]:
    """Capability, prompts, and one short answer of a chat model.

    native: the server is expected to render the file's own template (no Go template was sent).
    """
    checks = [
        check_capability(card, "completion"),
        _check_prompts(client, name, candidate, card, version, native),
    ]
    return (*checks, *check_answer(client, name, candidate, card))


def check_embedding(
    client: OllamaClient, name: str, candidate: Candidate, card: ModelCard
) -> tuple[Check, ...]:
    """Capability, dimension and norm of an embedding model."""
    checks = [check_capability(card, "embedding")]
    try:
        vectors = client.embed(name, ["What is written on page 3?", "知识库检索"])
    except RfctlError as error:
        return (
            *checks,
            Check("ollama.check-embedding-failed", Verdict.FAILED, {"detail": explain_error(error)}),
        )
    wanted = candidate.embedding_length
    dimension = len(vectors[0]) if vectors else 0
    norms = [math.sqrt(math.fsum(value * value for value in vector)) for vector in vectors]
    good = (
        len(vectors) == 2
        and all(len(vector) == (wanted or dimension) for vector in vectors)
        and dimension > 0
        and all(abs(norm - 1) <= NORM_TOLERANCE for norm in norms)
    )
    params = {
        "dimension": dimension,
        "wanted": wanted if wanted is not None else dimension,
        "norm": round(norms[0], 4) if norms else 0.0,
    }
    return (
        *checks,
        Check("ollama.check-embedding", Verdict.PASSED, params)
        if good
        else Check("ollama.check-embedding-differs", Verdict.FAILED, params),
    )


def check_capability(card: ModelCard, wanted: str) -> Check:
    """Whether the server serves the model for `wanted`: "completion" or "embedding"."""
    params = {"wanted": wanted, "found": ", ".join(card.capabilities) or "-"}
    if not card.capabilities:  # servers before 0.6.4 do not list them
        return Check("ollama.check-capability-unknown", Verdict.UNKNOWN, params)
    if wanted in card.capabilities:
        return Check("ollama.check-capability", Verdict.PASSED, params)
    return Check("ollama.check-capability-missing", Verdict.FAILED, params)


def _check_prompts(
    client: OllamaClient, name: str, candidate: Candidate, card: ModelCard, version: Version, native: bool
) -> Check:
    template = candidate.template
    if not template.text:
        return Check("ollama.check-prompt-no-template", Verdict.WARNED)
    if not version.shows_prompt:
        return Check("ollama.check-prompt-unknown", Verdict.UNKNOWN, {"version": version.text})
    preset: list[Message] = list(card.messages)
    if card.system:
        preset.insert(0, {"role": "system", "content": card.system})
    names = [
        key
        for key, messages in corpus().items()
        if not preset or all(message["role"] != "system" for message in messages)
    ]
    try:
        local = render_isolated(template, [[*preset, *corpus()[key]] for key in names])
    except TemplateError as error:
        return Check("ollama.check-prompt-broken", Verdict.FAILED, {"detail": error.reason})
    compared = 0
    for key, own in zip(names, local, strict=True):
        if isinstance(own, TemplateError):
            continue  # the template refuses this form, e.g. a system message
        try:
            served = client.render(name, corpus()[key])
        except RfctlError as error:
            return Check("ollama.check-prompt-broken", Verdict.FAILED, {"detail": explain_error(error)})
        if served is None:
            return Check("ollama.check-prompt-unknown", Verdict.UNKNOWN, {"version": version.text})
        compared += 1
        if not _same_prompt(own, served, candidate):
            params = {"conversation": key, "diff": describe_difference(own, served)}
            verdict = Verdict.FAILED if native else Verdict.WARNED
            return Check("ollama.check-prompt-differs", verdict, params)
    if not compared:
        return Check("ollama.check-prompt-broken", Verdict.FAILED, {"detail": next(str(e) for e in local)})
    return Check("ollama.check-prompt", Verdict.PASSED, {"count": compared})


def _same_prompt(own: str, served: str, candidate: Candidate) -> bool:
    """Equal, but for the one BOS that the tokenizer adds itself and the server therefore removes."""
    if own == served:
        return True
    bos = candidate.template.bos_token
    return bool(bos) and candidate.adds_bos and own.removeprefix(bos) == served


def describe_difference(
    own: str, served: str, *, names: tuple[str, str] = ("template", "served"), limit: int = 12
) -> str:
    """A short unified diff: `-` is the model's template, `+` what the server serves.

    Prompts that differ in line ends or invisible characters only are shown escaped.
    """
    before, after = own.splitlines(), served.splitlines()
    if before == after:
        before, after = (
            [repr(line) for line in own.splitlines(keepends=True)],
            [repr(line) for line in served.splitlines(keepends=True)],
        )
    lines = difflib.unified_diff(before, after, *names, lineterm="", n=1)
    return "\n".join(list(lines)[:limit])


def check_answer(client: OllamaClient, name: str, candidate: Candidate, card: ModelCard) -> tuple[Check, ...]:
    """A short answer must end by itself (`done_reason` "stop"), its prompt must have been read whole, and the
    model must be loaded with the context that is stored with it."""
    messages: Sequence[Message] = ({"role": "user", "content": "Answer with one word: yes or no?"},)
    try:
        answer = client.chat(name, messages, num_predict=ANSWER_TOKENS, temperature=0, seed=1)
    except RfctlError as error:
        return (Check("ollama.check-answer-failed", Verdict.FAILED, {"detail": explain_error(error)}),)
    params = {"tokens": answer.answer_tokens, "seconds": round(answer.seconds, 2)}
    ended = (
        Check("ollama.check-answer", Verdict.PASSED, params)
        if answer.done_reason == "stop"
        else Check("ollama.check-answer-length", Verdict.WARNED, params)
    )
    return ended, check_context(client, name, candidate, card, messages, answer.prompt_tokens)


def check_context(
    client: OllamaClient,
    name: str,
    candidate: Candidate,
    card: ModelCard,
    messages: Sequence[Message],
    read: int,
) -> Check:
    """For the model that has just answered `messages`: the context that it is loaded with against the one
    that is stored, and the tokens that the server read against those that the prompt has at least."""
    stored = card.parameters.get("num_ctx")
    if not isinstance(stored, int):
        return Check("ollama.check-context-missing", Verdict.WARNED)
    try:
        loaded = [item.context_length for item in client.running() if item.name.lower() == name.lower()]
        if loaded and loaded[0] is not None and loaded[0] < stored:
            params = {"num_ctx": stored, "served": loaded[0]}
            return Check("ollama.check-context-lower", Verdict.FAILED, params)
        least = measure_prompt(candidate, card, messages)
        if least is not None:
            check_whole(least, read, stored, model=name)
    except RfctlError as error:
        if error.id == "ollama.prompt-truncated":
            return Check("ollama.prompt-truncated", Verdict.FAILED, dict(error.params))
        return Check("ollama.check-context-unknown", Verdict.UNKNOWN, {"detail": explain_error(error)})
    if not loaded or loaded[0] is None:
        return Check("ollama.check-context-unknown", Verdict.UNKNOWN, {"detail": "/api/ps"})
    return Check("ollama.check-context", Verdict.PASSED, {"num_ctx": stored, "read": read})


def measure_prompt(candidate: Candidate, card: ModelCard, messages: Sequence[Message]) -> int | None:
    """The smallest number of tokens of the prompt that the model's own template makes of `messages`; None
    where the template or the vocabulary does not tell. Raises TemplateError."""
    if not candidate.template.text:
        return None
    preset: list[Message] = list(card.messages)
    if card.system and all(message["role"] != "system" for message in messages):
        preset.insert(0, {"role": "system", "content": card.system})
    (prompt,) = render_isolated(candidate.template, [[*preset, *messages]])
    return count_least(candidate, prompt) if isinstance(prompt, str) else None


def explain_error(error: RfctlError) -> str:
    """The message of an error with its detail, in English: it is stored with the result."""
    text = error.text("en")
    return f"{text.message} ({error.params['detail']})" if error.params.get("detail") else text.message
