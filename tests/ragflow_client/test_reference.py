"""Citation marks: numbered in order of appearance, the same in one piece and in a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfctl.ragflow_client.answer import join_frames
from rfctl.ragflow_client.failure import ServerError
from rfctl.ragflow_client.record import number, whole
from rfctl.ragflow_client.reference import MarkWriter, number_sources, read_source

CHUNKS: list[dict[str, Any]] = [
    {
        "document_name": f"d{number}.pdf",
        "content": f" c{number} ",
        "similarity": 0.5,
        "positions": [[number + 1, 10, 90, 20, 40], [number + 2, 10, 90, 5, 9]],
    }
    for number in range(4)
]


def stream(text: str, places: list[int], limit: int = 4) -> str:
    shown: list[str] = []
    writer = MarkWriter(shown.append, limit)
    marks = sorted({place % (len(text) + 1) for place in places})
    for start, end in zip([0, *marks], [*marks, len(text)], strict=True):
        writer.write(text[start:end])
    writer.finish()
    return "".join(shown)


@pytest.mark.parametrize(
    ("answer", "text", "cited"),
    [
        ("A [ID:2]. B [ID:0][ID:2].", "A [1]. B [2][1].", ["d2.pdf", "d0.pdf"]),
        ("No mark.", "No mark.", []),
        ("Beyond [ID:4] and [ID:99].", "Beyond and.", []),
        ("Loose [id: 1] (ID:3) ##0$$", "Loose [1] [2] [3]", ["d1.pdf", "d3.pdf", "d0.pdf"]),
        ("Line\n[ID:1]", "Line\n[1]", ["d1.pdf"]),
        ("Not a mark: [1], [ID], (ID), ##", "Not a mark: [1], [ID], (ID), ##", []),
    ],
)
def test_marks_become_numbers(answer: str, text: str, cited: list[str]) -> None:
    rewritten, sources = number_sources(answer, CHUNKS)
    assert rewritten == text
    assert [one.document for one in sources if one.cited] == cited
    assert [one.number for one in sources] == [1, 2, 3, 4]
    assert sorted(one.document for one in sources) == ["d0.pdf", "d1.pdf", "d2.pdf", "d3.pdf"]
    assert stream(answer, list(range(len(answer)))) == text


pieces = st.sampled_from(
    ["[ID:1]", "[ID:3]", "[ID:9]", "(ID: 2)", "##0$$", "[", "[I", "(", "#", " ", "\n", "词", "a1"]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(pieces, max_size=12).map("".join), st.lists(st.integers(0, 200), max_size=8))
def test_any_cut_of_a_stream_shows_the_same_text(answer: str, places: list[int]) -> None:
    assert stream(answer, places) == number_sources(answer, CHUNKS)[0]


def test_pages_and_boxes() -> None:
    source = read_source(CHUNKS[0], 1)
    assert (source.pages, source.content) == ((1, 2), "c0")
    assert source.box is not None
    assert (source.box.page, source.box.left, source.box.bottom) == (1, 10.0, 40.0)
    assert source.boxes[0] == source.box
    assert [box.page for box in source.boxes] == [1, 2]
    for bad in (None, "x", [[1]], [[1, 2, 3, 4, "5"]], [[True, 1, 2, 3, 4]], [[0, 1, 2, 3, 4]], [7]):
        found = read_source({"document_name": "a.pdf", "positions": bad, "similarity": "high"}, 1)
        assert (found.pages, found.box, found.similarity) == ((), None, 0.0)
    assert read_source({"document_name": "a.txt", "positions": [[1, 0, 0, 0, 0]]}, 1).pages == ()


REFERENCE = {"chunks": [{"id": "1"}]}
EMPTY: dict[str, Any] = {"chunks": []}


@pytest.mark.parametrize(
    "frames",
    [
        # up to 0.23: the whole text in each frame
        [{"answer": "Hel"}, {"answer": "Hello"}, {"answer": "Hello", "reference": REFERENCE}],
        # 0.24, 0.26.4 and later: new text, the last frame is empty
        [
            {"answer": "Hel", "final": False, "reference": EMPTY},
            {"answer": "lo", "final": False},
            {"answer": "", "final": True, "reference": REFERENCE},
        ],
        # 0.25.0 to 0.26.0: new text, the last frame has all of it
        [
            {"answer": "Hel", "final": False},
            {"answer": "lo", "final": False},
            {"answer": "Hello", "final": True, "reference": REFERENCE},
        ],
        # a fixed answer comes twice
        [{"answer": "Hello", "final": False}, {"answer": "Hello", "final": True, "reference": REFERENCE}],
    ],
)
def test_streams_of_every_version_give_one_text(frames: list[dict[str, Any]]) -> None:
    shown: list[str] = []
    whole, reference = join_frames(frames, shown.append)
    assert (whole, "".join(shown), reference) == ("Hello", "Hello", REFERENCE)


def test_thoughts_are_kept_apart_and_errors_raised() -> None:
    shown: list[str] = []
    whole, _ = join_frames(
        [
            {"answer": "", "final": False, "start_to_think": True},
            {"answer": "hmm", "final": False},
            {"answer": "", "final": False, "end_to_think": True},
            {"answer": "Hello", "final": False},
            {"answer": "", "final": True},
        ],
        shown.append,
    )
    assert (whole, shown) == ("<think>hmm</think>Hello", ["Hello"])
    with pytest.raises(ServerError, match=r"chat\.model-failed"):
        join_frames([{"answer": "**ERROR**: model not found", "final": False}])


@pytest.mark.parametrize("text", ["Infinity", "-Infinity", "NaN", "1e999", "1" + "0" * 400, "true", '"1"'])
def test_numbers_that_are_none(text: str) -> None:
    """Python's JSON takes them all, and what is counted with them would end in a traceback."""
    value = json.loads(text)
    assert (whole({"a": value}, "a"), number({"a": value}, "a")) == (0, 0.0)
    chunk = {"content": "text", "document_name": "a.pdf", "positions": [[value, 1, 2, 3, 4]]}
    _, sources = number_sources("[ID:0] and [ID:" + "9" * 5000 + "]", [chunk])
    assert len(sources) == 1
