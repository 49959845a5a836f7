"""`rfctl eval`: whole output and exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ragflow_command import Run, serving

QUESTIONS = """
[[question]]
question = "What is the launch code name?"
document = "handbook.pdf"
page = 1
answer = "The launch code name is Heron."

[[question]]
question = "What is the launch | code name?"
text = "no passage says this"
"""


@pytest.fixture
def evaluate(tmp_path: Path, rfctl: Run, golden: Path) -> Iterator[Run]:
    """`rfctl eval run` over a knowledge base that holds the recorded handbook."""
    (tmp_path / "questions.toml").write_text(QUESTIONS)
    with serving(tmp_path, rfctl) as (engine, run):
        assert run("kb", "create", "docs").code == 0
        assert run("kb", "upload", str(golden / "ragflow" / "fixtures" / "handbook.pdf")).code == 0

        def call(*arguments: str) -> object:
            return run("eval", "run", "questions.toml", *arguments)

        call.__dict__["run"] = run
        call.__dict__["engine"] = engine
        yield call


def test_figures_bounds_and_report(evaluate: Run, tmp_path: Path) -> None:
    result = evaluate("-q")
    assert (result.code, result.out) == (
        0,
        "QUESTION                         RANK       SIMILARITY  CITED  GROUNDED\n"
        "What is the launch code name?    1          -           -      -\n"
        "What is the launch | code name?  not found  -           -      -\n"
        "\n"
        "recall@6: 0.500\n"
        "MRR@6: 0.500\n"
        "answer similarity (word F1): -\n"
        "expected passage cited: -\n"
        "groundedness of cited sentences: -\n",
    )
    assert evaluate("-q", "--fail-under", "0.5", "--fail-under", "mrr=0.4").code == 0
    under = evaluate("-q", "--fail-under", "0.6")
    assert (under.code, under.err.splitlines()[0]) == (5, "error[eval.under]: recall is 0.500, under 0.6")
    assert evaluate("-q", "--fail-under", "similarity=0.1").code == 5
    for wrong in ("x", "1.5", "speed=0.5", "nan"):
        assert evaluate("-q", "--fail-under", wrong).code == 2
    assert evaluate.__dict__["run"]("chat", "create", "helper", "--kb", "docs").code == 0
    done = evaluate("--chat", "helper", "--report", "report.md", "--json")
    document = json.loads(done.out)
    assert (done.code, document["schema_version"], document["chat"]) == (0, 1, "helper")
    assert document["measures"]["recall"] == 0.5
    assert document["measures"]["similarity"] == 1.0
    assert document["questions"][0]["rank"] == 1
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# Evaluation of questions.toml\n\n- Date: 2")
    assert "| recall@6 | 0.500 |\n" in report
    assert "- Answer: The launch code name is Heron. [1]\n- [1] handbook.pdf 1\n" in report
    rows = [line for line in report.splitlines() if line.startswith("| What")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}


def test_a_question_that_cannot_be_asked_is_counted_and_named(evaluate: Run) -> None:
    models = evaluate.__dict__["engine"].double
    evaluate.__dict__["run"]("chat", "create", "helper", "--kb", "docs", "--model", "smollm2:135m")
    models.models = {name: entry for name, entry in models.models.items() if name != "smollm2:135m"}
    result = evaluate("--chat", "helper")
    assert result.code == 1
    assert "What is the launch code name?    error" in result.out
    assert "recall@6: 0.500" in result.out
    assert "error[chat.model-failed]" in result.err
