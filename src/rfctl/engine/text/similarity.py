"""RAGFlow's similarity of a question and a chunk (v0.27.0, `rag/nlp/query.py` and `search.py`).

similarity = (1 - w) * term + w * vector. term: share of the question's weight that the chunk holds, over
single words (weight * 0.4) and neighbouring pairs written together (larger weight * 0.6). vector:
(1 + cosine) / 2, 0 for a negative cosine.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

DEFAULT_WEIGHT = 0.3
DEFAULT_THRESHOLD = 0.2
_WORD_SHARE = 0.4
_PAIR_SHARE = 0.6
_TINY = 1e-9


def make_units(keywords: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Units of a question (words and pairs) with their weights, from its weighted keywords in order."""
    units: dict[str, float] = {}
    for word, weight in keywords:
        units[word] = units.get(word, 0.0) + weight * _WORD_SHARE
    for (left, one), (right, other) in itertools.pairwise(keywords):
        units[left + right] = units.get(left + right, 0.0) + max(one, other) * _PAIR_SHARE
    return units


def chunk_words(
    content: str, title: str = "", keywords: Iterable[str] = (), questions: Iterable[str] = ()
) -> list[str]:
    """The chunk's side: arguments are coarse words separated by blanks. Content counts once, the title twice,
    important keywords five and questions six times (which matters for neighbouring pairs only)."""
    words = list(dict.fromkeys(content.split()))
    words += title.split() * 2
    words += [word for text in keywords for word in text.split()] * 5
    words += [word for text in questions for word in text.split()] * 6
    return words


def compare_terms(units: Mapping[str, float], words: Sequence[str]) -> float:
    """Term similarity, 0 to 1, of a question's units and a chunk's words."""
    found = set(words)
    found.update(map(operator.add, words, itertools.islice(words, 1, None)))
    hit = sum(weight for unit, weight in units.items() if unit in found)
    return (_TINY + hit) / (_TINY + sum(units.values()))


def compare_vectors(cosines: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vector similarity from cosines, elementwise."""
    return np.where(cosines < 0, 0, (1 + cosines) / 2).astype(np.float32)


def weigh(word: str) -> float:
    """Weight, before normalising, of a word that no dictionary knows: longer words are rarer and count more.

    Rule of RAGFlow's `term_weight.py`: 0.3 and 0.7 parts of two inverse frequencies, for which a word of n
    letters is taken to occur 300 / 2^((n-3)/2) times, at least 10; numbers count twice, one or two Latin
    letters hardly.
    """
    frequency = max(10, int(300 / 2 ** max(0.0, (len(word) - 3) / 2)))
    value = 0.3 * _rarity(frequency, 1e7) + 0.7 * _rarity(frequency, 1e9)
    if word.isascii() and word.isdigit() and len(word) > 1:
        return value * 2
    return value * 0.01 if word.isascii() and word.isalpha() and len(word) <= 2 else value


def _rarity(frequency: int, total: float) -> float:
    return math.log10(10 + (total - frequency + 0.5) / (frequency + 0.5))
