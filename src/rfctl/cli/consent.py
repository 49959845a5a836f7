"""Asking before something is destroyed."""

from __future__ import annotations

import sys

import click

from rfctl.cli.app import App
from rfctl.core.error import RefusedError


def confirm(app: App, action: str, *, yes: bool) -> None:
    """Return when the person agrees. Raises RefusedError for a no, and without a terminal to ask on."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise RefusedError("cli.needs-yes", action=action)
    if not click.confirm(app.out.text("cli.confirm", action=action), default=False, err=True):
        raise RefusedError("cli.not-confirmed")
