"""`rfctl explain ID`: the page of an error or a finding."""

from __future__ import annotations

import difflib

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.core.catalog import entries, render
from rfctl.core.error import UsageError


@command("explain")
@click.argument("id")
def explain(app: App, id: str) -> None:
    """Explain the id that an error or a finding printed."""
    if id not in entries("en"):
        close = difflib.get_close_matches(id, entries("en"), n=1)
        if not close:
            raise UsageError("cli.id-unlike", wanted=id)
        raise UsageError("cli.id-unknown", wanted=id, close=close[0])
    text = render(id, app.language, {})
    app.out.report({"id": id, "message": text.message, "why": text.why, "next": text.next})
    app.out.line(f"{id}: {text.message}")
    if text.why:
        app.out.line(f"  {app.out.text('cli.why')}: {text.why}")
    if text.next:
        app.out.line(f"  {app.out.text('cli.next')}: {text.next}")
