"""Vocabularies that many models share, known again by the bytes of tokenizer.json: what the check text of the
pre-tokenizer becomes is then recorded and need not be computed.

A tokenizer.json has two parts. The *head* (added tokens, normalizer, pre-tokenizer, post-processor) is what
training changes; the *body*, from the key "vocab" of the model to the end, stays as the base model has it and
is all but everything of its bytes. Which ids a text becomes depends on the body and on the *form*: the
normalizer, the pre-tokenizer and the settings of the model. Table: `data/known-vocabulary.json`, recorded by
`tests/converter/record_vocabulary.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

BEGIN_BYTES = 32 << 10
END_BYTES = 1 << 10
# How a token that stands in for one that was not read begins: no text has this character.
STAND_IN = "\ufdd0"
_DATA = Path(__file__).parent / "data" / "known-vocabulary.json"
_KEY = b'"vocab"'
_MOST_TRIES = 8
# Settings that say the same when they are absent, and one that moves no token. What is true when it is absent
# (tokenizers 0.22, pre_tokenizers/byte_level.rs and metaspace.rs) is said where a file does not say it.
_NEUTRAL = (None, False, "")
_TRUE_IF_ABSENT = {"ByteLevel": {"use_regex": True}, "Metaspace": {"split": True}}
_UNRELATED = "trim_offsets"


@dataclass(frozen=True)
class KnownVocabulary:
    """One vocabulary with the form at hand.

    name        what the table calls it
    size        tokens of the body; ids are 0 to size - 1
    ids         token ids of the check text without special tokens
    inside      added tokens that the check text holds, sorted: with others the ids would differ
    has_pairs   merges are written as pairs
    """

    name: str
    size: int
    ids: tuple[int, ...] = field(repr=False)
    inside: tuple[str, ...] = field(repr=False)
    has_pairs: bool


@dataclass(frozen=True)
class TokenizerHead:
    """tokenizer.json as far as it was read.

    document    the file with empty `vocab` and `merges`
    offset      where the body begins, bytes
    """

    document: Mapping[str, Any] = field(repr=False)
    offset: int


def read_head(data: bytes) -> TokenizerHead | None:
    """The head of the tokenizer.json that begins with `data`; None where it is not all there, or where the
    file is not built as the library writes it (`model` last, in it first the settings, then "vocab")."""
    offset = -1
    for _ in range(_MOST_TRIES):
        offset = data.find(_KEY, offset + 1)
        if offset < 0:
            return None
        try:
            document = json.loads(data[:offset] + b'"vocab":{},"merges":[]}}')
        except (ValueError, RecursionError):
            continue  # a token of that name, or a key elsewhere
        if isinstance(document, dict) and isinstance(document.get("model"), dict):
            return TokenizerHead(document, offset) if document["model"].get("vocab") == {} else None
    return None


def find_by_ends(head: TokenizerHead, begin: bytes, end: bytes, size: int) -> KnownVocabulary | None:
    """The vocabulary whose body has `size` bytes, begins with `begin` (BEGIN_BYTES of them) and ends with
    `end` (END_BYTES): a model that extends it has another length. All but proof; a conversion proves it.
    """
    key = (size, _digest(begin), _digest(end))
    for entry in _read_table():
        for body in entry["bodies"]:
            if (body["bytes"], body["begin"], body["end"]) == key:
                return _describe(entry, body, head.document)
    return None


def is_begin_known(begin: bytes) -> bool:
    """Does a vocabulary of the table begin like that? (Whether to ask for the end of the file.)"""
    digest = _digest(begin)
    return any(body["begin"] == digest for entry in _read_table() for body in entry["bodies"])


def find_by_body(data: bytes) -> KnownVocabulary | None:
    """The vocabulary of the whole tokenizer.json `data`, by the sha256 of its body: proof."""
    ends = {body["end"] for entry in _read_table() for body in entry["bodies"]}
    if _digest(data[-END_BYTES:]) not in ends:
        return None
    head = read_head(data)
    if head is None:
        return None
    digest = hashlib.sha256(memoryview(data)[head.offset :]).hexdigest()
    for entry in _read_table():
        for body in entry["bodies"]:
            if body["sha256"] == digest:
                return _describe(entry, body, head.document)
    return None


def hash_form(document: Mapping[str, Any]) -> str:
    """16 hex digits for what decides, beside vocabulary and merges, which ids a text becomes."""
    model = document.get("model")
    settings = model if isinstance(model, dict) else {}
    form = {
        "normalizer": document.get("normalizer"),
        "pre_tokenizer": document.get("pre_tokenizer"),
        "model": {key: value for key, value in settings.items() if key not in ("vocab", "merges")},
    }
    text = json.dumps(_plain(form), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _describe(
    entry: Mapping[str, Any], body: Mapping[str, Any], document: Mapping[str, Any]
) -> KnownVocabulary | None:
    forms = entry["forms"]
    form = hash_form(document)
    if form not in forms:
        return None
    inside = tuple(entry.get("inside", ()))
    return KnownVocabulary(
        entry["name"], entry["size"], tuple(forms[form]), inside, body["merges"] == "pairs"
    )


def _plain(value: Any) -> Any:
    """Without what says nothing, and with what is meant where nothing is said."""
    if isinstance(value, dict):
        kind = value.get("type")
        value = (_TRUE_IF_ABSENT.get(kind, {}) if isinstance(kind, str) else {}) | value
        plain = {key: _plain(item) for key, item in value.items() if key != _UNRELATED}
        return {key: item for key, item in plain.items() if not _is_neutral(item)}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _is_neutral(value: Any) -> bool:
    return any(value is item for item in _NEUTRAL[:2]) or value == _NEUTRAL[2]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


@cache
def _read_table() -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = json.loads(_DATA.read_text(encoding="utf-8"))["vocabularies"]
    return table
