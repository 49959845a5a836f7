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


def test_models_are_compared_with_and_without_knowledge(evaluate: Run, tmp_path: Path) -> None:
    double = evaluate.__dict__["engine"].double
    result = evaluate(
        "-q",
        "--model",
        "smollm2:135m",
        "--model",
        "qwen2.5-coder:1.5b",
        "--report",
        "r.md",
        "--report",
        "r.png",
    )
    assert (result.code, result.err) == (0, "")
    table, recall = result.out.split("\n\n")
    rows = [re.sub(r" {2,}", "|", re.sub(r"\d\.\d$", "s", line)) for line in table.splitlines()]
    assert rows == [
        "MODEL|WITHOUT KB|WITH KB|GAIN|CITED|GROUNDED|SECONDS",
        "smollm2:135m@local@Ollama|1.000|1.000|+0.000|0.500|0.833|s",
        "qwen2.5-coder:1.5b@local@Ollama|1.000|1.000|+0.000|0.500|0.833|s",
    ]
    assert recall == "recall@6: 0.500\nMRR@6: 0.500\n"
    asked = [body for kind, body in double.requests if kind == "chat"]
    assert [("Aurora" in json.dumps(body), body["model"]) for body in asked] == [
        (knows, model)
        for model in ("smollm2:135m", "qwen2.5-coder:1.5b")
        for knows in (False, False, True, True)
    ]
    # The assistants that were made for it are gone.
    assert evaluate.__dict__["run"]("chat", "ls").out == ""
    report = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert "| smollm2:135m@local@Ollama | 1.000 | 1.000 | +0.000 |" in report
    assert "## smollm2:135m@local@Ollama, without knowledge base\n" in report
    picture = (tmp_path / "r.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 5000
    document = json.loads(evaluate("--model", "smollm2:135m", "--only", "without-kb", "--json").out)
    (cell,) = document["models"]
    assert (cell["with_kb"], cell["measures"]) == (
        False,
        {"similarity": 1.0, "citation": None, "groundedness": None},
    )
    under = evaluate(
        "-q", "--model", "smollm2:135m", "--fail-under", "similarity=0.9", "--fail-under", "recall=0.9"
    )
    assert (under.code, under.err.splitlines()[0]) == (5, "error[eval.under]: recall is 0.500, under 0.9")


def test_a_comparison_leaves_nothing_behind(evaluate: Run) -> None:
    engine = evaluate.__dict__["engine"]
    double = engine.double
    unknown = evaluate("--model", "smollm2:135m", "--model", "nope")
    assert (unknown.code, unknown.err.split(":")[0]) == (2, "error[ragflow.model-unknown]")
    double.answer = ""
    failed = evaluate("--model", "smollm2:135m", "--only", "without-kb")
    assert failed.code == 1
    assert "error[chat.answer-empty]" in failed.err
    assert evaluate.__dict__["run"]("chat", "ls").out == ""
    for arguments, id in (
        (("--only", "with-kb"), "eval.only-without-model"),
        (("--report", "report.pdf"), "eval.report-suffix"),
    ):
        refused = evaluate(*arguments)
        assert (refused.code, refused.err.split(":")[0]) == (2, f"error[{id}]")
