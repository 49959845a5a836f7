"""The two ends of a large tokenizer.json of a hub repository: enough to know a vocabulary that many models
share.

The file that is left in the folder is a valid one with the real head; in the place of the vocabulary stand
the first real tokens, and for the others names that no text contains.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rfctl.converter.hub_reader import HubReader
from rfctl.converter.known_vocabulary import (
    BEGIN_BYTES,
    END_BYTES,
    STAND_IN,
    KnownVocabulary,
    TokenizerHead,
    find_by_ends,
    is_begin_known,
    read_head,
)
from rfctl.converter.source import HeadOnly
from rfctl.converter.tokenizer import FILE
from rfctl.core.error import RfctlError

# A file of this size is read whole: two more requests take as long.
WHOLE_BYTES = 2 << 20
# The head ends in the first step; with thousands of added tokens (1.2 MB in Gemma 3) in the second.
_STEPS = (128 << 10, 1344 << 10, 4 << 20)
_MOST_CUTS = 8


def fetch_ends(reader: HubReader, folder: Path, size: int, *, limit: int, has_other: bool) -> HeadOnly | None:
    """Read as much of the tokenizer.json of `size` bytes as tells its vocabulary; all where that is not known
    (None is returned then), unless the repository has another file with the vocabulary (`has_other`).

    Raises RfctlError `hub.*`; `hub.file-large` where all is more than `limit` bytes.
    """
    data, head = b"", None
    for step in _STEPS:
        piece = reader.read(FILE, len(data), min(step, size))
        data += piece.data if piece is not None else b""
        head = read_head(data)
        if head is not None and len(data) >= min(size, head.offset + BEGIN_BYTES):
            break
    known = None if head is None else _recognise(reader, data, head, size)
    if head is None or (known is None and not has_other):
        complete_tokenizer(reader, folder, limit, data)
        return None
    _write_stand_in(folder / FILE, data, head, known)
    return HeadOnly(known)


def complete_tokenizer(reader: HubReader, folder: Path, limit: int, begin: bytes = b"") -> None:
    """Fetch the whole tokenizer.json, of which `begin` is there. Raises RfctlError `hub.*`."""
    piece = reader.read(FILE, len(begin), limit + 1)
    data = begin + (piece.data if piece is not None else b"")
    if len(data) > limit:
        raise RfctlError("hub.file-large", file=FILE, limit=limit)
    (folder / FILE).write_bytes(data)


def _recognise(reader: HubReader, data: bytes, head: TokenizerHead, size: int) -> KnownVocabulary | None:
    begin = data[head.offset : head.offset + BEGIN_BYTES]
    if len(begin) < BEGIN_BYTES or not is_begin_known(begin):
        return None
    piece = reader.read(FILE, size - END_BYTES, size)
    return None if piece is None else find_by_ends(head, begin, piece.data, size - head.offset)


def _write_stand_in(path: Path, data: bytes, head: TokenizerHead, known: KnownVocabulary | None) -> None:
    model: dict[str, Any] = dict(head.document["model"])
    if known is not None:
        first = _list_first(data[head.offset : head.offset + BEGIN_BYTES])
        # Added tokens that are in the vocabulary as well must be found there under their id.
        tokens = {id: token for token, id in [*_list_added(head), *first.items()] if id < known.size}
        model["vocab"] = {tokens.get(id, f"{STAND_IN}{id}"): id for id in range(known.size)}
    path.write_text(json.dumps({**head.document, "model": model}), "utf-8")


def _list_added(head: TokenizerHead) -> list[tuple[str, int]]:
    entries = head.document.get("added_tokens")
    return [
        (entry["content"], entry["id"])
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and type(entry.get("id")) is int
    ]


def _list_first(begin: bytes) -> dict[str, int]:
    """The tokens at the beginning of a vocabulary; {} where that is not as the library writes it."""
    text, end = begin.decode("utf-8", "ignore"), len(begin)
    for _ in range(_MOST_CUTS):  # a comma may be a token, or in one
        end = text.rfind(",", 0, end)
        try:
            found = json.loads("{" + text[:end] + "}}")["vocab"]
        except (ValueError, KeyError):
            continue
        return (
            {token: id for id, token in enumerate(found)} if [*found.values()] == [*range(len(found))] else {}
        )
    return {}
