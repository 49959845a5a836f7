"""`rfctl doctor`: what is wrong with this machine, and how it is put right."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.consent import confirm
from rfctl.cli.output import to_json
from rfctl.cli.stack_context import stack_overrides, stack_project
from rfctl.core.catalog import render
from rfctl.core.credential import find_ragflow_key
from rfctl.core.error import RfctlError, VerdictError
from rfctl.core.version import __version__
from rfctl.stack.adopt import adopted_name
from rfctl.stack.check import Finding, Verdict
from rfctl.stack.collector import Target, collect
from rfctl.stack.evidence import Evidence, write_report
from rfctl.stack.examination import checks, examine, require_known
from rfctl.stack.fix import intention, possible, repair

# The services' own names for the groups that are about them.
_GROUPS = {"ragflow": "rag"}


@command("doctor")
@click.option("--only", multiple=True, metavar="GROUP")
@click.option("--fix", is_flag=True)
@click.option("--yes", is_flag=True)
@click.option("--all", "show_all", is_flag=True)
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
def doctor(
    app: App, only: tuple[str, ...], fix: bool, yes: bool, show_all: bool, report: Path | None
) -> None:
    """Groups: host, docker, wsl, net, engine, ollama, model, rag, kb. Exit code 5 when a check fails."""
    wanted = tuple(_GROUPS.get(part, part) for entry in only for part in entry.split(",") if part)
    target = _target(app, wanted)
    evidence, findings = _look(app, target, wanted)
    repairs = []
    if fix:
        mendable = possible(findings, target.project)
        if mendable:
            for one in mendable:
                words = app.out.text(intention(one), **one.params)
                app.out.note("doctor.fix-item", check=one.id, words=words)
            confirm(
                app, app.out.text("doctor.fix-plan", actions=", ".join(item.id for item in mendable)), yes=yes
            )
            repairs = [repair(item, project=target.project, engine=target.engine) for item in mendable]
            evidence, findings = _look(app, target, wanted)
    counts = Counter(finding.verdict for finding in findings)
    document = {
        "findings": [_document(app, finding) for finding in findings],
        "counts": {verdict.value: counts[verdict] for verdict in Verdict},
        "repairs": repairs,
    }
    app.out.report(document)
    _print(app, findings, show_all)
    for item in repairs:
        if item.done:
            app.out.say("doctor.fixed", check=item.check, detail=item.detail)
        else:
            app.out.warn("doctor.fix-failed", check=item.check, detail=item.detail)
    if fix and not repairs:
        app.out.note("doctor.fix-nothing")
    if report is not None:
        try:
            write_report(report, evidence, {"version": __version__, "report": to_json(document)})
        except OSError as error:
            raise RfctlError("doctor.report-unwritable", path=report, detail=str(error)) from error
        app.out.note("doctor.report", path=report)
    if not target.uses_docker:
        app.out.note("doctor.embedded")
    app.out.say("doctor.summary", **{verdict.value: counts[verdict] for verdict in Verdict})
    if bad := [finding.id for finding in findings if finding.verdict is Verdict.FAIL]:
        raise VerdictError("doctor.failed", count=len(bad), total=len(findings), checks=", ".join(bad))


def _target(app: App, wanted: Sequence[str]) -> Target:
    profile = app.settings.endpoints()
    folders = app.directories
    key = ""
    project = stack_project(app)
    url = profile.ragflow_url
    try:
        from rfctl.stack.lifecycle import api_url

        place = url or (api_url(project.read()) if project.is_initialised else "")
        keyring = app.settings.uses_keyring
        found = find_ragflow_key(place, os.environ, folders.config, keyring=keyring) if place else None
        key = found.secret if found else ""
    except RfctlError:
        # The checks themselves say what is wrong with the stack's settings.
        key = ""
    ollama_url = profile.ollama_url
    if ollama_url:
        from rfctl.ollama.host import normalise_host

        ollama_url = normalise_host(ollama_url)
    if not wanted or any(name.startswith("engine") for name in wanted):
        from rfctl.converter.quantization.kernel import use_kernel

        use_kernel(cache=folders.cache, build=False)  # a look, not a reason to compile
    # Somebody who uses the embedded engine alone has no use for Docker, unless they ask about it.
    uses_docker = bool(wanted or url or project.is_initialised or adopted_name(project))
    return Target(
        project, folders.engine, dict(os.environ), ollama_url, url, key, uses_docker, stack_overrides()
    )


def _look(app: App, target: Target, wanted: Sequence[str]) -> tuple[Evidence, list[Finding]]:
    table = checks()
    require_known(wanted)
    groups = frozenset(table[name].group if name in table else name for name in wanted)
    with app.reporter().stage("doctor.collecting", unit="seconds"):
        evidence = collect(target, groups)
        return evidence, examine(evidence, wanted)


def _document(app: App, finding: Finding) -> dict[str, object]:
    text = render(finding.text, app.language, finding.params)
    bad = finding.verdict in (Verdict.WARN, Verdict.FAIL)
    return {
        "id": finding.id,
        "group": finding.group,
        "verdict": finding.verdict,
        "message": text.message,
        "message_en": render(finding.text, "en", finding.params).message,
        "why": text.why if bad else "",
        "next": (_fix(app, finding) or text.next) if bad else "",
        "fixable": finding.fixable,
        "evidence": finding.params,
    }


def _print(app: App, findings: Sequence[Finding], show_all: bool) -> None:
    width = max((len(finding.id) for finding in findings), default=0)
    out = app.out
    for finding in findings:
        if finding.verdict is Verdict.SKIP and not show_all:
            continue
        text = render(finding.text, app.language, finding.params)
        label = out.text(f"doctor.verdict.{finding.verdict.value}")
        out.line(f"{finding.id:<{width}}  {label}: {text.message}")
        if finding.verdict in (Verdict.WARN, Verdict.FAIL):
            if text.why:
                out.line(f"  {out.text('cli.why')}: {text.why}")
            if way := _fix(app, finding) or text.next:
                out.line(f"  {out.text('cli.next')}: {way}")


def _fix(app: App, finding: Finding) -> str:
    """What helps on this platform in particular, "" where the same helps everywhere."""
    return render(finding.fix, app.language, finding.params).message if finding.fix else ""
