"""What a vocabulary is here: tokens with types, and the pairs of a GGUF file that hold them.

Three kinds: "gpt2" (byte-level BPE, `tokenizer.py`), "bert" (WordPiece, `tokenizer.py`) and "llama"
(SentencePiece, `sentence.py`, or its tokenizer.json form, `tokenizer.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from rfctl.converter.pair import reals, sints, text, texts
from rfctl.converter.plan import KeyValue
from rfctl.core.error import RfctlError

MAX_TOKENS = 4_000_000
SPACE = "\u2581"  # how SentencePiece writes a space


class TokenType(IntEnum):
    """Types of tokens (llama.cpp `include/llama.h`, llama_token_type)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass
class Vocabulary:
    """Tokens by id.

    model    tokenizer.ggml.model
    pre      tokenizer.ggml.pre
    tokens   text of every id, 0 to the last row of the embedding
    types    TokenType of every id
    scores   SentencePiece scores, None for the other kinds
    """

    model: str
    pre: str
    tokens: list[str] = field(repr=False)
    types: list[int] = field(repr=False)
    scores: Sequence[float] | None = field(default=None, repr=False)

    def list_pairs(self) -> list[KeyValue]:
        """model, pre, tokens, scores, types."""
        pairs = [
            text("tokenizer.ggml.model", self.model),
            text("tokenizer.ggml.pre", self.pre),
            texts("tokenizer.ggml.tokens", self.tokens),
        ]
        if self.scores is not None:
            pairs.append(reals("tokenizer.ggml.scores", np.array(self.scores, dtype=np.float32)))
        pairs.append(sints("tokenizer.ggml.token_type", np.array(self.types, dtype=np.int32)))
        return pairs


def is_special_looking(token: str) -> bool:
    """Does the text of an added token say that it is a control token, although it is not marked as one?

    Rule: `conversion/base.py` does_token_look_special, b11434.
    """
    return (
        token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (token.startswith("<|") and token.endswith("|>"))
        or (token.startswith("<\uff5c") and token.endswith("\uff5c>"))
        or (token.startswith("<unused") and token.endswith(">"))
    )


def check_size(size: object) -> int:
    """`vocab_size` of the configuration as a sane number; raises RfctlError `model.config-invalid`."""
    if type(size) is not int or not 0 < size <= MAX_TOKENS:
        raise RfctlError("model.config-invalid", key="vocab_size", value=str(size)[:80])
    return size
