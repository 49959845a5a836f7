"""`rfctl kb sync`: a knowledge base that holds what a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.kb import choose
from rfctl.cli.kb_upload import describe, note_skipped, print_causes, warn_unknown_letters
from rfctl.core.error import UsageError

if TYPE_CHECKING:
    from rfctl.ragflow_client.sync import SyncReport
    from rfctl.ragflow_client.sync_plan import SyncPlan

_SHOWN = ("add", "replace", "parse", "rename", "fail")


@command("sync")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("kb", required=False)
@click.option("--prune", is_flag=True)
@click.option("--dry-run", is_flag=True)
@click.option("--yes", is_flag=True)
def sync(app: App, folder: Path, kb: str | None, prune: bool, dry_run: bool, yes: bool) -> None:
    """Upload what is new, replace what has changed, and with --prune remove what is gone."""
    from rfctl.cli.consent import confirm

    if not folder.is_dir():
        raise UsageError("sync.not-a-folder", path=folder)

    def approve(plan: SyncPlan) -> bool:
        if dry_run:
            _print_plan(app, plan, prune)
            return False
        if prune and plan.orphans:
            names = ", ".join(document.name for _, document in plan.orphans[:5])
            more = "…" if len(plan.orphans) > 5 else ""
            action = app.out.text("sync.prune-action", count=len(plan.orphans), kb=name, names=names + more)
            confirm(app, action, yes=yes)
        return True

    with app.ragflow() as ragflow:
        dataset = choose(app, ragflow, kb, folders=() if dry_run else (folder,))
        name = dataset.name
        report = ragflow.sync(
            dataset,
            folder,
            app.directories.data / "sync",
            prune=prune,
            approve=approve,
            reporter=app.reporter(),
        )
    if report is None:
        return
    app.out.report(_to_json(app, report))
    _print_report(app, report)
    report.check()


def _to_json(app: App, report: SyncReport) -> dict[str, Any]:
    return {
        "knowledge_base": report.dataset,
        "counts": dict(report.counts),
        "changed": [describe(app, item) for item in report.changed],
        "removed": report.removed,
        "left": report.left,
        "skipped": dict(report.skipped),
    }


def _print_report(app: App, report: SyncReport) -> None:
    out = app.out
    note_skipped(app, report.skipped)
    rows = [(item.name, out.text(f"kb.{item.status}"), item.chunks or "-") for item in report.changed]
    rows += [(name, out.text("sync.removed"), "-") for name in report.removed]
    if rows:
        out.table([out.text(f"kb.column-{name}") for name in ("document", "result", "chunks")], rows)
    warn_unknown_letters(app, report.changed)
    print_causes(app, report.failed)
    if rows:
        out.line()
    counts = report.counts
    out.say(
        "sync.total",
        name=report.dataset,
        unchanged=counts["unchanged"],
        added=counts["parsed"],
        replaced=counts["replaced"],
        renamed=counts["renamed"],
        removed=counts["removed"],
        failed=counts["failed"],
    )
    if report.left:
        out.note("sync.left", count=len(report.left))


def _print_plan(app: App, plan: SyncPlan, prune: bool) -> None:
    removed = [document.name for _, document in plan.orphans]
    app.out.report(
        {
            "dry_run": True,
            "changes": [
                {"path": step.path, "name": step.name, "action": step.action} for step in plan.changes
            ],
            "remove": removed if prune else [],
            "left": [] if prune else removed,
            "unchanged": len(plan.steps) - len(plan.changes),
            "skipped": dict(plan.skipped),
        }
    )
    note_skipped(app, plan.skipped)
    for step in plan.changes:
        app.out.line(f"{app.out.text(f'sync.would-{step.action}')}  {step.name}")
        if step.cause is not None:
            app.out.line(f"    {step.cause.text(app.language).message}")
    if prune:
        for name in removed:
            app.out.line(f"{app.out.text('sync.would-remove')}  {name}")
    app.out.say(
        "sync.would-total",
        unchanged=len(plan.steps) - len(plan.changes),
        changes=len(plan.changes) + (len(removed) if prune else 0),
    )
    if removed and not prune:
        app.out.note("sync.left", count=len(removed))
