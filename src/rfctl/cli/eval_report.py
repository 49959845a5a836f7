"""What an evaluation looks like: tables for the terminal, Markdown, and a picture."""

from __future__ import annotations

import datetime as dt
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rfctl.cli.app import App
from rfctl.core.catalog import render
from rfctl.core.error import UsageError
from rfctl.core.file import write_atomic

if TYPE_CHECKING:
    from rfctl.ragflow_client.evaluation import Evaluation, Result
    from rfctl.ragflow_client.matrix import Matrix

REPORT_SUFFIXES = (".md", ".png")
# What a model changes; recall and mrr are the retrieval's alone.
ANSWER_MEASURES = ("similarity", "citation", "groundedness")


def check_reports(paths: Sequence[Path]) -> None:
    """Raise UsageError `eval.report-suffix` for a path that is neither Markdown nor PNG, and
    `eval.no-matplotlib` for a picture that could not be drawn once all questions are asked."""
    for path in paths:
        if path.suffix.lower() not in REPORT_SUFFIXES:
            raise UsageError("eval.report-suffix", path=path)
        if path.suffix.lower() == ".png" and importlib.util.find_spec("matplotlib") is None:
            raise UsageError("eval.no-matplotlib")


def write_reports(
    app: App, paths: Sequence[Path], found: Evaluation, matrix: Matrix | None, facts: dict[str, str]
) -> None:
    """Write each report. Raises UsageError `eval.report-unwritable`, `eval.no-matplotlib`."""
    for path in paths:
        if path.suffix.lower() == ".png":
            content = _draw(app, found, matrix, facts["file"])
        else:
            content = write_markdown(app, found, matrix, facts).encode("utf-8")
        try:
            write_atomic(path, content)
        except OSError as error:
            detail = error.strerror or str(error)
            raise UsageError("eval.report-unwritable", path=path, detail=detail) from error
        app.out.note("eval.report-written", path=path)


def print_evaluation(app: App, found: Evaluation) -> None:
    """One row per question, then the measures."""
    app.out.table(_columns(app), [_row(app, result, 48) for result in found.results])
    app.out.line()
    for name, value in found.measures.items():
        app.out.line(f"{_label(app, name, found.limit)}: {_number(value)}")
    _warn(app, found)


def print_matrix(app: App, matrix: Matrix) -> None:
    """One row per model, then what the retrieval found."""
    app.out.table(_matrix_columns(app), _matrix_rows(app, matrix))
    app.out.line()
    for name in ("recall", "mrr"):
        value = matrix.retrieval.measures[name]
        app.out.line(f"{_label(app, name, matrix.retrieval.limit)}: {_number(value)}")
    for cell in matrix.cells:
        _warn(app, cell.evaluation, cell.model)


