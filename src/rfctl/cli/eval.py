"""`rfctl eval`: figures for retrieval and answers from questions whose answers are known."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.kb import choose
from rfctl.core.error import PartlyDoneError, UsageError, VerdictError
from rfctl.core.file import write_atomic

if TYPE_CHECKING:
    from rfctl.ragflow_client.chat import Chat
    from rfctl.ragflow_client.connection import Ragflow
    from rfctl.ragflow_client.dataset import Dataset
    from rfctl.ragflow_client.evaluation import Evaluation, Result


@command("run")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--kb", metavar="NAME", multiple=True)
@click.option("--chat", "chat_name", metavar="NAME")
@click.option("--limit", type=click.IntRange(1, 100), default=6, show_default=True)
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.2, show_default=True)
@click.option("--fail-under", metavar="[MEASURE=]X", multiple=True)
@click.option("--report", "report_path", metavar="FILE.md", type=click.Path(path_type=Path))
def run(
    app: App,
    file: Path,
    kb: tuple[str, ...],
    chat_name: str | None,
    limit: int,
    threshold: float,
    fail_under: tuple[str, ...],
    report_path: Path | None,
) -> None:
    """Search for every question of FILE and, with --chat, let the assistant answer it."""
    from rfctl.ragflow_client.question_set import read_questions

    least = _read_least(fail_under)
    questions = read_questions(file)
    with app.ragflow() as ragflow:
        chat = ragflow.chat(chat_name) if chat_name else None
        datasets = _datasets(app, ragflow, kb, chat)
        found = ragflow.evaluate(
            questions,
            datasets,
            chat,
            limit=limit,
            similarity_threshold=threshold,
            reporter=app.reporter(),
        )
        url = ragflow.url
    names = [one.name for one in datasets]
    app.out.report(
        {
            "file": file,
            "knowledge_bases": names,
            "chat": chat.name if chat else None,
            "limit": limit,
            "measures": found.measures,
            "errors": len(found.errors),
            "questions": [_describe(app, result) for result in found.results],
        }
    )
    _print(app, found)
    if report_path is not None:
        text = _write_markdown(app, found, file.name, url, names, chat.name if chat else "-")
        try:
            write_atomic(report_path, text.encode("utf-8"))
        except OSError as error:
            detail = error.strerror or str(error)
            raise UsageError("eval.report-unwritable", path=report_path, detail=detail) from error
        app.out.note("eval.report-written", path=report_path)
    _judge(app, found, least)


def _read_least(values: tuple[str, ...]) -> dict[str, float]:
    """ "0.8" is recall; "mrr=0.5" names the measure. Raises UsageError `eval.fail-under-invalid`."""
    from rfctl.ragflow_client.evaluation import MEASURES

    least = {}
    for value in values:
        name, _, number = value.rpartition("=")
        try:
            bound = float(number)
        except ValueError:
            bound = -1.0
        if not 0 <= bound <= 1 or (name or "recall") not in MEASURES:
            raise UsageError("eval.fail-under-invalid", value=value, known=", ".join(MEASURES))
        least[name or "recall"] = bound
    return least


def _datasets(app: App, ragflow: Ragflow, kb: tuple[str, ...], chat: Chat | None) -> list[Dataset]:
    if kb:
        return [ragflow.dataset(name) for name in kb]
    if chat is not None:
        return [ragflow.dataset(id) for id in chat.dataset_ids]
    return [choose(app, ragflow, None)]


def _judge(app: App, found: Evaluation, least: dict[str, float]) -> None:
    """Raise for a figure under its bound, and exit 6 for questions that could not be asked."""
    for name, bound in least.items():
        value = found.measures[name]
        if value is None:
            raise VerdictError("eval.not-measured", measure=name)
        if value < bound:
            raise VerdictError("eval.under", measure=name, value=f"{value:.3f}", bound=f"{bound:g}")
    if found.errors:
        first = found.errors[0].error
        assert first is not None
        if len(found.errors) == len(found.results):
            raise first.to_error()
        raise PartlyDoneError(
            "eval.partly-asked",
            failed=len(found.errors),
            total=len(found.results),
            detail=first.text(app.language).message,
        )


def _describe(app: App, result: Result) -> dict[str, object]:
    described = {key: value for key, value in vars(result).items() if key not in ("question", "error")}
    error = None
    if result.error is not None:
        error = {"id": result.error.id, **vars(result.error.text(app.language))}
    return {**vars(result.question), "expected_answer": result.question.answer, **described, "error": error}


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


def _print(app: App, found: Evaluation) -> None:
    app.out.table(_columns(app), [_row(app, result, 48) for result in found.results])
    app.out.line()
    for name, value in found.measures.items():
        app.out.line(f"{_label(app, name, found.limit)}: {_number(value)}")
    for result in found.errors:
        assert result.error is not None
        text = result.error.text(app.language).message
        app.out.warn("eval.question-failed", question=result.question.question, detail=text)


def _write_markdown(app: App, found: Evaluation, file: str, url: str, kb: list[str], chat: str) -> str:
    """The report as Markdown in the user's language."""
    out = app.out
    stamp = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [f"# {out.text('eval.report-title', file=file)}", ""]
    facts = {"date": stamp, "server": url, "kb": ", ".join(kb) or "-", "chat": chat}
    lines += [f"- {out.text(f'eval.report-{name}')}: {_cell(value)}" for name, value in facts.items()]
    lines += ["", f"| {out.text('eval.report-measure')} | {out.text('eval.report-value')} |", "|---|---:|"]
    for name, value in found.measures.items():
        lines.append(f"| {_label(app, name, found.limit)} | {_number(value)} |")
    lines += ["", "| " + " | ".join(_columns(app)) + " |", "|---|---:|---:|---:|---:|"]
    for result in found.results:
        lines.append("| " + " | ".join(_cell(cell) for cell in _row(app, result, 120)) + " |")
    for result in found.results:
        question = result.question
        if not result.answer and result.error is None:
            continue
        lines += ["", f"## {_cell(question.question)}", ""]
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
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text of questions and models as it can stand in a table: one line, no markup of its own."""
    line = " ".join(text.split())
    for char in "\\|<>`*_#":
        line = line.replace(char, "\\" + char)
    return line
