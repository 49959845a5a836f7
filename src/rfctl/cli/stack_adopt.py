"""`rfctl stack adopt`: a RAGFlow that runs from upstream's own files, for looking at only."""

from __future__ import annotations

import os

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.stack_context import stack_project
from rfctl.stack.adopt import adopt, forget


@command("adopt")
@click.argument("name", required=False, default="")
@click.option("--forget", "forgets", is_flag=True)
def take(app: App, name: str, forgets: bool) -> None:
    """NAME is Compose's project, mostly "docker"; may be left out when only one has RAGFlow."""
    project = stack_project(app)
    if forgets:
        done = forget(project)
        app.out.report({"forgotten": done})
        app.out.say("stack.forgotten" if done else "stack.adopt-nothing")
        return
    found = adopt(project, dict(os.environ), name)
    app.out.report(found)
    app.out.say("stack.adopted", name=found.name, image=found.image, url=found.web_url or "-")
    if found.web_url:
        app.out.note("stack.next-profile", name=found.name, url=found.web_url)
