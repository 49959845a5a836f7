"""What llama.cpp calls the way a tokenizer splits text: `tokenizer.ggml.pre`, by the hash of a fixed text.

Rule: `conversion/base.py` get_vocab_base_pre, llama.cpp b11434. Table: `pre_tokenizer_table`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from rfctl.converter.pre_tokenizer_table import read_hashes
from rfctl.converter.tokenizer import TokenizerFile
from rfctl.core.error import RfctlError

# A letter that is a token of every byte-level vocabulary and of itself nothing special.
_LETTER = "a"


def find_pre_tokenizer(tokenizer: TokenizerFile) -> str:
    """Name of the pre-tokenizer, by the hash of a fixed text.

    Raises RfctlError `model.pre-tokenizer-unknown`.
    """
    digest = hash_pre_tokenizer(tokenizer)
    name = read_hashes()["hash"].get(digest)
    if name is None:
        raise RfctlError("model.pre-tokenizer-unknown", hash=digest)
    return str(name)


def hash_pre_tokenizer(tokenizer: TokenizerFile) -> str:
    """sha256 of the ids of the check text, written as Python writes a list."""
    if tokenizer.known is None:
        ids = tokenizer.encode(read_hashes()["check_text"])
    else:
        ids = _surround(tokenizer, tokenizer.known.ids)
    return hashlib.sha256(str(ids).encode()).hexdigest()


def _surround(tokenizer: TokenizerFile, ids: Sequence[int]) -> list[int]:
    """`ids` with the special tokens that the tokenizer puts around a text."""
    letter = tokenizer.encode(_LETTER, add_special=False)
    if len(letter) != 1:
        raise RfctlError("model.tokenizer-malformed", file="tokenizer.json", what=f"no token {_LETTER}")
    # A template may put the text anywhere, even nowhere or twice.
    around = tokenizer.encode(_LETTER)
    return [id for one in around for id in (ids if one == letter[0] else (one,))]
