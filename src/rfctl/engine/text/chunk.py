"""Cutting an extraction into chunks for retrieval.

A chunk never leaves its page, so that a citation names one page. Size and delimiters have the meaning of
RAGFlow v0.27.0's parser_config (`rag/nlp/__init__.py`, chunk method naive): lines and the pieces between
delimiters are put together up to chunk_token_num tokens. Deviations: tokens are counted by `count_tokens`
(RAGFlow: tiktoken cl100k_base), a chunk does not begin with a line break and ends with a sentence where that
keeps it at half its size, a piece much longer than a chunk is cut (RAGFlow keeps it whole), no overlap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rfctl.engine.text.extract import Extraction, Line

DEFAULT_TOKENS = 512
_CJK = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_UNIT = re.compile(rf"[{_CJK}]|[^\W\d_{_CJK}]+|\d+|[^\w\s]|_+")
_ENDING = re.compile(r"[.!?:;。！？：；]['\")\]”’）]*\s*$")
# A piece this much longer than a chunk is kept whole rather than cut.
_TOLERANCE = 1.5
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])")


@dataclass(frozen=True)
class ChunkText:
    """A chunk to be: its text, its places [[page, x0, x1, top, bottom], ...] (page 1-based, PDF points from
    the top left, whole numbers; empty for formats without pages) and its length in tokens."""

    content: str
    positions: tuple[tuple[int, int, int, int, int], ...]
    token_count: int


@dataclass(frozen=True)
class _Piece:
    text: str
    line: Line
    tokens: int
    joiner: str


def split(
    extraction: Extraction, chunk_token_num: int = DEFAULT_TOKENS, delimiter: str = "\n"
) -> tuple[ChunkText, ...]:
    """Chunks of about at most chunk_token_num tokens (as `count_tokens` counts), in reading order.

    delimiter: every character of it separates pieces; parts in backticks are separators of several
    characters, each of which begins a new chunk.
    """
    limit = max(1, chunk_token_num)
    cutters = re.findall(r"`([^`]+)`", delimiter)
    single = re.sub(r"`[^`]*`", "", delimiter).replace("\\n", "\n").replace("`", "")
    chunks: list[ChunkText] = []
    for page in extraction.pages:
        for group in _break(page.lines, cutters):
            number = page.number if page.width else 0
            chunks.extend(_pack(_pieces(group, single, limit), limit, number))
    return tuple(chunks)


def count_tokens(text: str) -> int:
    """An estimate of a language model's tokens: one for each CJK character or punctuation mark, one for each
    begun seven letters or three digits."""
    total = 0
    for match in _UNIT.finditer(text):
        unit = match.group()
        if unit[0].isdigit():
            total += -(-len(unit) // 3)
        elif unit[0].isalpha():
            total += -(-len(unit) // 7)
        else:
            total += 1
    return total


def _break(lines: Sequence[Line], cutters: Sequence[str]) -> list[list[Line]]:
    """Groups of lines, cut where one of the backtick separators stands (which is dropped)."""
    if not cutters:
        return [list(lines)]
    pattern = re.compile("|".join(re.escape(cutter.replace("\\n", "\n")) for cutter in cutters))
    groups: list[list[Line]] = [[]]
    for line in lines:
        for index, part in enumerate(pattern.split(line.text)):
            if index:
                groups.append([])
            if part.strip():
                groups[-1].append(Line(part.strip(), line.x0, line.x1, line.top, line.bottom))
    return groups


def _pieces(lines: Sequence[Line], delimiters: str, limit: int) -> Iterator[_Piece]:
    marks = "".join(char for char in delimiters if char != "\n")
    pattern = re.compile(f"(?<=[{re.escape(marks)}])") if marks else None
    for line in lines:
        joiner = "\n"
        for part in pattern.split(line.text) if pattern else [line.text]:
            for text in _shorten(part, limit):
                if text.strip():
                    yield _Piece(text, line, count_tokens(text), joiner)
                    joiner = ""


def _shorten(text: str, limit: int) -> Iterator[str]:
    """The text in parts of at most `limit` tokens, cut at sentence ends, else at words, else anywhere."""
    if count_tokens(text) <= limit * _TOLERANCE:
        yield text
        return
    # A text that ends with a sentence and a blank has nothing behind its last end.
    sentences = filter(None, _SENTENCE.split(text))
    units = [part for sentence in sentences for part in _words(sentence, limit)]
    part, size = "", 0
    for unit in units:
        length = count_tokens(unit)
        if part and size + length > limit:
            yield part
            part, size = "", 0
        part += unit if not part or _is_tight(part, unit) else " " + unit
        size += length
    if part:
        yield part


def _words(sentence: str, limit: int) -> Iterator[str]:
    if count_tokens(sentence) <= limit:
        yield sentence
        return
    for word in re.findall(rf"[{_CJK}]|[^\s{_CJK}]+", sentence):
        # A "word" can be a line of base64: cut by characters, of which a token has at most seven.
        step = max(1, limit)
        yield from (word[at : at + step] for at in range(0, len(word), step))


def _is_tight(left: str, right: str) -> bool:
    return bool(re.match(f"[{_CJK}。！？；，]", left[-1]) or re.match(f"[{_CJK}]", right[0]))


def _pack(pieces: Iterable[_Piece], limit: int, page: int) -> Iterator[ChunkText]:
    held: list[_Piece] = []
    size = 0
    for piece in pieces:
        if held and size + piece.tokens > limit:
            end = _last_sentence(held, limit)
            yield _join(held[:end], page)
            held = held[end:]
            size = sum(one.tokens for one in held)
            if held and size + piece.tokens > limit:
                yield _join(held, page)
                held, size = [], 0
        held.append(piece)
        size += piece.tokens
    if held:
        yield _join(held, page)


def _last_sentence(held: Sequence[_Piece], limit: int) -> int:
    """How many pieces to take so that a chunk of at least half the size ends with a sentence, else all."""
    for end in range(len(held), 0, -1):
        if _ENDING.search(held[end - 1].text):
            return end if sum(piece.tokens for piece in held[:end]) * 2 >= limit else len(held)
    return len(held)


def _join(pieces: Sequence[_Piece], page: int) -> ChunkText:
    size = sum(piece.tokens for piece in pieces)
    text = "".join(piece.joiner + piece.text for piece in pieces).strip()
    return ChunkText(text, _boxes([piece.line for piece in pieces], page), size)


def _boxes(lines: Sequence[Line], page: int) -> tuple[tuple[int, int, int, int, int], ...]:
    """One box for each run of lines that goes down the page; a step up begins another column."""
    boxes: list[list[float]] = []
    for line in lines:
        if not page or line.x1 <= line.x0:
            continue
        last = boxes[-1] if boxes else None
        beside = last is not None and (line.x0 > last[1] or line.x1 < last[0])
        if last is None or line.bottom < last[3] or beside:
            boxes.append([line.x0, line.x1, line.top, line.bottom])
        else:
            last[0], last[1] = min(last[0], line.x0), max(last[1], line.x1)
            last[2], last[3] = min(last[2], line.top), max(last[3], line.bottom)
    return tuple((page, *(round(value) for value in box)) for box in boxes)  # type: ignore[misc]