def write_markdown(app: App, found: Evaluation, matrix: Matrix | None, facts: dict[str, str]) -> str:
    """The report as Markdown in the user's language. facts: file, server, kb, chat."""
    out = app.out
    stamp = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [f"# {out.text('eval.report-title', file=facts['file'])}", ""]
    for name, value in {"date": stamp, **facts}.items():
        if name != "file":
            lines.append(f"- {out.text(f'eval.report-{name}')}: {_cell(value)}")
    lines += ["", f"| {out.text('eval.report-measure')} | {out.text('eval.report-value')} |", "|---|---:|"]
    for name, measure in found.measures.items():
        if matrix is None or measure is not None:
            lines.append(f"| {_label(app, name, found.limit)} | {_number(measure)} |")
    if matrix is not None:
        columns = _matrix_columns(app)
        lines += ["", "| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in _matrix_rows(app, matrix)]
        lines += ["", out.text("eval.matrix-reading")]
        for cell in matrix.cells:
            condition = out.text("eval.with-kb" if cell.with_kb else "eval.without-kb")
            lines += ["", f"## {_cell(cell.model)}, {condition}"]
            lines += _tell_answers(app, cell.evaluation.results, "###")
        return "\n".join(lines) + "\n"
    lines += ["", "| " + " | ".join(_columns(app)) + " |", "|---|---:|---:|---:|---:|"]
    for result in found.results:
        lines.append("| " + " | ".join(_cell(cell) for cell in _row(app, result, 120)) + " |")
    lines += _tell_answers(app, found.results, "##")
    return "\n".join(lines) + "\n"


def _tell_answers(app: App, results: Sequence[Result], heading: str) -> list[str]:
    out = app.out
    lines: list[str] = []
    for result in results:
        question = result.question
        if not result.answer and result.error is None:
            continue
        lines += ["", f"{heading} {_cell(question.question)}", ""]
        if question.answer:
            lines.append(f"- {out.text('eval.report-expected')}: {_cell(question.answer)}")
        if result.error is not None:
            lines.append(f"- {out.text('eval.error')}: {_cell(result.error.text(app.language).message)}")
        else:
            lines.append(f"- {out.text('eval.report-answer')}: {_cell(result.answer)}")
        for source in result.sources:
            if source.cited:
                pages = "-".join(str(page) for page in source.pages)
                lines.append(f"- [{source.number}] {_cell(source.document)} {pages}".rstrip())
    return lines


def _draw(app: App, found: Evaluation, matrix: Matrix | None, file: str) -> bytes:
    from rfctl.ragflow_client.chart import can_draw_chinese, draw_bars

    language = app.language if can_draw_chinese() else "en"

    def say(id: str, **params: object) -> str:
        return render(id, language, params).message

    def label(name: str) -> str:
        return say(f"eval.measure-{name}", limit=found.limit)

    title = say("eval.report-title", file=file)
    if matrix is None:
        names = [name for name, value in found.measures.items() if value is not None]
        return draw_bars(title, [label(name) for name in names], {"": [found.measures[n] for n in names]})
    series: dict[str, list[float | None]] = {}
    for with_kb, text in ((False, "eval.without-kb"), (True, "eval.with-kb")):
        evaluations = [matrix.find(model, with_kb) for model in matrix.models]
        if any(evaluations):
            series[say(text)] = [None if one is None else one.measures["similarity"] for one in evaluations]
    return draw_bars(f"{title}: {label('similarity')}", matrix.models, series)


def _matrix_columns(app: App) -> list[str]:
    names = ("model", "without", "with", "gain", "citation", "groundedness", "seconds")
    return [app.out.text(f"eval.column-{name}") for name in names]


def _matrix_rows(app: App, matrix: Matrix) -> list[list[str]]:
    rows = []
    for model in matrix.models:
        ends = [matrix.find(model, with_kb) for with_kb in (False, True)]
        answers = [result for one in ends if one is not None for result in one.results]
        mean = sum(result.seconds for result in answers) / len(answers) if answers else None
        gain = matrix.gain(model)
        cited = ends[1].measures if ends[1] is not None else {}
        rows.append(
            [
                model,
                *(_number(None if one is None else one.measures["similarity"]) for one in ends),
                "-" if gain is None else f"{gain:+.3f}",
                *(_number(cited.get(name)) for name in ("citation", "groundedness")),
                "-" if mean is None else f"{mean:.1f}",
            ]
        )
    return rows


def _warn(app: App, found: Evaluation, model: str = "") -> None:
    for result in found.errors:
        assert result.error is not None
        question = f"{model}: {result.question.question}" if model else result.question.question
        app.out.warn(
            "eval.question-failed", question=question, detail=result.error.text(app.language).message
        )


def _label(app: App, name: str, limit: int) -> str:
    return app.out.text(f"eval.measure-{name}", limit=limit)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _rank(app: App, result: Result) -> str:
    if result.rank is None:
        return "-"
    return str(result.rank) if result.rank else app.out.text("eval.not-found")


def _columns(app: App) -> list[str]:
    names = ("question", "rank", "similarity", "citation", "groundedness")
    return [app.out.text(f"eval.column-{name}") for name in names]


def _row(app: App, result: Result, width: int) -> list[str]:
    question = " ".join(result.question.question.split())
    return [
        question if len(question) <= width else question[: width - 1] + "…",
        app.out.text("eval.error") if result.error is not None else _rank(app, result),
        _number(result.similarity),
        _number(result.citation),
        _number(result.groundedness),
    ]


def _cell(text: str) -> str:
    """Text of questions and models as it can stand in a table: one line, no markup of its own."""
    line = " ".join(text.split())
    for char in "\\|<>`*_#":
        line = line.replace(char, "\\" + char)
    return line
