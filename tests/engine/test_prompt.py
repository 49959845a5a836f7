"""Prompts fit the model, citations name chunks that say it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfctl.engine.ragflow import citation, prompt
from rfctl.engine.ragflow.chat_store import PARAMETERS, SYSTEM
from rfctl.engine.ragflow.prompt import Block, build, estimate
from rfctl.engine.text import token

USER = {"role": "user", "content": "What is the launch code name?"}


def make(blocks: list[Block], limit: int, messages: Any = None, **values: str) -> prompt.Prompt:
    return build(SYSTEM, PARAMETERS, values, blocks, messages or [USER], limit)


def test_the_recorded_form() -> None:
    built = make([Block("a.pdf", "\nFirst."), Block("b.pdf", "Second.")], 2000)
    system = built.messages[0]["content"]
    assert (
        "Here is the knowledge base:\n      \n------\n\nID: 0\n├── Title: a.pdf\n└── Content:\n\nFirst."
        "\n\n------\n\n\nID: 1\n├── Title: b.pdf\n└── Content:\n\nSecond.\n      The above" in system
    )
    assert built.messages[1:] == (USER,)
    assert built.used == 2


def test_without_a_place_for_the_knowledge_it_is_appended() -> None:
    built = build("Be brief. {json: 1}", [], {}, [Block("a", "text")], [USER], 500)
    assert built.system.startswith("Be brief. {json: 1}\n------\n")


def test_parameters() -> None:
    parameters = [{"key": "tone", "optional": False}, {"key": "place", "optional": True}]
    built = build("{tone} in {place}.", parameters, {"tone": "kind"}, [], [USER], 500)
    assert built.system == "kind in  ."
    with pytest.raises(KeyError, match="tone"):
        build("{tone}", parameters, {}, [], [USER], 500)


def test_the_lowest_chunks_go_first() -> None:
    blocks = [Block(f"{n}.pdf", f"chunk{n} " * 60) for n in range(6)]
    fitting = make(blocks, 600)
    assert 0 < fitting.used < 6
    assert estimate(fitting.messages) <= 600
    assert f"chunk{fitting.used - 1} " in fitting.system
    assert f"chunk{fitting.used} " not in fitting.system


def test_then_the_oldest_messages_then_the_end_of_the_chunk() -> None:
    history = [{"role": role, "content": f"old {role} " * 40} for role in ("user", "assistant")] + [USER]
    built = make([Block("a.pdf", "word " * 80)], 260, history)
    assert built.messages[1:] == (USER,)
    assert built.used == 1
    cut = make([Block("a.pdf", "word " * 400)], 260)
    assert cut.used == 1
    assert 20 < cut.system.count("word ") < 150
    assert estimate(cut.messages) <= 260


def test_a_question_that_cannot_fit_is_refused() -> None:
    with pytest.raises(prompt.TooLongError, match="64"):
        make([], 64, [{"role": "user", "content": "word " * 500}])


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 600), max_size=8),
    turns=st.integers(0, 4),
    limit=st.integers(40, 3000),
)
def test_what_is_built_fits(sizes: list[int], turns: int, limit: int) -> None:
    blocks = [Block("手册.pdf", "电池 battery 12 " * size) for size in sizes]
    history = [
        {"role": role, "content": "earlier text " * 20}
        for _ in range(turns)
        for role in ("user", "assistant")
    ]
    try:
        built = make(blocks, limit, [*history, USER])
    except prompt.TooLongError:
        return
    assert estimate(built.messages) <= limit
    assert built.messages[-1] == USER
    assert built.system.count("├── Title") == built.used


ANSWER = (
    "The code name is Bluebird. Nothing else matters here! ```\nprint('The code name is Bluebird.')\n``` Ok"
)


def test_sentences_give_the_answer_again() -> None:
    pieces = citation.split(ANSWER)
    assert "".join(piece.text for piece in pieces) == ANSWER
    assert [piece.text.strip() for piece in pieces if piece.is_text] == [
        "The code name is Bluebird.",
        "Nothing else matters here!",
    ]


@given(st.text(max_size=300))
def test_any_text_is_kept_by_splitting(text: str) -> None:
    assert "".join(piece.text for piece in citation.split(text)) == text


def test_marks_stand_behind_the_sentence_they_prove() -> None:
    pieces = citation.split(ANSWER)
    words = [
        token.coarse(text).split() for text in ("the code name is bluebird", "an unrelated pasta recipe")
    ]
    chunks = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
    vectors = np.array([[0.95, 0.1, 0], [0.1, 0.1, 0.9]], dtype=np.float32)
    marked, cited = citation.insert(pieces, vectors, words, chunks)
    assert marked == ANSWER.replace("is Bluebird. Nothing", "is Bluebird. [ID:0] Nothing")
    assert cited == {0}


def test_a_weak_likeness_is_cited_only_where_there_is_no_better() -> None:
    pieces = citation.split("First one here. Second one here.")
    chunks = np.array([[1, 0], [1, 0.001]], dtype=np.float32)
    words = [["x"], ["y"]]

    def cite(*vectors: tuple[float, float]) -> str:
        return citation.insert(pieces, np.array(vectors, dtype=np.float32), words, chunks)[0]

    assert cite((0.5, 0.86), (0.1, 0.99)) == "First one here. [ID:0] [ID:1] Second one here."
    assert cite((0.5, 0.86), (1, 0)) == "First one here. Second one here. [ID:0] [ID:1]"
    assert cite((0.2, 0.98), (0.1, 0.99)) == "First one here. Second one here."
    assert cite((1, 0), (1, 0)).count("[ID:") == 2


def test_marks_of_the_model_that_name_no_chunk_go() -> None:
    text, cited = citation.clean("A [ID:0]. B [ID:7] and [ID: 1] [ID:99999999999]", 2)
    assert text == "A [ID:0]. B and [ID: 1]"
    assert cited == {0, 1}
    assert citation.strip(text) == "A. B and"


def test_doubled_braces_are_single_ones_in_the_prompt() -> None:
    parameters = [{"key": "knowledge", "optional": False}, {"key": "date", "optional": True}]
    text = prompt._fill('JSON {{"a": {date}}} {x} {knowledge}', parameters, {"date": "{{today}}"})
    assert text == 'JSON {"a": {{today}}} {x} {knowledge}'
