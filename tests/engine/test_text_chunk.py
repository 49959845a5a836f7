"""Chunks: nothing lost, nothing too long, each on one page with its box."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rfctl.engine.text.chunk import count_tokens, split
from rfctl.engine.text.extract import Extraction, Line, Page, extract


def pages(*texts: str, width: float = 500) -> Extraction:
    return Extraction(
        tuple(
            Page(
                number,
                width,
                800,
                tuple(Line(line, 50, 400, 20 * n, 20 * n + 12) for n, line in enumerate(text.split("\n"))),
            )
            for number, text in enumerate(texts, 1)
        )
    )


def squeeze(text: str) -> str:
    return "".join(text.split())


def test_the_handbook(golden: Path) -> None:
    extraction = extract(golden / "ragflow" / "fixtures" / "handbook.pdf", "pdf")
    chunks = split(extraction, 64)
    assert [chunk.positions[0][0] for chunk in chunks] == [1, 1, 2, 2]
    assert chunks[0].content.startswith("Project Aurora Handbook\n1. Overview\n")
    assert chunks[0].content.endswith("spaceport.")
    assert chunks[1].content.startswith("The steering committee chose")
    assert all(chunk.token_count <= 64 for chunk in chunks)
    whole = "".join(line.text for page in extraction.pages for line in page.lines)
    assert squeeze("".join(chunk.content for chunk in chunks)) == squeeze(whole)
    for chunk in chunks:
        for page, x0, x1, top, bottom in chunk.positions:
            assert page in (1, 2)
            assert 0 < x0 < x1 < 596
            assert 0 < top < bottom < 843


def test_a_sentence_per_chunk_as_recorded(golden: Path) -> None:
    """The recorded corpus was cut with chunk_token_num 16: every sentence of it stays whole."""
    extraction = extract(golden / "ragflow" / "fixtures" / "corpus.txt", "txt")
    lines = [line.text for line in extraction.pages[0].lines]
    chunks = split(extraction, 16)
    assert [chunk.content for chunk in chunks] == lines
    assert all(chunk.positions == () for chunk in chunks)


def test_a_column_has_its_own_box() -> None:
    lines = [
        Line("left", 50, 250, 100, 112),
        Line("left too.", 50, 240, 120, 132),
        Line("right", 300, 500, 100, 112),
    ]
    (chunk,) = split(Extraction((Page(3, 600, 800, tuple(lines)),)), 100)
    assert chunk.positions == ((3, 50, 250, 100, 132), (3, 300, 500, 100, 112))


def test_delimiters() -> None:
    text = pages("One two three. Four five six! Seven.\nEight;nine")
    assert [chunk.content for chunk in split(text, 4, "\n.!")] == [
        "One two three.",
        "Four five six!",
        "Seven.",
        "Eight;nine",
    ]
    assert [chunk.content for chunk in split(text, 100, "`;`")] == [
        "One two three. Four five six! Seven.\nEight",
        "nine",
    ]
    assert len(split(text, 100)) == 1


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("a", 1), ("battery", 1), ("spaceport", 2), ("1234567", 3), ("电池 the.", 4), ("_ --", 3)],
)
def test_tokens(text: str, tokens: int) -> None:
    assert count_tokens(text) == tokens


WORDS = st.text(alphabet="ab. !？电池xyz0123456789", min_size=1, max_size=300)


@given(
    texts=st.lists(WORDS, min_size=1, max_size=4),
    limit=st.integers(1, 60),
    delimiter=st.sampled_from(["\n", "\n.", "？"]),
)
@example(texts=["0. "], limit=1, delimiter="\n")
@settings(deadline=None)
def test_nothing_is_lost_and_nothing_too_long(texts: list[str], limit: int, delimiter: str) -> None:
    extraction = pages(*texts)
    chunks = split(extraction, limit, delimiter)
    for number, text in enumerate(texts, 1):
        mine = [chunk for chunk in chunks if chunk.positions and chunk.positions[0][0] == number]
        assert squeeze("".join(chunk.content for chunk in mine)) == squeeze(text)
    for chunk in chunks:
        assert chunk.content.strip() == chunk.content
        assert {position[0] for position in chunk.positions} == {chunk.positions[0][0]}
        assert chunk.token_count <= max(limit * 1.5, limit + 1)


def test_hostile_texts_take_time_in_proportion() -> None:
    many = Extraction((Page(1, 0.0, 0.0, (Line("a"),) * 100_000),))
    begin = time.process_time()
    assert len(split(many, 2048)) == 49
    for text in ("a" * 500_000, ". " * 50_000, "." + "'" * 200_000 + "x", "_" * 200_000):
        split(Extraction((Page(1, 0.0, 0.0, (Line(text),)),)), 2048, "\n!")
    assert time.process_time() - begin < 10
