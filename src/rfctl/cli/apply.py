"""`rfctl apply`: what one profile holds, rebuilt on another."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.output import human_bytes
from rfctl.core.error import PartlyDoneError, RfctlError, UsageError
from rfctl.core.setting import EMBEDDED

if TYPE_CHECKING:
    from rfctl.stack.apply import Outcome
    from rfctl.stack.apply_plan import Plan, Side

EXIT_PENDING = 10
# A document taken for the same because its name and size are.
NOT_COMPARED = ("document", "keep", "unknown")


@command("apply")
@click.option("--from", "origin", default=EMBEDDED, metavar="PROFILE")
@click.option("--only", multiple=True, type=click.Choice(["model", "kb", "document", "chat"]))
@click.option("--name", "names", multiple=True, metavar="NAME")
@click.option("--check-content", is_flag=True)
@click.option("--dry-run", is_flag=True)
@click.option("--detailed-exitcode", is_flag=True)
@click.option("--ollama-for-ragflow", default="", metavar="URL")
@click.pass_context
def apply(
    context: click.Context,
    app: App,
    origin: str,
    only: tuple[str, ...],
    names: tuple[str, ...],
    check_content: bool,
    dry_run: bool,
    detailed_exitcode: bool,
    ollama_for_ragflow: str,
) -> None:
    """Only adds: nothing is removed or overwritten on the profile of -p. Run again, it does the rest."""
    from rfctl.cli.ragflow_model import register
    from rfctl.stack.apply import apply as rebuild
    from rfctl.stack.apply_plan import KINDS, make_plan

    origin_app = App({**app.flags, "profile": origin})
    if app.settings.endpoints().name == origin_app.settings.endpoints().name:
        raise UsageError("apply.same", profile=origin)
    with ExitStack() as stack:
        source, target = _open(origin_app, stack, check_content), _open(app, stack, check_content)
        if (source.ollama.url, source.ragflow.url) == (target.ollama.url, target.ragflow.url):
            raise UsageError("apply.same", profile=origin)
        with app.reporter().stage("apply.stage-compare", unit="seconds"):
            plan = make_plan(source, target, kinds=only or KINDS, names=names)
        if dry_run or not plan.pending:
            app.out.report({"dry_run": dry_run, "unchanged": not plan.pending, **_plan(plan)})
            _print_plan(app, plan)
            if detailed_exitcode and plan.pending:
                context.exit(EXIT_PENDING)
            return
        outcomes = rebuild(
            plan,
            source,
            target,
            register=lambda name: register(
                app, target.ragflow, target.ollama, name, address=ollama_for_ragflow
            ),
            reporter=app.reporter(),
        )
    _finish(app, plan, outcomes)


def _open(app: App, stack: ExitStack, check_content: bool) -> Side:
    from rfctl.cli.model_store import configured_store
    from rfctl.ollama.store import ModelStore
    from rfctl.stack.apply_content import ContentMemory
    from rfctl.stack.apply_plan import Side

    folder = configured_store(app, None)
    name = app.settings.endpoints().name
    return Side(
        name,
        stack.enter_context(app.ollama()),
        stack.enter_context(app.ragflow()),
        ModelStore(folder) if folder is not None else None,
        ContentMemory(app.directories.data / "apply", app.directories.data / "sync"),
        # The embedded engine's documents are on this machine's disk.
        reads_content=check_content or name == EMBEDDED,
    )


def _plan(plan: Plan) -> dict[str, object]:
    return {"source": plan.source, "target": plan.target, "items": plan.items}


def _print_plan(app: App, plan: Plan) -> None:
    out = app.out
    rows = [
        (
            out.text(f"apply.kind-{item.kind}"),
            f"{item.parent}/{item.name}" if item.parent else item.name,
            out.text(f"apply.action-{item.action}"),
            human_bytes(item.size) if item.size else "-",
            item.detail or (out.text("apply.content-other") if item.content == "other" else "-"),
        )
        for item in plan.items
        if item.action != "keep"
    ]
    if rows:
        headings = ("kind", "name", "action", "size", "detail")
        out.table([out.text(f"apply.column-{one}") for one in headings], rows)
    _print_counts(app, plan)


def _print_counts(app: App, plan: Plan, done: int | None = None) -> None:
    counts = Counter(item.action for item in plan.items)
    params = {
        "source": plan.source,
        "target": plan.target,
        "kept": counts["keep"],
        "left": counts["differs"] + counts["missing"],
    }
    if done is None:
        app.out.say("apply.plan", pending=len(plan.pending), **params)
    else:
        app.out.say("apply.result", done=done, **params)
    if counts["missing"]:
        app.out.note("apply.missing")
    if counts["differs"]:
        app.out.note("apply.differs")
    if unknown := sum((one.kind, one.action, one.content) == NOT_COMPARED for one in plan.items):
        app.out.note("apply.unknown", count=unknown)


def _finish(app: App, plan: Plan, outcomes: list[Outcome]) -> None:
    failed = [one for one in outcomes if one.cause is not None]
    app.out.report(
        {
            "dry_run": False,
            "unchanged": False,
            **_plan(plan),
            "done": len(outcomes) - len(failed),
            "failed": [{"item": one.item, "error": _error(app, one.cause)} for one in failed if one.cause],
        }
    )
    for one in outcomes:
        kind = app.out.text(f"apply.kind-{one.item.kind}")
        name = f"{one.item.parent}/{one.item.name}" if one.item.parent else one.item.name
        if one.cause is None:
            app.out.say("apply.done", kind=kind, name=name)
        else:
            app.out.say("apply.failed", kind=kind, name=name, detail=one.cause.text(app.language).message)
    _print_counts(app, plan, len(outcomes) - len(failed))
    if failed:
        counts: dict[str, Any] = {"failed": len(failed), "total": len(outcomes), "profile": plan.target}
        if len(failed) == len(outcomes):
            raise RfctlError("apply.all-failed", **counts)
        raise PartlyDoneError("apply.partly-failed", **counts)


def _error(app: App, cause: RfctlError) -> dict[str, object]:
    return {"id": cause.id, **vars(cause.text(app.language))}
