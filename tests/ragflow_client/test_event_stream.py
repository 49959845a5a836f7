"""The parser of server-sent events: however the bytes are cut, the events are the same."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfctl.ragflow_client.event_stream import EventParser, read_events
from rfctl.ragflow_client.failure import ServerError

lines = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30)
events = st.lists(st.lists(lines, min_size=1, max_size=3), max_size=6)
ends = st.sampled_from(["\n", "\r\n", "\r"])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({place % (len(data) + 1) for place in places})
    return [data[a:b] for a, b in zip([0, *marks], [*marks, len(data)], strict=True)]


@settings(max_examples=300, deadline=None)
@given(events, ends, st.lists(st.integers(0, 10_000), max_size=12))
def test_any_cut_gives_the_same_events(wanted: list[list[str]], end: str, places: list[int]) -> None:
    text = "".join(
        "".join(f"data: {line}{end}" for line in event) + f": note{end}id: 7{end}{end}" for event in wanted
    )
    assert list(read_events(cut(text.encode(), places))) == ["\n".join(event) for event in wanted]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_garbage_never_breaks_it_and_cuts_do_not_matter(data: bytes, places: list[int]) -> None:
    assert list(read_events(cut(data, places))) == list(read_events([data]))


def test_the_forms_that_servers_send() -> None:
    assert list(read_events([b"\xef\xbb\xbfdata:{}\n\n"])) == ["{}"]
    assert list(read_events([b"data:{}"])) == ["{}"]
    assert list(read_events([b"data:a\ndata:b\n\n", b"\n\n"])) == ["a\nb"]
    assert list(read_events([b"data\n\n"])) == [""]
    assert list(read_events([b"event: x\n\n"])) == []


def test_an_endless_event_is_refused() -> None:
    parser = EventParser(limit=1000)
    with pytest.raises(ServerError, match=r"ragflow\.answer-too-large"):
        for _ in range(100):
            parser.feed(b"data: " + b"x" * 50 + b"\n")
    with pytest.raises(ServerError, match=r"ragflow\.answer-too-large"):
        EventParser(limit=1000).feed(b"x" * 1001)


def test_a_flood_of_empty_lines_takes_time_in_proportion() -> None:
    begin = time.process_time()
    assert list(read_events([b"\n" * 500_000, b"data: a\n\n"])) == ["a"]
    assert time.process_time() - begin < 6
