"""Questions from files, and the figures counted from them."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ragflow_bench import Bench

from rfctl.core.error import UsageError
from rfctl.ragflow_client.answer import Answer, list_sessions
from rfctl.ragflow_client.connection import Ragflow
from rfctl.ragflow_client.evaluation import compare_words, fits, ground, words
from rfctl.ragflow_client.parse import Patience
from rfctl.ragflow_client.question_set import Question, read_questions
from rfctl.ragflow_client.reference import Source


def source(number: int, content: str, *, document: str = "a.pdf", pages: tuple[int, ...] = (1,)) -> Source:
    return Source(number, document, pages, None, 0.5, 0.5, 0.5, content, cited=True)


def test_both_forms_say_the_same(tmp_path: Path) -> None:
    toml = tmp_path / "questions.toml"
    toml.write_text(
        '[[question]]\nquestion = "Who?"\ndocument = "a.pdf"\npage = 2\n'
        '[[question]]\nquestion = "Why?"\ntext = "because"\nanswer = "Because."\n'
    )
    lines = tmp_path / "questions.jsonl"
    lines.write_text(
        '{"question": "Who?", "document": "a.pdf", "pages": [2]}\n\n'
        '{"question": "Why?", "text": "because", "answer": "Because."}\n'
    )
    expected = (Question("Who?", "a.pdf", (2,)), Question("Why?", text="because", answer="Because."))
    assert read_questions(toml) == read_questions(lines) == expected


@pytest.mark.parametrize(
    ("name", "content", "id"),
    [
        ("q.toml", "question = 1", "file-broken"),
        ("q.toml", "[[question", "file-broken"),
        ("q.toml", "", "no-questions"),
        ("q.toml", '[[questions]]\nquestion = "x"', "file-broken"),
        ("q.toml", '[[question]]\nquestion = "x"', "question-broken"),
        ("q.toml", '[[question]]\nquestion = "x"\ndocumnet = "a"', "key-unknown"),
        ("q.toml", '[[question]]\nquestion = "x"\nanswer = 3', "question-broken"),
        ("q.toml", '[[question]]\nquestion = "x"\ndocument = "a"\npages = [0]', "question-broken"),
        ("q.toml", '[[question]]\nquestion = "x"\ntext = "a"\npages = [1]', "question-broken"),
        ("q.jsonl", "[1]", "line-broken"),
        ("q.jsonl", "{", "line-not-json"),
        ("q.jsonl", "\udcff", "file-broken"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, name: str, content: str, id: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=rf"eval\.{id}") as caught:
        read_questions(path)
    chinese = caught.value.text("zh")
    assert not re.search(r"\b(line|question) \d|known:", f"{chinese.message} {chinese.why}")
    with pytest.raises(UsageError, match=r"eval\.file-unreadable"):
        read_questions(tmp_path / "missing.toml")


@given(st.binary(max_size=200), st.sampled_from([".toml", ".jsonl"]))
def test_any_bytes_are_questions_or_a_usage_error(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"q{suffix}"
        path.write_bytes(content)
        try:
            assert read_questions(path)
        except UsageError as error:
            assert error.text("zh").message


def test_words_are_compared_in_both_scripts() -> None:
    assert words("The Heron, 24 months [1]") == ["the", "heron", "24", "months"]
    assert words("保修24个月") == ["保", "修", "24", "个", "月"]
    assert compare_words("24 months", "24 months [1].") == 1
    assert compare_words("24 weeks", "24 months") == 0.5
    assert compare_words("保修24个月", "24个月") == pytest.approx(2 * 3 / 8)
    assert compare_words("", "x") == compare_words("x", "y") == 0


@given(st.text(), st.text())
def test_similarity_is_symmetric_and_bounded(one: str, other: str) -> None:
    assert 0 <= compare_words(one, other) == compare_words(other, one) <= 1
    assert not words(one) or compare_words(one, one) == 1


def test_a_passage_fits_by_document_page_and_text() -> None:
    passage = source(1, "The launch\ncode name is Heron.", pages=(1, 2))
    assert fits(Question("?", "A.PDF", (2, 9), "Launch code"), passage)
    assert not fits(Question("?", "b.pdf"), passage)
    assert not fits(Question("?", "a.pdf", (3,)), passage)
    assert not fits(Question("?", text="launch names"), passage)


def test_groundedness_looks_at_the_passage_that_is_cited() -> None:
    sources = (source(1, "The code name is Heron."), source(2, "Valves open at dawn."))

    def grounded(text: str) -> float | None:
        return ground(Answer(text, sources, "s"))

    assert grounded("The code name is Heron. [1]") == 1
    assert grounded("The code name is Heron. [2]") == 0
    assert grounded("The name [1] is Heron. Valves open at noon [2]. Nobody cites this.") == (1 + 0.75) / 2
    assert grounded("Nobody cites this.") is None
    assert grounded("Cites too far [7].") is None


def test_a_set_is_measured_end_to_end(ragflow: Ragflow, engine: Bench, fixtures: Path) -> None:
    dataset, _ = ragflow.create_dataset("docs")
    ragflow.upload(
        dataset, [fixtures / "handbook.pdf", fixtures / "note.txt"], patience=Patience(poll=0.1)
    ).check()
    dataset = ragflow.dataset("docs")
    chat, _ = ragflow.create_chat("helper", [dataset], model="smollm2:135m")
    questions = [
        Question("What is the launch code name?", "handbook.pdf", (1,), answer="The code name is Heron."),
        Question("What is the launch code name?", "nowhere.pdf"),
        Question("What is the launch code name?", answer="Heron"),
    ]
    found = ragflow.evaluate(questions, [dataset], chat)
    assert [one.rank for one in found.results] == [1, 0, None]
    assert (found.measures["recall"], found.measures["mrr"]) == (0.5, 0.5)
    assert found.measures["citation"] == 0.5
    assert found.results[0].similarity == pytest.approx(2 * 5 / 11)
    assert found.measures["groundedness"] is not None and found.measures["groundedness"] > 0.8
    assert list_sessions(ragflow.api, chat) == ()
    engine.double.models = {
        name: entry for name, entry in engine.double.models.items() if name != "smollm2:135m"
    }
    broken = ragflow.evaluate(questions, [dataset], chat)
    assert len(broken.errors) == 3
    assert (broken.measures["recall"], broken.measures["similarity"]) == (0.5, 0)
    alone = ragflow.evaluate(questions[:2], [dataset])
    assert (alone.measures["recall"], alone.measures["similarity"]) == (0.5, None)
    assert alone.errors == ()
