"""Citations for answers that came without: which passage a sentence is worded after.

A server that streams does not tell which passages it would cite for a model that cites none itself (RAGFlow
0.27, dialog_service.py: the last frame of a stream is emptied), and small models hardly ever do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

from rfctl.ragflow_client.evaluation import SENTENCE, words
from rfctl.ragflow_client.reference import Source

# Shares of a sentence's words, and of its pairs of neighbours, that stand in the passage too. Pairs tell a
# passage about the same thing from one in the same language: Chinese is compared by the character.
MIN_WORDS = 0.6
MIN_PAIRS = 0.3
MIN_LENGTH = 4


def cite_by_words(text: str, sources: Sequence[Source]) -> tuple[str, tuple[Source, ...]]:
    """The answer with `[n]` behind each sentence that follows a passage, and the sources, cited ones first.

    Unchanged where no sentence does; code and tables are left alone.
    """
    passages = [_Wording(source.content) for source in sources]
    order: list[int] = []
    lines = []
    is_code = False
    for line in text.split("\n"):
        if line.lstrip().startswith(("```", "~~~")):
            is_code = not is_code
        elif not is_code and not line.lstrip().startswith("|"):
            line = SENTENCE.sub(lambda found: _cite(found[0], passages, order), line)
        lines.append(line)
    if not order:
        return text, tuple(sources)
    rest = [index for index in range(len(sources)) if index not in order]
    numbered = tuple(
        dataclasses.replace(sources[index], number=place, cited=place <= len(order))
        for place, index in enumerate([*order, *rest], start=1)
    )
    return "\n".join(lines), numbered


class _Wording:
    """Words and pairs of neighbouring words of a text."""

    def __init__(self, text: str) -> None:
        self.sequence = words(text)
        self.words = set(self.sequence)
        self.pairs = set(pairwise(self.sequence))

    def follow(self, said: _Wording) -> float:
        """How much of `said` is here, 0-1; 0 below the bounds."""
        if len(said.sequence) < MIN_LENGTH:
            return 0.0
        known = len(said.words & self.words) / len(said.words)
        joined = len(said.pairs & self.pairs) / len(said.pairs)
        return (known + joined) / 2 if known >= MIN_WORDS and joined >= MIN_PAIRS else 0.0


def _cite(sentence: str, passages: Sequence[_Wording], order: list[int]) -> str:
    said = _Wording(sentence)
    scores = [passage.follow(said) for passage in passages]
    best = max(scores, default=0.0)
    if best == 0.0:
        return sentence
    index = scores.index(best)
    if index not in order:
        order.append(index)
    return f"{sentence} [{order.index(index) + 1}]"
