"""Words: equal to RAGFlow's where its dictionary does not decide."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfctl.engine.text import query, token
from rfctl.engine.text.stem import stem

# What RAGFlow's own dictionary and tables decide otherwise (docstring of `text.token`).
OTHER_DICTIONARY = {
    "U.S.A. e-mail: a.b@example.com",
    "極光專案",
    "Qwen2.5-1.5B模型",
}
OTHER_FINE = OTHER_DICTIONARY | {"锂电池应该如何存放？"}


@pytest.fixture(scope="session")
def tokens(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "ragflow" / "retrieval" / "tokens.json").read_text(encoding="utf-8"))


def test_recorded_texts(tokens: dict[str, Any]) -> None:
    texts = {one["text"]: one for one in tokens["texts"]}
    assert {text for text in texts if token.coarse(text) != texts[text]["tokenize"]} == OTHER_DICTIONARY
    assert {text for text in texts if token.fine(text) != texts[text]["fine_grained"]} == OTHER_FINE


def test_recorded_chunks(golden: Path) -> None:
    corpus = json.loads(
        (golden / "ragflow" / "retrieval" / "corpus-all-minilm.json").read_text(encoding="utf-8")
    )
    chunks = corpus["chunks"]
    different = [one["n"] for one in chunks if token.coarse(one["content"]) != one["content_ltks"]]
    # 4: RAGFlow's dictionary has "celsius"; 10: it has no 库鲁.
    assert different == [4, 10]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("caresses", "caress"),
        ("ponies", "poni"),
        ("ties", "tie"),
        ("agreed", "agre"),
        ("plastered", "plaster"),
        ("motoring", "motor"),
        ("conflated", "conflat"),
        ("hopping", "hop"),
        ("falling", "fall"),
        ("filing", "file"),
        ("happy", "happi"),
        ("relational", "relat"),
        ("vietnamization", "vietnam"),
        ("formalize", "formal"),
        ("electrical", "electr"),
        ("adjustment", "adjust"),
        ("adoption", "adopt"),
        ("controlling", "control"),
        ("rate", "rate"),
        ("is", "is"),
    ],
)
def test_stems(word: str, expected: str) -> None:
    assert stem(word) == expected


def test_what_the_index_stores() -> None:
    stored = token.index_text(
        "锂电池 in dry rooms", title="Battery guide.pdf", keywords=["heron"], questions=["Which birds?"]
    )
    assert token.content_words(stored) == token.coarse("锂电池 in dry rooms") == "锂电池 in dri room"
    assert {"电池", "batteri", "guid", "heron", "bird"} <= set(stored.split())
    assert token.content_words(token.index_text("")) == ""


def test_without_the_segmenter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token, "_segmenter", None)
    assert token.coarse("锂电池 rooms") == "锂电 电池 room"
    assert token.fine("锂") == "锂"
    assert token.tokenizer_name() != "rfctl-1-rjieba"


def test_keywords_and_weights_are_the_recorded_ones(tokens: dict[str, Any]) -> None:
    """Apart from the synonyms, which only lower all weights by one factor."""
    for one in tokens["questions"]:
        recorded = dict(one["weights"])
        asked = query.analyse(one["question"])
        assert {word for word, _ in asked.keywords} <= set(recorded), one["question"]
        assert sum(weight for _, weight in asked.keywords) == pytest.approx(1)
        if one["question"].isascii():
            factors = [weight / recorded[word] for word, weight in asked.keywords]
            assert max(factors) / min(factors) < 1.003, one["question"]


@given(st.text(max_size=200))
def test_any_question_gives_a_valid_expression(text: str) -> None:
    import sqlite3

    asked = query.analyse(text)
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE t USING fts5(x)")
    connection.execute("INSERT INTO t VALUES (?)", (token.index_text(text),))
    if asked.expression:
        found = connection.execute("SELECT count(*) FROM t WHERE t MATCH ?", (asked.expression,)).fetchone()
        assert found[0] <= 1
    connection.close()


def test_marks_piled_on_a_letter_take_no_time() -> None:
    begin = time.process_time()
    assert token.coarse("a" + "\u0301\u0316" * 100_000 + " word") == token.coarse("a\u0301\u0316 word")
    assert token.coarse("\u3002" * 100 + "word") == "word"
    assert time.process_time() - begin < 2
