"""The report of `rfctl model check` for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rfctl.cli.app import App
from rfctl.cli.console import cell_width
from rfctl.cli.output import clean, human_bytes
from rfctl.core.catalog import quote_path

if TYPE_CHECKING:
    from rfctl.converter.check import CheckReport
    from rfctl.converter.check_hub import HubModel
    from rfctl.converter.finding import Verdict


def print_report(
    app: App, report: CheckReport, hub: HubModel | None, source: str = "", adapter: Path | None = None
) -> None:
    """Sizes, what each authority says, findings and the last word; nothing in JSON mode.

    source, adapter: what was asked about. The directory of an adapter alone is checked with its base, and is
    what the next command needs.
    """
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
    if report.download_bytes and report.disk_bytes:
        rows.append(
            (
                out.text("check.disk"),
                out.text(
                    "check.disk-peak",
                    download=human_bytes(report.download_bytes),
                    peak=human_bytes(max(report.disk_bytes.values())),
                ),
            )
        )
    if hub is not None:
        rows.append(
            (
                out.text("check.hub"),
                out.text("check.hub-read", size=human_bytes(hub.bytes_read), count=hub.requests),
            )
        )
    asked = str(report.path) if hub is not None or not source else str(Path(source).absolute())
    whole = list(dict.fromkeys([str(report.path), asked, *([str(adapter)] if adapter else [])]))
    out.line(clean(" + ".join(whole)))
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
        words = [quote_path(asked), *(["--adapter", quote_path(adapter)] if adapter else [])]
        out.say("check.works", path=" ".join(words))
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
