"""`rfctl kb parse`: documents that are in a knowledge base, parsed once more."""

from __future__ import annotations

from typing import Any

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.kb import choose, given_options, parser_options
from rfctl.cli.kb_upload import describe, print_upload


@command("parse")
@click.argument("documents", nargs=-1)
@click.option("--kb", metavar="NAME")
@parser_options
def parse(app: App, documents: tuple[str, ...], kb: str | None, **values: Any) -> None:
    """Parse DOCUMENTS once more and wait; without any, all in which nothing can be found yet."""
    with app.ragflow() as ragflow:
        dataset = choose(app, ragflow, kb)
        report = ragflow.parse(dataset, documents, options=given_options(values), reporter=app.reporter())
    app.out.report(
        {"knowledge_base": report.dataset, "documents": [describe(app, item) for item in report.items]}
    )
    if not report.items:
        app.out.say("kb.nothing-to-parse", name=report.dataset)
        return
    print_upload(app, report)
    report.check()
