"""`rfctl model check` and `rfctl model convert`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.kernel import CHOICES, choose_kernel
from rfctl.cli.output import cell_width, clean, human_bytes
from rfctl.core.error import UsageError

if TYPE_CHECKING:
    from rfctl.converter.check import CheckReport
    from rfctl.converter.finding import Finding, Verdict

EXIT_VERDICT = 5
_TARGETS = {"ollama": "ollama_version", "llama.cpp": "llamacpp_build"}


@command("check")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--for", "target", metavar="NAME@VERSION", help="ollama@0.24.0 or llama.cpp@b10488.")
@click.option("--num-ctx", type=click.IntRange(min=1), help="Context to estimate the memory for, tokens.")
def check(app: App, directory: Path, target: str | None, num_ctx: int | None) -> None:
    """Say whether a model directory will convert, load and run. Reads headers only."""
    from rfctl.converter.check import check as run

    report = run(directory, num_ctx=num_ctx, **_parse_target(target))
    app.out.report(_document(report, app.language))
    _print(app, report)
    if not report.will_work:
        raise click.exceptions.Exit(EXIT_VERDICT)


@command("convert")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "--output-file", "target", metavar="FILE", type=click.Path(path_type=Path), required=True)
@click.option("--outtype", default="auto", metavar="TYPE", help="auto, f32, f16, bf16, q8_0, Q4_K_M, ...")
@click.option("--adapter", metavar="DIR", type=click.Path(path_type=Path), help="LoRA adapter to merge.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads; all cores by default.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--kernel", type=click.Choice(CHOICES), default="auto", help="Code that quantizes.")
def convert(
    app: App,
    directory: Path,
    target: Path,
    outtype: str,
    adapter: Path | None,
    threads: int | None,
    force: bool,
    kernel: str,
) -> None:
    """Write a model directory as a GGUF file."""
    from rfctl.converter.convert import convert as run

    choose_kernel(app, directory, outtype, kernel)
    result = run(
        directory,
        target,
        outtype=outtype,
        adapter=adapter,
        threads=threads,
        overwrite=force,
        reporter=app.reporter(),
    )
    app.out.report(result)
    app.out.say(
        "model.converted",
        target=result.path,
        size=human_bytes(result.size),
        outtype=result.outtype,
        count=result.tensor_count,
    )


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


def _print(app: App, report: CheckReport) -> None:
    out = app.out
    if not out.is_human:
        return
    unknown = out.text("check.unknown")
    sizes = ", ".join(f"{kind} {human_bytes(size)}" for kind, size in report.dtype_bytes.items())
    names = " -> ".join(name for name in (report.architecture, report.gguf_architecture) if name)
    tokenizer = ", ".join(name for name in (report.tokenizer, report.pre_tokenizer) if name)
    rows = [
        (out.text("check.architecture"), names or unknown),
        (out.text("check.weights"), f"{_count(report.parameter_count)} ({sizes})" if sizes else unknown),
        (out.text("check.context"), str(report.context_length or unknown)),
        (out.text("check.tokenizer"), tokenizer or unknown),
        (out.text("check.template"), out.text("check.yes" if report.has_chat_template else "check.no")),
    ]
    rows += [
        (
            out.text("check.file", outtype=outtype),
            out.text(
                "check.file-size",
                size=human_bytes(size),
                memory=human_bytes(report.memory_bytes.get(outtype)),
                num_ctx=report.num_ctx,
            ),
        )
        for outtype, size in report.output_bytes.items()
    ]
    out.line(clean(str(report.path)))
    width = max(cell_width(label) for label, _ in rows)
    for label, value in rows:
        out.line(f"  {label}{' ' * (width - cell_width(label))}  {clean(value)}")
    out.line()
    out.table(
        [out.text("check.authority"), out.text("check.answer"), out.text("check.reason")],
        [
            (
                f"{verdict.authority} {verdict.version}",
                out.text(f"check.{verdict.answer}"),
                _reason(app, verdict),
            )
            for verdict in report.verdicts
        ],
    )
    for finding in report.findings:
        text = finding.text(app.language)
        out.line()
        out.line(f"{out.text(f'check.{finding.severity}')}[{finding.id}]: {clean(text.message)}")
        if text.why:
            out.line(f"  {out.text('cli.why')}: {clean(text.why)}")
        if text.next:
            out.line(f"  {out.text('cli.next')}: {clean(text.next)}")
    out.line()
    if report.will_work:
        out.say("check.works", path=report.path)
    else:
        out.say("check.fails" if report.errors else "check.open")


def _reason(app: App, verdict: Verdict) -> str:
    reason = verdict.text(app.language)
    return app.out.text("check.since", since=verdict.since, reason=reason) if verdict.since else reason


def _count(number: int) -> str:
    """1543714304 -> "1.54 B"; weights are counted in thousands, millions and billions."""
    value = float(number)
    for unit in ("", " k", " M", " B"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g} T"
