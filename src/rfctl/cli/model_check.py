"""`rfctl model check`: will a model convert, load and run? From headers and small files only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.core.error import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rfctl.converter.check import CheckReport
    from rfctl.converter.finding import Finding

EXIT_VERDICT = 5
_TARGETS = {"ollama": "ollama_version", "llama.cpp": "llamacpp_build"}


@command("check")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--for", "target", metavar="NAME@VERSION", help="ollama@0.24.0 or llama.cpp@b10488.")
@click.option("--adapter", metavar="DIR", type=click.Path(path_type=Path), help="LoRA adapter to merge.")
@click.option("--num-ctx", type=click.IntRange(min=1), help="Context to estimate the memory for, tokens.")
def check(app: App, directory: Path, target: str | None, adapter: Path | None, num_ctx: int | None) -> None:
    """Say whether a model directory will convert, load and run. Reads headers only."""
    from rfctl.cli.model_check_show import print_report
    from rfctl.converter.check import check as run

    wanted = _parse_target(target)
    report = run(
        directory,
        num_ctx=num_ctx,
        adapter=adapter,
        ollama_version=wanted.get("ollama_version"),
        llamacpp_build=wanted.get("llamacpp_build"),
    )
    app.out.report(_document(report, app.language))
    print_report(app, report)
    if not report.will_work:
        raise click.exceptions.Exit(EXIT_VERDICT)


def _parse_target(text: str | None) -> dict[str, str]:
    """`--for NAME@VERSION` as the argument of `check`. Raises UsageError `check.target-malformed`."""
    if text is None:
        return {}
    name, _, version = text.partition("@")
    if name.lower() not in _TARGETS or not version:
        raise UsageError("check.target-malformed", target=text)
    return {_TARGETS[name.lower()]: version}


def _document(report: CheckReport, language: str) -> dict[str, object]:
    """The report as JSON: findings and verdicts with their text in the user's language and in English."""
    from dataclasses import fields

    document: dict[str, object] = {item.name: getattr(report, item.name) for item in fields(report)}
    document["verdicts"] = [
        {
            "authority": verdict.authority,
            "version": verdict.version,
            "answer": verdict.answer,
            "since": verdict.since,
            "reason": verdict.text(language),
        }
        for verdict in report.verdicts
    ]
    document["findings"] = [_finding(finding, language) for finding in report.findings]
    return document


def _finding(finding: Finding, language: str) -> Mapping[str, object]:
    text = finding.text(language)
    return {
        "id": finding.id,
        "severity": finding.severity,
        "message": text.message,
        "message_en": finding.text("en").message,
        "why": text.why,
        "next": text.next,
        "params": finding.params,
    }
