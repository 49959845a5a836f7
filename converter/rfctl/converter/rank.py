"""Byte-level BPE vocabularies kept as ranks: a line per token, its bytes in base64 and its rank.

That is the form of tiktoken's files. The merges, which GGUF wants, are not in it and follow from the ranks:
a token comes from the two parts that are left when its bytes are merged by all lower ranks. Rules:
`conversion/chatglm.py` ChatGLMModel.bpe and get_vocab_base of `conversion/base.py`, llama.cpp b11434.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from itertools import pairwise

from rfctl.converter.sentence import MODEL_FILE, list_added
from rfctl.converter.source import ModelSource, read_text
from rfctl.converter.vocabulary import (
    MAX_TOKENS,
    SPACE,
    TokenType,
    Vocabulary,
    check_size,
    is_special_looking,
)
from rfctl.core.error import RfctlError

_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2}[ \t]+[0-9]{1,9}\s")
_MAX_FILE = 128 * 1024 * 1024
# The work grows with the square of a token's length; real vocabularies stay a hundred times below this.
_MAX_WORK = 1 << 30


def holds_ranks(source: ModelSource) -> bool:
    """Does `tokenizer.model` begin like a file of ranks? (A SentencePiece model begins with a line end.)"""
    if not source.has(MODEL_FILE):
        return False
    try:
        with (source.path / MODEL_FILE).open("rb") as file:
            return _LINE.match(file.read(4096)) is not None
    except OSError as error:
        raise RfctlError("model.file-unreadable", file=MODEL_FILE, what=error.strerror or "?") from error


def read_ranks(source: ModelSource) -> dict[bytes, int]:
    """Bytes of every token -> rank, which is its id, in the order of the ranks.

    Raises RfctlError `model.tokenizer-malformed` and `model.file-unreadable`.
    """
    ranks: dict[bytes, int] = {}
    work = 0
    for number, line in enumerate((read_text(source.path / MODEL_FILE, _MAX_FILE) or "").splitlines(), 1):
        if not line.strip():
            continue
        try:
            encoded, rank = line.split()
            token, id = b64decode(encoded, validate=True), int(rank)
        except (ValueError, Error) as error:
            raise _malformed(f"line {number}") from error
        work += len(token) ** 2
        if not token or token in ranks or not 0 <= id < MAX_TOKENS or work > _MAX_WORK:
            raise _malformed(f"line {number}")
        ranks[token] = id
    if len(set(ranks.values())) != len(ranks):
        raise _malformed("a rank is used twice")
    return dict(sorted(ranks.items(), key=lambda item: item[1]))


def list_merges(ranks: dict[bytes, int]) -> list[bytes]:
    """The merges as GGUF has them, UTF-8, in the order of the tokens they make.

    A token that lower ranks do not lead to in two parts has no merge.
    """
    spelling = list_spellings()
    merges = []
    for token, rank in ranks.items():
        if len(token) == 1:
            continue
        parts = _split(ranks, token, rank)
        if len(parts) == 2:
            merges.append(" ".join(spell(spelling, part) for part in parts).encode())
    return merges


def read_rank_vocabulary(source: ModelSource, ranks: dict[bytes, int], size: int, pre: str) -> Vocabulary:
    """The tokens of `ranks` and the added ones of the small files, filled up to `size` with unused tokens.

    pre   what `tokenizer.ggml.pre` says: the pattern that splits texts is in the model's code, not in its
          files
    Raises RfctlError `model.vocabulary-too-small`, `model.config-invalid` and `model.tokenizer-malformed`.
    """
    size = check_size(size)
    spelling = list_spellings()
    by_id = {id: (spell(spelling, token), TokenType.NORMAL) for token, id in ranks.items()}
    for id, token, is_special in list_added(source):
        if is_special or is_special_looking(token):
            by_id[id] = token, TokenType.CONTROL
        else:
            by_id[id] = token.replace(SPACE, " "), TokenType.USER_DEFINED
    highest = max(by_id, default=0)
    if highest >= size:
        raise RfctlError(
            "model.vocabulary-too-small", vocab_size=size, highest=highest, token=by_id[highest][0]
        )
    entries = [by_id.get(id, (f"[PAD{id}]", TokenType.UNUSED)) for id in range(size)]
    return Vocabulary("gpt2", pre, [token for token, _ in entries], [int(kind) for _, kind in entries])


def list_spellings() -> list[str]:
    """The letter that stands for every byte in a byte-level vocabulary: its own where it can be seen, else
    one of those from U+0100 on, in turn.
    """
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in seen else next(hidden)) for byte in range(0x100)]


def spell(spelling: list[str], token: bytes) -> str:
    """`token` in the letters of a byte-level vocabulary."""
    return "".join([spelling[byte] for byte in token])


def _split(ranks: dict[bytes, int], token: bytes, limit: int) -> list[bytes]:
    """The parts of `token` after all merges that make a token of a rank below `limit`, lowest rank first."""
    parts = [token[at : at + 1] for at in range(len(token))]
    while len(parts) > 2:
        best, where = limit, -1
        for at, (left, right) in enumerate(pairwise(parts)):
            rank = ranks.get(left + right, limit)
            if rank < best:
                best, where = rank, at
        if where < 0:
            break
        parts[where : where + 2] = [parts[where] + parts[where + 1]]
    return parts


def _malformed(what: str) -> RfctlError:
    return RfctlError("model.tokenizer-malformed", file=MODEL_FILE, what=what)
