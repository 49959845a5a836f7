"""`rfctl model check` and `rfctl model convert`."""

from __future__ import annotations

import time
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
    from rfctl.converter.preview import Preview

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
@click.option("-o", "--output-file", "target", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--outtype", default="auto", metavar="TYPE", help="auto, f32, f16, bf16, q8_0, Q4_K_M, ...")
@click.option("--adapter", metavar="DIR", type=click.Path(path_type=Path), help="LoRA adapter to merge.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads; all cores by default.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--kernel", type=click.Choice(CHOICES), default="auto", help="Code that quantizes.")
@click.option("--split-max-size", metavar="N(M|G)", help="Most tensor data in one file.")
@click.option("--split-max-tensors", type=click.IntRange(min=1), help="Most tensors in one file.")
@click.option("--dry-run", is_flag=True, help="Show sizes and types, write nothing.")
@click.option("--provenance", is_flag=True)
def convert(
    app: App,
    directory: Path,
    target: Path | None,
    outtype: str,
    adapter: Path | None,
    threads: int | None,
    force: bool,
    kernel: str,
    split_max_size: str | None,
    split_max_tensors: int | None,
    dry_run: bool,
    provenance: bool,
) -> None:
    """Write a model directory as a GGUF file."""
    from rfctl.cli.model_provenance import find_provenance
    from rfctl.converter.convert import make_plan, write
    from rfctl.converter.split import SplitRule, parse_size

    if target is None and not dry_run:
        raise UsageError("model.target-missing")
    split = SplitRule(parse_size(split_max_size) if split_max_size else 0, split_max_tensors or 0)
    started = time.monotonic()
    choose_kernel(app, directory, outtype, kernel)
    origin = find_provenance(app, directory, adapter, outtype) if provenance and not dry_run else None
    plan = make_plan(directory, outtype, adapter=adapter, provenance=origin)
    if dry_run or target is None:
        from rfctl.converter.preview import preview_plan

        show_preview(app, preview_plan(plan, target, split))
        return
    result = write(
        plan,
        target,
        started=started,
        threads=threads,
        overwrite=force,
        split=split,
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
    if len(result.files) > 1:
        app.out.say("model.converted-pieces", count=len(result.files))


def show_preview(app: App, preview: Preview) -> None:
    """The table of `--dry-run`."""
    out = app.out
    out.report(preview)
    if not out.is_human:
        return
    titles = [out.text(f"model.preview-{name}") for name in ("tensor", "shape", "from", "to", "bytes")]
    out.table(
        titles,
        [
            (
                tensor.name,
                "x".join(map(str, tensor.shape)),
                tensor.source_dtype,
                tensor.type,
                f"{tensor.size:,}",
            )
            for tensor in preview.tensors
        ],
    )
    out.line()
    out.table(
        [out.text(f"model.preview-{name}") for name in ("type", "tensors", "weights", "bytes")],
        [
            (total.type, total.count, f"{total.parameter_count:,}", f"{total.size:,}")
            for total in preview.totals
        ],
    )
    out.line()
    if len(preview.files) > 1:
        for file in preview.files:
            name = file.path.name if file.path is not None else ""
            out.say("model.preview-file", name=name, size=file.size, count=file.tensor_count)
    out.say("model.preview-size", size=preview.size, outtype=preview.outtype, header=preview.header_size)
    if preview.disk_free is None:
        out.say("model.preview-disk", needed=human_bytes(preview.disk_needed))
    else:
        enough = "enough" if preview.disk_free >= preview.disk_needed else "short"
        out.say(
            f"model.preview-disk-{enough}",
            needed=human_bytes(preview.disk_needed),
            free=human_bytes(preview.disk_free),
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
