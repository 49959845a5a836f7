"""`rfctl model verify FILE [DIR]`: is a GGUF file sound, and is it what its model directory gives?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.output import clean, human_bytes

if TYPE_CHECKING:
    from rfctl.converter.compare import Comparison
    from rfctl.converter.file_check import FileReport

EXIT_VERDICT = 5
MOST_SHOWN = 20


def is_gguf(path: Path) -> bool:
    """Is a file meant, no served model? By its name, or by its first letters (a blob has no suffix)."""
    if path.suffix.lower() == ".gguf":
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def verify_file(app: App, path: Path, source: Path | None, adapter: Path | None, weights_only: bool) -> None:
    """Exit code 5 when the file is broken, or is not what `source` gives."""
    from rfctl.cli.kernel import choose_kernel
    from rfctl.converter.compare_source import compare_source, plan_again
    from rfctl.converter.file_check import check_file
    from rfctl.converter.gguf_file import open_gguf

    file = open_gguf(path)
    report = check_file(file, reporter=app.reporter())
    comparison = None
    if source is not None:
        choose_kernel(app, source, report.file_type)
        plan = plan_again(file, source, adapter)
        comparison = compare_source(file, plan, with_keys=not weights_only, reporter=app.reporter())
    is_good = report.is_sound and (comparison is None or comparison.is_same)
    app.out.report(
        {
            "path": report.path,
            "files": report.paths,
            "source": source,
            "verdict": "passed" if is_good else "failed",
            "architecture": report.architecture,
            "file_type": report.file_type,
            "size": report.size,
            "tensor_count": report.tensor_count,
            "parameter_count": report.parameter_count,
            "types": report.types,
            "findings": [
                {
                    "id": finding.id,
                    "severity": finding.severity,
                    "message": finding.text(app.language).message,
                    "message_en": finding.text("en").message,
                    "params": finding.params,
                }
                for finding in report.findings
            ],
            "comparison": comparison,
        }
    )
    _print_report(app, report)
    if comparison is not None:
        print_comparison(app, comparison, "model.side-source", "model.side-file")
    if is_good and comparison is not None:
        app.out.say("model.verified-source", path=path, source=source, count=comparison.same_count)
    elif is_good:
        app.out.say("model.verified-file", path=path)
    else:
        app.out.say("model.verify-failed", path=path)
        raise click.exceptions.Exit(EXIT_VERDICT)


def _print_report(app: App, report: FileReport) -> None:
    out = app.out
    types = ", ".join(f"{count} {name}" for name, count in report.types.items())
    out.say(
        "model.verify-summary",
        path=report.path,
        architecture=report.architecture or "?",
        size=human_bytes(report.size),
        types=types,
    )
    for finding in report.findings:
        text = finding.text(app.language)
        out.line(f"{out.text(f'check.{finding.severity}')}[{finding.id}]: {clean(text.message)}")
        if text.next:
            out.line(f"  {out.text('cli.next')}: {clean(text.next)}")


def print_comparison(app: App, comparison: Comparison, first: str, second: str) -> None:
    """Keys and tensors that differ, at most so many of each; `first`, `second`: ids of what the sides are
    called.
    """
    out = app.out
    if not out.is_human:
        return
    sides = [out.text(first), out.text(second)]
    if comparison.keys:
        out.line()
        out.table(
            [out.text("model.differ-key"), out.text("model.differ-what"), *sides],
            [
                (item.key, out.text(f"model.differ-{item.kind}"), item.first or "-", item.second or "-")
                for item in comparison.keys[:MOST_SHOWN]
            ],
        )
        _print_rest(app, len(comparison.keys))
    if comparison.tensors:
        out.line()
        titles = [out.text(f"model.differ-{name}") for name in ("tensor", "what")]
        numbers = [out.text(f"model.differ-{name}") for name in ("count", "index", "most", "rms")]
        out.table(
            [*titles, *sides, *numbers],
            [
                (
                    item.name,
                    out.text(f"model.differ-{item.kind}"),
                    item.first or "-",
                    item.second or "-",
                    "-" if item.count is None else f"{item.count:,}",
                    "-" if item.first_index is None else item.first_index,
                    "-" if item.max_abs is None else f"{item.max_abs:.6g}",
                    "-" if item.rms is None else f"{item.rms:.3g}",
                )
                for item in comparison.tensors[:MOST_SHOWN]
            ],
        )
        _print_rest(app, len(comparison.tensors))
    out.line()
    out.say("model.differ-sum", same=comparison.same_count, count=comparison.tensor_count)


def _print_rest(app: App, count: int) -> None:
    if count > MOST_SHOWN:
        app.out.say("model.differ-more", count=count - MOST_SHOWN)
