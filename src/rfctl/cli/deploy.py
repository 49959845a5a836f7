"""`rfctl deploy`: a machine made ready for RAGFlow beside Ollama."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.consent import confirm
from rfctl.core.data import data_folder
from rfctl.core.error import PartlyDoneError, UsageError

if TYPE_CHECKING:
    from rfctl.stack.wsl import Machine
    from rfctl.stack.wsl_apply import Applied, Outcome
    from rfctl.stack.wsl_plan import Plan, Step

EXIT_PENDING = 10


@command("wsl")
@click.argument("action", type=click.Choice(["plan", "apply"]))
@click.option("--engine", type=click.Choice(["desktop", "distro"]))
@click.option("--ollama", type=click.Choice(["windows", "distro"]))
@click.option("--memory", metavar="SIZE", default="")
@click.option("--mirror", metavar="URL", default="")
@click.option("--lan-port", type=click.IntRange(1, 65535), metavar="N")
@click.option("--detailed-exitcode", is_flag=True)
@click.option("--undo", is_flag=True)
@click.option("--yes", is_flag=True)
@click.pass_context
def wsl(
    context: click.Context,
    app: App,
    action: str,
    engine: str | None,
    ollama: str | None,
    memory: str,
    mirror: str,
    lan_port: int | None,
    detailed_exitcode: bool,
    undo: bool,
    yes: bool,
) -> None:
    """`plan` only looks; `apply` does the steps one by one and asks before each."""
    from rfctl.stack.wsl import read_machine
    from rfctl.stack.wsl_apply import LEDGER
    from rfctl.stack.wsl_capture import capture
    from rfctl.stack.wsl_plan import Wish, is_size, make_plan

    if memory and not is_size(memory):
        raise UsageError("wsl.memory-invalid", memory=memory)
    with app.reporter().stage("wsl.stage-look", unit="seconds"):
        evidence, folders = capture(data_folder("deploy"), os.environ)
        machine = read_machine(evidence)
    ledger = app.directories.data / "deploy" / LEDGER
    if undo:
        _undo(app, ledger, machine, yes=yes, dry_run=action == "plan")
        return
    if mirror and not mirror.startswith("https://"):
        raise UsageError("wsl.mirror-invalid", mirror=mirror)
    wish = Wish(engine or "", ollama or "", memory, lan_port or 0, *_ports(app), mirror.rstrip("/"))
    plan = make_plan(machine, wish, folders, sys.executable)
    if action == "plan":
        app.out.report({"state": _state(machine), **vars(plan)})
        _print(app, machine, plan)
        if detailed_exitcode and plan.steps:
            context.exit(EXIT_PENDING)
        return
    _apply(app, ledger, machine, plan, yes=yes)


def _apply(app: App, ledger: Path, machine: Machine, plan: Plan, *, yes: bool) -> None:
    from rfctl.stack import wsl_apply

    def agree(step: Step) -> None:
        app.out.note("wsl.command", command=wsl_apply.shown(step))
        confirm(app, app.out.text(f"wsl.step.{step.id}", **step.params), yes=yes)

    outcomes = wsl_apply.apply(
        plan,
        ledger,
        environment=dict(os.environ),
        is_elevated=machine.is_elevated,
        agree=agree,
        reporter=app.reporter(),
    )
    params = {step.id: step.params for step in plan.steps}
    _finish(
        app,
        outcomes,
        {one.step: app.out.text(f"wsl.step.{one.step}", **params[one.step]) for one in outcomes},
    )
    if not plan.is_partial:
        app.out.note("wsl.then")


def _undo(app: App, ledger: Path, machine: Machine, *, yes: bool, dry_run: bool) -> None:
    from rfctl.stack import wsl_apply

    if dry_run:
        entries = wsl_apply.applied(ledger)[::-1]
        app.out.report({"undo": entries})
        for entry in entries:
            app.out.line(wsl_apply.command_line(entry.undo))
        return

    def agree(entry: Applied) -> None:
        confirm(app, app.out.text("wsl.undo-action", step=entry.step), yes=yes)

    outcomes = wsl_apply.undo(
        ledger, environment=dict(os.environ), is_elevated=machine.is_elevated, agree=agree
    )
    _finish(app, outcomes, {one.step: app.out.text("wsl.undo-action", step=one.step) for one in outcomes})


def _finish(app: App, outcomes: list[Outcome], texts: dict[str, str]) -> None:
    left = [one for one in outcomes if one.state == "left"]
    app.out.report({"unchanged": not outcomes, "outcomes": outcomes})
    if not outcomes:
        app.out.say("wsl.nothing")
    for one in outcomes:
        app.out.say(f"wsl.outcome-{one.state}", step=texts[one.step])
        if one.state == "left":
            app.out.line(f"   {one.detail}")
    if left:
        raise PartlyDoneError("wsl.steps-left", count=len(left), steps=", ".join(one.step for one in left))


def _print(app: App, machine: Machine, plan: Plan) -> None:
    from rfctl.stack.wsl_apply import command_line, shown

    out = app.out
    for name, state in _state(machine).items():
        out.line(f"{out.text(f'wsl.state-{name}')}: {state or '-'}")
    engine, ollama = (out.text(f"wsl.place-{name}") for name in (plan.engine, plan.ollama))
    out.say("wsl.goal", engine=engine, ollama=ollama)
    out.line()
    for number, step in enumerate(plan.steps, 1):
        out.line(f"{number}. {out.text(f'wsl.step.{step.id}', **step.params)}")
        out.line(f"   {out.text('cli.why')}: {out.text(f'wsl.why.{step.id}', **step.params)}")
        out.line(f"   {out.text(f'wsl.run-{step.place}')}: {shown(step)}")
        for label, line in (("wsl.preview", step.preview), ("wsl.undo", step.undo)):
            if line:
                out.line(f"   {out.text(label)}: {command_line(line)}")
        for change in step.change:
            out.line(f"     {change}")
    if not plan.steps:
        out.say("wsl.nothing")
    elif plan.is_partial:
        out.say("wsl.partial")
    if not plan.is_partial:
        out.note("wsl.then")


def _state(machine: Machine) -> dict[str, str]:
    home = machine.distribution
    return {
        "wsl": machine.wsl,
        "distribution": f"{home.name} (WSL {home.generation})" if home else "",
        "network": machine.mode,
        "docker": ", ".join(sorted(machine.engines)),
        "models": ", ".join(sorted(machine.ollama)),
    }


def _ports(app: App) -> tuple[int, int]:
    from rfctl.cli.stack_context import stack_project

    project = stack_project(app)
    env = project.read() if project.is_initialised else {}
    web, api = env.get("RFCTL_WEB_PORT", ""), env.get("RFCTL_API_PORT", "")
    return int(web) if web.isdigit() else 8080, int(api) if api.isdigit() else 9380
