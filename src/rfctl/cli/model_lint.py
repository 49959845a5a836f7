"""`rfctl model lint`: the faults of a Modelfile, each with its fix."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.core.catalog import render
from rfctl.core.error import UsageError

EXIT_VERDICT = 5


@command("lint")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
def lint(app: App, file: Path) -> None:
    """Paths in the file begin at its folder; `-` reads standard input."""
    from rfctl.ollama.lint import Severity, lint_modelfile

    data, folder = _read(file)
    report = lint_modelfile(data, folder, explain_template=_explain_template)
    texts = [render(finding.id, app.language, finding.params) for finding in report.findings]
    document: dict[str, object] = {"path": file, "findings": []}
    if report.error:
        document |= {"error": report.error, "line": report.line}
    else:
        document["commands"] = [{"name": item.name, "args": item.args} for item in report.commands]
    document["findings"] = [
        {
            "id": finding.id,
            "severity": finding.severity,
            "line": finding.line,
            "message": text.message,
            "why": text.why,
            "fix": text.next,
            "params": finding.params,
        }
        for finding, text in zip(report.findings, texts, strict=True)
    ]
    app.out.report(document)
    for finding, text in zip(report.findings, texts, strict=True):
        place = f"{app.out.text('lint.line', line=finding.line)}: " if finding.line else ""
        severity = app.out.text(
            "lint.severity-error" if finding.severity is Severity.ERROR else "lint.severity-warning"
        )
        app.out.line(f"{severity}[{finding.id}]: {place}{text.message}")
        if text.why:
            app.out.line(f"  {app.out.text('cli.why')}: {text.why}")
        app.out.line(f"  {app.out.text('lint.fix')}: {text.next}")
    if not report.findings:
        app.out.say("lint.clean", path=file, count=len(report.commands))
    if report.has_error:
        raise click.exceptions.Exit(EXIT_VERDICT)


def _read(file: Path) -> tuple[bytes, Path]:
    from rfctl.ollama.modelfile import MAX_BYTES

    if str(file) == "-":
        return sys.stdin.buffer.read(MAX_BYTES + 1), Path.cwd()
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_BYTES + 1), file.parent
    except OSError as error:
        raise UsageError("lint.unreadable", path=file, detail=error.strerror or str(error)) from error


def _explain_template(text: str) -> str:
    from rfctl.engine.ollama import go_template

    try:
        go_template.parse(text)
    except go_template.TemplateError as error:
        return str(error)
    return ""
