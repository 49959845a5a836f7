"""What the tokenizer files promise beside the vocabulary that will be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfctl.converter.check_split import find_similar
from rfctl.converter.finding import Finding, Severity, shorten
from rfctl.converter.known_vocabulary import STAND_IN
from rfctl.converter.plan import Plan
from rfctl.converter.source import read_json
from rfctl.converter.support import REFERENCE_BUILD
from rfctl.converter.tokenizer import FILE as _FILE
from rfctl.converter.vocabulary import TokenType
from rfctl.core.error import RfctlError

_ADDED = "added_tokens.json"
_MOST_BYTES = 1 << 28
_MERGES, _TAIL = b'"merges":', 64


@dataclass(frozen=True)
class AddedTokens:
    """Tokens of the vocabulary by how a server treats them.

    control       number of control tokens: matched in templates, hidden in answers
    user_defined  number of added tokens that are ordinary text, matched anywhere
    unused        ids without a token
    """

    control: int = 0
    user_defined: int = 0
    unused: int = 0


def count_added(draft: Plan) -> AddedTokens:
    """The kinds of token in the vocabulary of `draft`."""
    types = draft.get("tokenizer.ggml.token_type")
    if types is None:
        return AddedTokens()
    counts = np.bincount(types, minlength=max(TokenType) + 1).tolist()
    return AddedTokens(counts[TokenType.CONTROL], counts[TokenType.USER_DEFINED], counts[TokenType.UNUSED])


def find_lost_tokens(path: Path, config: Mapping[str, Any], draft: Plan) -> list[Finding]:
    """Tokens that training added and that the written vocabulary does not have at their id."""
    tokens = draft.get("tokenizer.ggml.tokens") or ()
    types = draft.get("tokenizer.ggml.token_type")
    lost = []
    is_unread = False
    for content, id, file in _promised(path, config):
        if 0 <= id < len(tokens) and str(tokens[id]).startswith(STAND_IN):
            is_unread = True
            continue
        is_there = 0 <= id < len(tokens) and (types is None or types[id] != TokenType.UNUSED)
        if not is_there or _plain(tokens[id]) != _plain(content):
            lost.append((content, id, file))
    unread = [Finding("model.tokenizer-unread", Severity.WARN, {"file": _FILE})] if is_unread else []
    if not lost:
        return unread
    params = {
        "count": len(lost),
        "tokens": shorten([f"{content[:40]} ({id})" for content, id, _ in lost]),
        "file": lost[0][2],
    }
    return [*unread, Finding("model.added-token-lost", Severity.WARN, params)]


def find_paired_merges(path: Path) -> list[Finding]:
    """Merges written as pairs, the form that older importers cannot read."""
    if not (path / _FILE).is_file():
        return []
    try:
        with (path / _FILE).open("rb") as file:
            data = file.read(_MOST_BYTES)
    except OSError:
        return []
    # With the colon: "merges" alone may be half of a merge.
    begin = data.rfind(_MERGES)
    tail = data[begin + len(_MERGES) :][:_TAIL] if begin >= 0 else b""
    return describe_merges(has_pairs=b"".join(tail.split()).startswith(b"[["))


def describe_merges(*, has_pairs: bool) -> list[Finding]:
    """What merges written as pairs mean for importers."""
    return [Finding("model.merges-paired", Severity.INFO, {"file": _FILE})] if has_pairs else []


def find_similar_pre_tokenizers(path: Path, model_type: str) -> list[Finding]:
    """Where the hash of the pre-tokenizer is unknown: the known ones that split the same way."""
    try:
        document = read_json(path / _FILE)
    except RfctlError:
        return []
    names = find_similar(document.get("pre_tokenizer") if isinstance(document, dict) else None, model_type)
    if not names:
        return []
    params = {"nearest": names[0], "names": shorten(list(names)), "build": REFERENCE_BUILD}
    return [Finding("model.pre-tokenizer-similar", Severity.INFO, params)]


def _promised(path: Path, config: Mapping[str, Any]) -> Sequence[tuple[str, int, str]]:
    """(token, id, file) of added_tokens.json and of added_tokens_decoder in tokenizer_config.json."""
    found: dict[tuple[str, int], str] = {}
    decoder = config.get("added_tokens_decoder")
    for id, entry in decoder.items() if isinstance(decoder, dict) else ():
        content = entry.get("content") if isinstance(entry, dict) else None
        if isinstance(content, str) and str(id).isdecimal() and len(str(id)) < 10:
            found[content, int(id)] = "tokenizer_config.json"
    try:
        added = read_json(path / _ADDED, 1 << 26)
    except RfctlError:
        added = None
    for token, id in added.items() if isinstance(added, dict) else ():
        if type(id) is int:
            found.setdefault((token, id), _ADDED)
    return [(content, id, file) for (content, id), file in found.items()]


def _plain(token: str | bytes) -> str:
    if isinstance(token, bytes):
        token = token.decode("utf-8", errors="replace")
    token = token.replace("\u2581", " ")
    return token.strip() or token
