"""`rfctl model check`: will a model convert, load and run? From headers and small files only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.completion import complete_file
from rfctl.cli.model_check_target import Target, parse_target
from rfctl.core.error import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rfctl.converter.check import CheckReport
    from rfctl.converter.check_hub import HubModel
    from rfctl.converter.finding import Finding
    from rfctl.converter.hub_reader import RepoName

EXIT_VERDICT = 5


@command("check")
@click.argument("source", metavar="DIR|ORG/NAME[@REV]", shell_complete=complete_file)
@click.option(
    "--for", "target", metavar="NAME@VERSION", help="ollama@0.24.0, ollama@URL or llama.cpp@b10488."
)
@click.option(
    "--adapter", metavar="DIR", type=click.Path(exists=True, path_type=Path), help="LoRA adapter to merge."
)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub repository.")
@click.option("--outtype", metavar="TYPE", help="Estimate sizes for this type only.")
@click.option("--num-ctx", type=click.IntRange(min=1), help="Context to estimate the memory for, tokens.")
def check(
    app: App,
    source: str,
    target: str | None,
    adapter: Path | None,
    revision: str | None,
    outtype: str | None,
    num_ctx: int | None,
) -> None:
    """Say whether a model will convert, load and run. Reads headers and small files only."""
    from rfctl.cli.model_check_show import print_report

    wanted = parse_target(target)
    repo = _find_repo(source, revision)
    if repo is None:
        from rfctl.converter.check import check as run

        hub = None
        report = run(
            Path(source),
            num_ctx=num_ctx,
            adapter=adapter,
            outtype=outtype,
            ollama_version=wanted.ollama_version or None,
            llamacpp_build=wanted.llamacpp_build or None,
        )
    else:
        hub, report = _check_repo(app, repo, num_ctx, adapter, outtype, wanted)
    app.out.report(_document(report, hub, wanted, app.language))
    print_report(app, report, hub, source, adapter)
    if not report.will_work:
        raise click.exceptions.Exit(EXIT_VERDICT)


def _find_repo(source: str, revision: str | None) -> RepoName | None:
    """The repository that `source` names, None for a directory of this machine, which comes first."""
    if "\0" in source or (not source.startswith("hf://") and Path(source).exists()):
        if revision is not None:
            raise UsageError("check.revision-local", path=source)
        return None
    from rfctl.converter.hub_reader import RepoName, parse_repo

    repo = parse_repo(source)
    if repo is not None and revision is not None:
        return RepoName(repo.id, revision)
    return repo


def _check_repo(
    app: App,
    repo: RepoName,
    num_ctx: int | None,
    adapter: Path | None,
    outtype: str | None,
    wanted: Target,
) -> tuple[HubModel, CheckReport]:
    import tempfile

    from rfctl.cli.hub import read_hub_access
    from rfctl.converter.check_hub import check_repository
    from rfctl.converter.hub_reader import HubReader

    access = read_hub_access(app, str(repo))
    with (
        tempfile.TemporaryDirectory(prefix="rfctl-check-") as folder,
        HubReader(repo, endpoint=access.endpoint, token=access.token) as reader,
        app.reporter().stage("check.stage-fetch", repo=str(repo)),
    ):
        return check_repository(
            reader,
            Path(folder),
            num_ctx=num_ctx,
            adapter=adapter,
            outtype=outtype,
            ollama_version=wanted.ollama_version or None,
            llamacpp_build=wanted.llamacpp_build or None,
        )


def _document(report: CheckReport, hub: HubModel | None, target: Target, language: str) -> dict[str, object]:
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
    document["target"] = {
        "ollama_version": target.ollama_version,
        "llamacpp_build": target.llamacpp_build,
        "url": target.url,
    }
    if hub is not None:
        names = ("repo", "revision", "commit", "endpoint", "download_bytes", "bytes_read", "requests")
        document["hub"] = {name: getattr(hub, name) for name in names}
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
