"""A model that a server has: what its file says, and whether a question to it was read whole."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rfctl.core.gguf_header import GgufError
from rfctl.ollama.answer import ModelCard
from rfctl.ollama.candidate import Candidate, candidate_of_info, read_candidate
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.proof import (
    measure_prompt,
)
from rfctl.ollama.template import Message, TemplateError
from rfctl.ollama.truncation import check_whole

_FROM = re.compile(r"^FROM\s+(.+?)\s*$", re.MULTILINE)


def find_candidate(
    client: OllamaClient, name: str, card: ModelCard, gguf: Path | None
) -> tuple[Candidate, str]:
    """What the model's file says, and where that was read: "file", "store" or "server".

    Raises GgufError for a `gguf` that is none, RfctlError `ollama.*`.
    """
    if gguf is not None:
        return read_candidate(gguf), "file"
    match = _FROM.search(card.modelfile)
    if match is not None and client.is_loopback:
        try:
            return read_candidate(Path(match[1])), "store"
        except (OSError, GgufError, ValueError):
            pass  # a server in a container, or of another user: ask it
    info: Mapping[str, Any] = client.show(name, verbose=True).model_info
    # A Go template never contains this; the file's own template is then not known.
    template = card.template if "{%" in card.template else ""
    return candidate_of_info(info, template), "server"


def check_asked(
    client: OllamaClient, name: str, messages: Sequence[Message], read: int, *, gguf: Path | None = None
) -> None:
    """After an answer to `messages`: raise RfctlError `ollama.prompt-truncated` when the `read` tokens that
    the server counted (`prompt_eval_count`) cannot be the whole prompt.

    messages: all that was asked, the system message included; gguf: as for `verify_model`. What cannot be
    measured passes.
    """
    card = client.show(name)
    stored = card.parameters.get("num_ctx")
    candidate, _ = find_candidate(client, name, card, gguf)
    with contextlib.suppress(TemplateError):
        least = measure_prompt(candidate, card, messages)
        if least is not None and isinstance(stored, int):
            check_whole(least, read, stored, model=name)
