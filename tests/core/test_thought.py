"""Thoughts are told apart however the text is cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from rfctl.core.thought import Mark, ThoughtSplitter

TEXT = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "</", "think>", "thin", "a", " ", "\n", "思"])
).map("".join)


@given(TEXT, st.lists(st.integers(0, 40)))
def test_pieces_and_the_whole_give_the_same(text: str, cuts: list[int]) -> None:
    def split(pieces: list[str]) -> list[tuple[bool, str | Mark]]:
        splitter = ThoughtSplitter()
        told: list[tuple[bool, str | Mark]] = []
        for part in [part for piece in pieces for part in told_by(splitter, piece)]:
            thinking, text = part
            if told and isinstance(text, str) and isinstance(last := told[-1][1], str):
                told[-1] = (thinking, last + text)
            else:
                told.append(part)
        return told

    def told_by(splitter: ThoughtSplitter, piece: str) -> Iterator[tuple[bool, str | Mark]]:
        parts = splitter.feed(piece) if piece else splitter.finish()
        for part in parts:
            yield splitter.is_thinking, part

    places = sorted({0, len(text), *(cut for cut in cuts if cut <= len(text))})
    pieces = [text[begin:end] for begin, end in itertools.pairwise(places)] + [""]
    assert split(pieces) == split([text, ""])
    assert "".join(part if isinstance(part, str) else part.value for _, part in split(pieces)) == text


def test_a_tag_in_two_pieces() -> None:
    splitter = ThoughtSplitter()
    assert list(splitter.feed("<thi")) == []
    assert list(splitter.feed("nk>hmm</")) == [Mark.OPEN, "hmm"]
    assert list(splitter.feed("think>Yes <th")) == [Mark.CLOSE, "Yes "]
    assert list(splitter.finish()) == ["<th"]
