"""`rfctl`: the root of the command tree, exit codes, and the last line of defence."""

from __future__ import annotations

import os
import re
import sys
import traceback
from typing import Any

import click

from rfctl.cli.app import App, make_app
from rfctl.cli.command import Noun
from rfctl.cli.console import soften
from rfctl.cli.usage import explain_system, explain_usage
from rfctl.core.error import RfctlError

EXIT_BUG = 70
EXIT_INTERRUPTED = 130

NOUNS: dict[str, dict[str, str]] = {
    "model": {
        "check": "rfctl.cli.model_check:check",
        "convert": "rfctl.cli.model_convert:convert",
        "fetch": "rfctl.cli.model_fetch:fetch",
        "push": "rfctl.cli.model:push",
        "ls": "rfctl.cli.model:ls",
        "show": "rfctl.cli.model:show",
        "rm": "rfctl.cli.model:rm",
        "lint": "rfctl.cli.model_lint:lint",
        "verify": "rfctl.cli.model_verify:verify",
        "diff": "rfctl.cli.model_diff:diff",
        "gc": "rfctl.cli.model_gc:gc",
        "bundle": "rfctl.cli.model_bundle:bundle",
    },
    "kb": {
        "create": "rfctl.cli.kb:create",
        "edit": "rfctl.cli.kb:edit",
        "upload": "rfctl.cli.kb_upload:upload",
        "sync": "rfctl.cli.kb_sync:sync",
        "parse": "rfctl.cli.kb_parse:parse",
        "ls": "rfctl.cli.kb:ls",
        "show": "rfctl.cli.kb:show",
        "docs": "rfctl.cli.kb:docs",
        "search": "rfctl.cli.kb:search",
        "rm": "rfctl.cli.kb:rm",
        "use-model": "rfctl.cli.kb_use_model:use_model",
    },
    "chat": {
        "create": "rfctl.cli.chat_edit:create",
        "edit": "rfctl.cli.chat_edit:edit",
        "show": "rfctl.cli.chat_edit:show",
        "ask": "rfctl.cli.chat:ask",
        "talk": "rfctl.cli.chat_talk:talk",
        "web": "rfctl.cli.chat_web:web",
        "ls": "rfctl.cli.chat:ls",
        "rm": "rfctl.cli.chat:rm",
    },
    "eval": {
        "run": "rfctl.cli.eval:run",
    },
    "engine": {
        "start": "rfctl.cli.engine:start",
        "stop": "rfctl.cli.engine:stop",
        "status": "rfctl.cli.engine:status",
        "logs": "rfctl.cli.engine:logs",
        "serve": "rfctl.cli.engine:serve",
    },
    "stack": {
        "init": "rfctl.cli.stack:init",
        "up": "rfctl.cli.stack:up",
        "down": "rfctl.cli.stack:down",
        "status": "rfctl.cli.stack:status",
        "setup": "rfctl.cli.stack_setup:setup",
        "logs": "rfctl.cli.stack:logs",
        "upgrade": "rfctl.cli.stack_upgrade:run",
        "pin": "rfctl.cli.stack_upgrade:pin",
        "backup": "rfctl.cli.stack_backup:save",
        "restore": "rfctl.cli.stack_backup:load",
        "adopt": "rfctl.cli.stack_adopt:take",
    },
    "deploy": {
        "wsl": "rfctl.cli.deploy:wsl",
    },
    "tunnel": {
        "open": "rfctl.cli.tunnel:open_",
        "status": "rfctl.cli.tunnel:status",
        "close": "rfctl.cli.tunnel:close",
    },
    "config": {
        "show": "rfctl.cli.config:show",
        "set": "rfctl.cli.config:set_value",
        "unset": "rfctl.cli.config:unset",
    },
    "profile": {
        "ls": "rfctl.cli.profile:ls",
        "add": "rfctl.cli.profile:add",
        "use": "rfctl.cli.profile:use",
        "rm": "rfctl.cli.profile:rm",
    },
    "auth": {
        "login": "rfctl.cli.auth:login",
        "logout": "rfctl.cli.auth:logout",
    },
}
# What a noun alone means.
DEFAULTS = {"chat": "talk"}
VERBS: dict[str, str] = {
    "demo": "rfctl.cli.demo:demo",
    "apply": "rfctl.cli.apply:apply",
    "doctor": "rfctl.cli.doctor:doctor",
    "explain": "rfctl.cli.explain:explain",
    "completion": "rfctl.cli.completion:completion",
}


class Root(Noun):
    """The root group: nouns made from the table above, and the few verbs without a noun."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*VERBS, *NOUNS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in NOUNS:
            return Noun(cmd_name, NOUNS[cmd_name], DEFAULTS.get(cmd_name, ""))
        return super().get_command(ctx, cmd_name)


def _show_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        context.meta["rfctl.version"] = True


@click.pass_context
def _start(context: click.Context, /, **values: Any) -> None:
    if context.meta.get("rfctl.version"):
        from rfctl.cli.state import print_version

        print_version(make_app(context))
        context.exit(0)
    if context.invoked_subcommand is None:
        from rfctl.cli.state import print_state

        print_state(make_app(context))


root = Root("rfctl", VERBS, invoke_without_command=True, callback=_start)
root.no_args_is_help = False
root.params.insert(
    0,
    click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_show_version,
        help="Show the version and exit.",
    ),
)


def execute(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    app = App()
    # Known before anything is parsed: `--help` comes before it, and a wrong command line is told in it too.
    if found := re.search(r"(?:^|\0)--lang[=\0](en|zh)(?:\0|$)", "\0".join(arguments)):
        app.set_flag("language", found[1])
    for stream in (sys.stdout, sys.stderr):
        soften(stream)
    try:
        code = root.main(arguments, prog_name="rfctl", standalone_mode=False, obj=app)
        return code if isinstance(code, int) else 0
    except RfctlError as error:
        app.out.error(error)
        return error.exit_code
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        if "--json" in arguments:
            app.set_flag("json", True)
        wrong = explain_usage(error)
        if isinstance(error, click.exceptions.NoArgsIsHelpError) and app.out.is_human:
            app.out.trace(error.message)
        else:
            app.out.error(wrong)
        return wrong.exit_code
    except (click.Abort, KeyboardInterrupt):
        app.out.error(RfctlError("core.interrupted", exit_code=EXIT_INTERRUPTED))
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`rfctl ... | head`): nothing is left to tell it.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
        return 1
    except Exception as error:
        system = (
            explain_system(error, arguments, os.environ.get("RFCTL_HOME", ""))
            if isinstance(error, OSError)
            else None
        )
        if system is not None:
            app.out.error(system)
            return system.exit_code
        # A process boundary: a bug stays visible as a bug, with its traceback and its own exit code.
        app.out.trace(traceback.format_exc())
        app.out.error(RfctlError("core.bug", exit_code=EXIT_BUG, detail=f"{type(error).__name__}: {error}"))
        return EXIT_BUG
