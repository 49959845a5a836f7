"""Whether a server read the whole prompt.

A server that renders a Go template cuts a prompt that is longer than its context to half of it and answers as
if nothing were missing; old turns of a conversation are dropped by every server (Ollama v0.33.0-rc2,
llm/llama_server.go, server/prompt.go). The number of tokens that it says it read gives it away: no tokenizer
with this vocabulary can write the prompt in fewer tokens than the shortest row of them that spells it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from rfctl.core.error import RfctlError
from rfctl.ollama.candidate import Candidate

# How many more tokens than the shortest row a real tokenizer makes, at most, for text that people write. It
# only decides whether a low count can come from a cut or is that of a prompt that was partly in the cache.
_SLACK = 1.25
MAX_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class _Vocabulary:
    tokens: frozenset[str]
    lengths: tuple[int, ...]
    is_bytes: bool


def count_least(candidate: Candidate, prompt: str) -> int | None:
    """The smallest number of tokens that spell `prompt`; None for a vocabulary whose form is not known here
    (WordPiece, Unigram) or a prompt above 1 Mi characters."""
    if candidate.tokenizer not in ("gpt2", "llama") or not candidate.vocabulary:
        return None
    if len(prompt) > MAX_CHARACTERS:
        return None
    vocabulary = _open_vocabulary(candidate.vocabulary, candidate.tokenizer == "gpt2")
    text = prompt if not vocabulary.is_bytes else "".join(_BYTES[byte] for byte in prompt.encode())
    if not vocabulary.is_bytes:
        text = text.replace(" ", "▁")
    # Special tokens stand in the file as they are written.
    marks = {_spell(item, vocabulary.is_bytes) for item in candidate.special_tokens}
    lengths = sorted({*vocabulary.lengths, *(len(mark) for mark in marks)})
    best = [0] * (len(text) + 1)
    for end in range(1, len(text) + 1):
        least = best[end - 1] + 1
        for length in lengths[1:] if lengths and lengths[0] == 1 else lengths:
            if length > end:
                break
            if best[end - length] + 1 < least:
                piece = text[end - length : end]
                if piece in vocabulary.tokens or piece in marks:
                    least = best[end - length] + 1
        best[end] = least
    # SentencePiece may put a blank in front of every stretch of plain text and so save a token there.
    stretches = 0 if vocabulary.is_bytes else 1 + sum(text.count(mark) for mark in marks if mark)
    return max(0, best[-1] - stretches)


def check_whole(least: int, read: int, num_ctx: int, *, model: str) -> None:
    """Raise RfctlError `ollama.prompt-truncated` when a server that says it read `read` tokens (its
    `prompt_eval_count`, 0: not said) cannot have read a prompt of at least `least` tokens, which is near or
    above `num_ctx`."""
    if read and read < least and least * _SLACK >= num_ctx:
        raise RfctlError("ollama.prompt-truncated", model=model, read=read, least=least, num_ctx=num_ctx)


@lru_cache(maxsize=2)
def _open_vocabulary(tokens: tuple[str, ...], is_bytes: bool) -> _Vocabulary:
    known = frozenset(token for token in tokens if token)
    return _Vocabulary(known, tuple(sorted({len(token) for token in known})), is_bytes)


def _spell(text: str, is_bytes: bool) -> str:
    return "".join(_BYTES[byte] for byte in text.encode()) if is_bytes else text.replace(" ", "▁")


def _byte_letters() -> tuple[str, ...]:
    """One printable letter per byte, as byte-level vocabularies spell their tokens (GPT-2, encoder.py)."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, extra = [], 0
    for byte in range(256):
        letters.append(chr(byte) if byte in plain else chr(256 + extra))
        extra += byte not in plain
    return tuple(letters)


_BYTES = _byte_letters()
