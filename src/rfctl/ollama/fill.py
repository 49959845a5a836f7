"""Proof that a model reads a prompt as long as its context: one is sent, and must be counted whole."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from rfctl.core.error import RfctlError
from rfctl.ollama.answer import ModelCard
from rfctl.ollama.candidate import Candidate
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.proof import Check, Verdict, explain_error, measure_prompt
from rfctl.ollama.template import Message, TemplateError
from rfctl.ollama.truncation import count_least

_PASSAGE = "Passage {number}: the pump of unit {number} is serviced every {days} days by team {team}. "
# The start of a prompt may be in the server's cache, and a real tokenizer needs a little more than the least.
_CACHED = 64
_SHARE = 0.9


def check_fill(client: OllamaClient, name: str, candidate: Candidate, card: ModelCard) -> Check:
    """Send a prompt of about nine tenths of the stored num_ctx and compare the tokens that were read.

    Takes as long as the server needs to read that many tokens: minutes without a GPU.
    """
    stored = card.parameters.get("num_ctx")
    if not isinstance(stored, int):
        return Check("ollama.check-context-missing", Verdict.WARNED)
    messages = _fill(candidate, int(stored * _SHARE))
    try:
        least = measure_prompt(candidate, card, messages) if messages else None
        if least is None:
            return Check("verify.fill-unknown", Verdict.UNKNOWN)
        answer = client.chat(name, messages, num_predict=1)
    except TemplateError as error:
        return Check("ollama.check-prompt-broken", Verdict.FAILED, {"detail": error.reason})
    except RfctlError as error:
        return Check(
            "verify.fill-refused", Verdict.FAILED, {"num_ctx": stored, "detail": explain_error(error)}
        )
    params = {"num_ctx": stored, "least": least, "read": answer.prompt_tokens}
    if answer.prompt_tokens + _CACHED < least:
        return Check("ollama.prompt-truncated", Verdict.FAILED, {**params, "model": name})
    return Check("verify.fill", Verdict.PASSED, {**params, "seconds": round(answer.seconds, 1)})


def _fill(candidate: Candidate, tokens: int) -> Sequence[Message]:
    """One question of about `tokens` tokens that no cache knows; empty where tokens cannot be counted."""
    start = f"[{secrets.token_hex(8)}] "
    per_passage = count_least(candidate, _PASSAGE.format(number=100, days=200, team=300))
    if not per_passage:
        return ()
    text = "".join(
        _PASSAGE.format(number=100 + number, days=200 + number % 700, team=300 + number % 600)
        for number in range(max(1, (tokens - 128) // per_passage))
    )
    return ({"role": "user", "content": start + text},)
