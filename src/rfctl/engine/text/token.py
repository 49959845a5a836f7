"""Words of a text as the index and the ranking see them, after RAGFlow v0.27.0's tokeniser.

Full-width to half-width, lower case, everything that is neither letter nor digit separates, English words are
stemmed, Chinese is segmented (`fine` splits long words once more). Deviations: the segmenter's dictionary is
jieba's, not RAGFlow's, so some Chinese words are cut elsewhere; single pieces that happen to be a dictionary
word together are not joined again ("a.b@example.com"); traditional characters are not folded to simplified
ones. Without rjieba Chinese is indexed by pairs of characters; `tokenizer_name` tells indexes apart.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from rfctl.engine.text.stem import stem

_segmenter: Any = None
with contextlib.suppress(ImportError):  # no wheel for some platforms
    import rjieba

    _segmenter = rjieba

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUN = re.compile(rf"[{_HAN}]+|[^\W_{_HAN}]+")
_IS_HAN = re.compile(f"[{_HAN}]")
_SEPARATOR = "|"
# Marks are neither letters nor blanks, so what else this shortens separates words all the same.
_PILE = re.compile(r"([^\w\s\x00-\u02ff]{30})[^\w\s\x00-\u02ff]+")


def tokenizer_name() -> str:
    """Changes when an index has to be made anew."""
    return "rfctl-1-rjieba" if _segmenter is not None else "rfctl-1-bigram"


def coarse(text: str) -> str:
    """The words of a text, separated by blanks (RAGFlow: content_ltks)."""
    return " ".join(_tokens(text, long_words=True))


def fine(text: str) -> str:
    """The same with long Chinese words split (RAGFlow: content_sm_ltks)."""
    return " ".join(_tokens(text, long_words=False))


def index_text(
    content: str, *, title: str = "", keywords: Sequence[str] = (), questions: Sequence[str] = ()
) -> str:
    """What the full-text index stores for a chunk: its coarse words, a bar, further words to be found by.

    title: the file name. `content_words` takes the coarse words out again.
    """
    words = coarse(content)
    known = set(words.split())
    more = [word for word in (*fine(content).split(), *search_words(content)) if word not in known]
    for text in (title_text(title), *keywords, *questions):
        more += (*coarse(text).split(), *fine(text).split(), *search_words(text))
    return f"{words} {_SEPARATOR} {' '.join(dict.fromkeys(more))}".strip()


def content_words(tokens: str) -> str:
    """The coarse words of a chunk's content out of what `index_text` made."""
    return tokens.partition(_SEPARATOR)[0].strip()


def title_text(name: str) -> str:
    """The part of a file name that is indexed: without its extension."""
    head, dot, tail = name.rpartition(".")
    return head if dot and head and len(tail) <= 10 else name


def normalise(text: str) -> str:
    """Half-width and in lower case. Of marks piled up on one letter thirty are kept (UAX #15, stream-safe
    text): sorting them takes time that grows with the square of their number."""
    return unicodedata.normalize("NFKC", _PILE.sub(r"\1", text)).lower()


def is_han(text: str) -> bool:
    """True if the text holds a Chinese character."""
    return _IS_HAN.search(text) is not None


def _tokens(text: str, *, long_words: bool) -> Iterator[str]:
    for match in _RUN.finditer(normalise(text)):
        run = match.group()
        if not is_han(run):
            yield stem(run) if run.isascii() else run
        elif _segmenter is None:
            yield from _pairs(run)
        else:
            for word in _segmenter.cut(run):
                yield from [word] if long_words else _halve(word)


def _pairs(run: str) -> Iterator[str]:
    if len(run) == 1:
        yield run
    for index in range(len(run) - 1):
        yield run[index : index + 2]


def search_words(text: str) -> Iterator[str]:
    """Every dictionary word inside the Chinese words of a text, overlapping ones too."""
    for match in _RUN.finditer(normalise(text)):
        if is_han(match.group()) and _segmenter is not None:
            yield from _segmenter.cut_for_search(match.group())


def _halve(word: str) -> list[str]:
    """The dictionary words that make up a long word, if there are such; else the word.

    Matched greedily from both ends; the way with fewer pieces, then with fewer single characters wins.
    """
    if len(word) < 3:
        return [word]
    inner = {part for part in _segmenter.cut_for_search(word) if len(part) < len(word)}
    if not inner:
        return [word]
    forward: list[str] = []
    at = 0
    while at < len(word):
        forward.append(max((part for part in inner if word.startswith(part, at)), key=len, default=word[at]))
        at += len(forward[-1])
    backward: list[str] = []
    end = len(word)
    while end > 0:
        head = word[:end]
        backward.insert(
            0, max((part for part in inner if head.endswith(part)), key=len, default=word[end - 1])
        )
        end -= len(backward[0])
    return min(forward, backward, key=lambda parts: (len(parts), sum(len(part) == 1 for part in parts)))
