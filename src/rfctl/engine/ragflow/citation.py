"""Marks [ID:n] in answers, set by similarity (RAGFlow v0.27.0 `rag/nlp/search.py` insert_citations).

Small models seldom cite, and cite wrongly: marks of the model's that name no chunk are taken out, and an
answer without any gets them by comparing its sentences with the chunks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfctl.engine.text import query, similarity

# Share of words in the comparison of a sentence and a chunk; the rest is the cosine.
_TERM_SHARE = 0.1
_FIRST_THRESHOLD = 0.63
_LAST_THRESHOLD = 0.3
_FALL = 0.8
_NEAR = 0.99
_MOST = 4
_SHORTEST = 5
_MARK = re.compile(r"\s?\[ID:\s*(\d+)\]")
_FENCE = re.compile(r"(```.*?(?:```|\Z))", re.DOTALL)
_SENTENCE = re.compile(r".*?(?:[。！？；]|[.!?;](?=\s|$)|\n|$)", re.DOTALL)


@dataclass(frozen=True)
class Sentence:
    """A piece of the answer; is_text: prose of at least five characters."""

    text: str
    is_text: bool


def clean(answer: str, chunks: int) -> tuple[str, set[int]]:
    """The answer without marks of chunks that there are not, and the numbers that are left."""
    found = set[int]()

    def keep(match: re.Match[str]) -> str:
        number = int(match[1]) if len(match[1]) < 9 else chunks
        if number >= chunks:
            return ""
        found.add(number)
        return match[0]

    return _MARK.sub(keep, answer), found


def strip(text: str) -> str:
    """A text without marks."""
    return _MARK.sub("", text)


def split(answer: str) -> list[Sentence]:
    """Pieces that joined give the answer again; code fences stay whole and are no text."""
    pieces = []
    for part in _FENCE.split(answer):
        if part.startswith("```"):
            pieces.append(Sentence(part, False))
            continue
        pieces += [
            Sentence(sentence, len(sentence.strip()) >= _SHORTEST)
            for sentence in _SENTENCE.findall(part)
            if sentence
        ]
    return pieces


def insert(
    sentences: Sequence[Sentence],
    vectors: NDArray[np.float32],
    words: Sequence[Sequence[str]],
    chunk_vectors: NDArray[np.float32],
) -> tuple[str, set[int]]:
    """The answer with marks, and the numbers of the chunks that it cites.

    vectors: float32 (number of pieces that are text, dimension); words: `similarity.chunk_words` of each
    chunk; chunk_vectors: float32 (number of chunks, dimension).
    """
    places = [place for place, sentence in enumerate(sentences) if sentence.is_text]
    if not places or not len(chunk_vectors) or vectors.shape[-1] != chunk_vectors.shape[-1]:
        return "".join(sentence.text for sentence in sentences), set()
    scores = (1 - _TERM_SHARE) * _cosines(vectors, chunk_vectors)
    for row, place in enumerate(places):
        units = query.analyse(sentences[place].text).units
        scores[row] += [
            _TERM_SHARE * similarity.compare_terms(units, chunk) if units else 0 for chunk in words
        ]
    marks: dict[int, list[int]] = {}
    threshold = _FIRST_THRESHOLD
    while not marks and threshold > _LAST_THRESHOLD:
        marks = {place: _choose(scores[row], threshold) for row, place in enumerate(places)}
        marks = {place: numbers for place, numbers in marks.items() if numbers}
        threshold *= _FALL
    return _write(sentences, marks)


def _choose(scores: NDArray[np.float32], threshold: float) -> list[int]:
    best = float(scores.max())
    if best < threshold:
        return []
    order = [int(number) for number in np.argsort(-scores) if scores[number] >= best * _NEAR]
    return sorted(order[:_MOST])


def _write(sentences: Sequence[Sentence], marks: dict[int, list[int]]) -> tuple[str, set[int]]:
    seen = set[int]()
    text = ""
    for place, sentence in enumerate(sentences):
        fresh = [number for number in marks.get(place, []) if number not in seen]
        seen.update(fresh)
        body = sentence.text.rstrip()
        text += body + "".join(f" [ID:{number}]" for number in fresh) + sentence.text[len(body) :]
    return text, seen


def _cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.where(lengths == 0, 1, lengths), dtype=np.float32)

    return np.asarray(unit(left) @ unit(right).T, dtype=np.float32)
