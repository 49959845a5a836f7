"""What a question asks the index for: its keywords with weights and a full-text expression.

After RAGFlow v0.27.0 `rag/nlp/query.py`, with these deviations: no synonyms (RAGFlow adds up to eight from
WordNet to each English word, which lowers its term similarity about three times), word frequencies are
assumed from the length, and a question treated as Chinese has no keyword for its whole text.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rfctl.engine.text import similarity, token

MAX_WORDS = 256
_LATIN = re.compile(r"[a-zA-Z]+")


@dataclass(frozen=True)
class Query:
    """
    keywords    words in the question's order with weights that sum to 1
    units       what `similarity.compare_terms` takes
    expression  FTS5 MATCH expression, "" if the question has no words
    terms       every word that the expression looks for
    least       how many keywords a chunk must hold (RAGFlow: 30 % for questions treated as Chinese)
    """

    text: str
    keywords: tuple[tuple[str, float], ...]
    units: dict[str, float]
    expression: str
    terms: frozenset[str]
    least: int


def analyse(text: str) -> Query:
    """The Query of a question in any language; empty for a text without words."""
    words = _words(text)
    weights = [similarity.weigh(word) for word in words]
    total = sum(weights) or 1.0
    keywords = tuple((word, weight / total) for word, weight in zip(words, weights, strict=True))
    terms = dict.fromkeys(words)
    for word in words:
        if token.is_han(word):
            terms |= dict.fromkeys((*token.fine(word).split(), *token.search_words(word)))
    return Query(
        text=text,
        keywords=keywords,
        units=similarity.make_units(keywords),
        expression=" OR ".join(f'"{term}"' for term in terms),
        terms=frozenset(terms),
        least=max(1, int(len(words) * 0.3)) if is_chinese(text) else 1,
    )


def is_chinese(text: str) -> bool:
    """RAGFlow's rule: three or fewer words between blanks, or 70 % of them are not purely Latin letters."""
    parts = text.split()
    if len(parts) <= 3:
        return True
    other = sum(1 for part in parts if not _LATIN.fullmatch(part))
    return other / len(parts) >= 0.7


def _words(text: str) -> list[str]:
    text = token.normalise(text)
    english, chinese = _fillers()
    short = chinese.sub(" ", text)
    kept = " ".join(part for part in re.findall(r"\w+", short) if part not in english)
    # A question of nothing but such words is searched as it stands.
    return (token.coarse(kept) or token.coarse(text)).split()[:MAX_WORDS]


@cache
def _fillers() -> tuple[frozenset[str], re.Pattern[str]]:
    with Path(__file__).with_name("query_word.toml").open("rb") as file:
        lists = tomllib.load(file)
    chinese = sorted(lists["chinese"], key=len, reverse=True)
    return frozenset(lists["english"]), re.compile("|".join(map(re.escape, chinese)))
