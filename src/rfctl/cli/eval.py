"""`rfctl eval`: figures for retrieval and answers from questions whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.completion import complete_model
from rfctl.cli.eval_report import (
    ANSWER_MEASURES,
    check_reports,
    print_evaluation,
    print_matrix,
    write_reports,
)
from rfctl.cli.kb import choose
from rfctl.core.error import PartlyDoneError, UsageError, VerdictError

if TYPE_CHECKING:
    from rfctl.ragflow_client.chat import Chat
    from rfctl.ragflow_client.connection import Ragflow
    from rfctl.ragflow_client.dataset import Dataset
    from rfctl.ragflow_client.evaluation import Evaluation, Result
    from rfctl.ragflow_client.matrix import Matrix


@command("run")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--kb", metavar="NAME", multiple=True)
@click.option("--chat", "chat_name", metavar="NAME")
@click.option("--model", metavar="MODEL", multiple=True, shell_complete=complete_model)
@click.option("--only", type=click.Choice(["with-kb", "without-kb"]))
@click.option("--limit", type=click.IntRange(1, 100), default=6, show_default=True)
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.2, show_default=True)
@click.option("--fail-under", metavar="[MEASURE=]X", multiple=True)
@click.option(
    "--report", "reports", metavar="FILE.md|FILE.png", type=click.Path(path_type=Path), multiple=True
)
def run(
    app: App,
    file: Path,
    kb: tuple[str, ...],
    chat_name: str | None,
    model: tuple[str, ...],
    only: str | None,
    limit: int,
    threshold: float,
    fail_under: tuple[str, ...],
    reports: tuple[Path, ...],
) -> None:
    """Search for every question of FILE; with --chat let that assistant answer it, with --model each of these
    models, with and without the knowledge bases."""
    from rfctl.ragflow_client.question_set import read_questions

    least = _read_least(fail_under)
    check_reports(reports)
    if only and not model:
        raise UsageError("eval.only-without-model", only=only)
    questions = read_questions(file)
    with app.ragflow() as ragflow:
        chat = ragflow.chat(chat_name) if chat_name else None
        datasets = _datasets(app, ragflow, kb, chat)
        matrix = None
        if model:
            conditions = [with_kb for with_kb in (False, True) if only in (None, _NAMES[with_kb])]
            if True in conditions and not datasets:
                raise UsageError("eval.no-kb", name=chat_name)
            options = ragflow.chat_options(chat) if chat is not None else {}
            matrix = ragflow.evaluate_models(
                questions,
                datasets,
                model,
                options=options,
                conditions=conditions,
                limit=limit,
                similarity_threshold=threshold,
                reporter=app.reporter(),
            )
            found = matrix.retrieval
        else:
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
    document = {
        "file": file,
        "knowledge_bases": names,
        "chat": chat.name if chat else None,
        "limit": limit,
        "measures": found.measures,
        "errors": len(found.errors),
        "questions": [_describe(app, result) for result in found.results],
    }
    if matrix is not None:
        document["models"] = [
            {
                "model": cell.model,
                "with_kb": cell.with_kb,
                "measures": {name: cell.evaluation.measures[name] for name in ANSWER_MEASURES},
                "errors": len(cell.evaluation.errors),
                "questions": [_describe(app, result) for result in cell.evaluation.results],
            }
            for cell in matrix.cells
        ]
    app.out.report(document)
    if matrix is None:
        print_evaluation(app, found)
    else:
        print_matrix(app, matrix)
    facts = {"file": file.name, "server": url, "kb": ", ".join(names) or "-"}
    write_reports(app, reports, found, matrix, {**facts, "chat": chat.name if chat else "-"})
    if matrix is None:
        _judge(app, found, least)
    else:
        _judge_matrix(app, matrix, least)


_NAMES = {False: "without-kb", True: "with-kb"}


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


def _judge_matrix(app: App, matrix: Matrix, least: dict[str, float]) -> None:
    """Bounds of answers hold for every model with knowledge bases (without, where only that was asked)."""
    retrieval = {name: bound for name, bound in least.items() if name not in ANSWER_MEASURES}
    answers = {name: bound for name, bound in least.items() if name in ANSWER_MEASURES}
    _judge(app, matrix.retrieval, retrieval)
    most = max(cell.with_kb for cell in matrix.cells)
    for cell in matrix.cells:
        _judge(app, cell.evaluation, answers if cell.with_kb == most else {})


def _describe(app: App, result: Result) -> dict[str, object]:
    described = {key: value for key, value in vars(result).items() if key not in ("question", "error")}
    error = None
    if result.error is not None:
        error = {"id": result.error.id, **vars(result.error.text(app.language))}
    return {**vars(result.question), "expected_answer": result.question.answer, **described, "error": error}
