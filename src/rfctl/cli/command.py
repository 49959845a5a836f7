"""Click classes of the command tree: nouns load their verbs lazily, help texts come from the catalogs.

`rfctl --help` and `rfctl NOUN --help` read the catalogs only; the module of a verb is imported when the
verb runs or its own help is asked for.
"""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import click

from rfctl.cli.app import App, make_app
from rfctl.cli.console import wrap
from rfctl.core.catalog import entries
from rfctl.core.error import UnreachableError

# What click calls the type of a value -> what stands for it on a page.
_METAVARS = {"integer": "N", "integer range": "N", "float": "X", "float range": "X", "text": "TEXT"}
ALIASES = {"list": "ls", "delete": "rm", "remove": "rm"}


def _language(context: click.Context) -> str:
    app = context.find_object(App)
    return app.language if app is not None else "en"


@cache
def examples() -> Mapping[str, Sequence[str]]:
    """`noun.verb` -> command lines for its help page."""
    with Path(__file__).with_name("example.toml").open("rb") as file:
        return tomllib.load(file)


def _help(key: str, language: str, default: str, part: str = "message") -> str:
    for name in (language, "en"):
        if entry := entries(name).get(f"help.{key}"):
            return entry.get(part, default)
    return default


def _path(context: click.Context) -> str:
    return ".".join(context.command_path.split()[1:])


def _localise_options(command: click.Command, context: click.Context) -> list[click.Parameter]:
    """The parameters; help of an option: `help.<noun>.<verb>.<option>`, `option.<option>` or its own."""
    language = _language(context)
    parameters = command.get_params(context)
    for parameter in parameters:
        if isinstance(parameter, click.Option) and parameter.name:
            # click keeps the value of its own help option under a name that varies.
            name = "help" if "--help" in parameter.opts else parameter.name
            default = _help(f"option.{name}", language, parameter.help or "")
            parameter.help = _help(f"{_path(context)}.{name}", language, default)
            parameter.metavar = parameter.metavar or _METAVARS.get(parameter.type.name)
            told = re.search("default|默认", parameter.help)
            if isinstance(parameter.default, str | int | float) and parameter.default and not told:
                parameter.show_default = not parameter.is_flag
    return parameters


def _describe(option: click.Option, context: click.Context) -> tuple[str, str] | None:
    """Names and help of an option; what click puts behind it in the words of the user, without what the
    value says of itself ("at least 1").
    """
    record = option.get_help_record(context)
    if record is None:
        return None
    extra = option.get_help_extra(context)
    parts = [("default", extra.get("default")), ("required", extra.get("required"))]
    language = _language(context)
    shown = [_help(f"heading.{name}", language, name).format(value=value) for name, value in parts if value]
    return record[0], f"{option.help or ''}{'  ' if shown else ''}" + " ".join(f"[{one}]" for one in shown)


class _Formatter(click.HelpFormatter):
    """Lines counted in cells of the terminal, which Chinese characters take two of."""

    def write_text(self, text: str) -> None:
        indent = " " * self.current_indent
        for line in wrap(text, self.width - self.current_indent):
            self.write(f"{indent}{line}".rstrip() + "\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        rows = list(rows)
        column = min(max((len(first) for first, _ in rows), default=0), col_max) + col_spacing
        indent = " " * self.current_indent
        for first, second in rows:
            lines = wrap(second, max(self.width - column - self.current_indent, 10))
            head = f"{first:<{column}}"
            if len(first) > column - col_spacing and second:
                head = f"{first}\n{indent}{'':<{column}}"
            self.write(f"{indent}{head}{lines[0]}".rstrip() + "\n")
            for line in lines[1:]:
                self.write(f"{indent}{'':<{column}}{line}\n")


class _Context(click.Context):
    formatter_class = _Formatter


class _Localised(click.Command):
    """The parts of a help page, headings included, in the language of the user."""

    context_class = _Context

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            # The parser itself knows no context; without one an error cannot name the command.
            error.ctx = error.ctx or ctx
            raise

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        prefix = _help("heading.usage", _language(ctx), "Usage")
        formatter.write_usage(
            ctx.command_path, " ".join(self.collect_usage_pieces(ctx)), prefix=f"{prefix}: "
        )

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        path = _path(ctx) or "root"
        for part in ("message", "why"):
            if text := _help(path, _language(ctx), "", part):
                formatter.write_paragraph()
                with formatter.indentation():
                    formatter.write_text(text)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Command lines as they are typed, one each, never broken."""
        if lines := examples().get(_path(ctx)):
            with formatter.section(_help("heading.examples", _language(ctx), "Examples")):
                for line in lines:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [one for one in _localise_options(self, ctx) if isinstance(one, click.Option)]
        records = [record for one in options if (record := _describe(one, ctx)) is not None]
        with formatter.section(_help("heading.options", _language(ctx), "Options")):
            formatter.write_dl(records)


class Command(_Localised):
    """A verb. Its own options come first, then the common ones."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(common_options())

    def get_short_help_str(self, limit: int = 45) -> str:
        return super().get_short_help_str(200)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        _localise_options(self, ctx)
        return super().shell_complete(ctx, incomplete)


class Noun(_Localised, click.Group):
    """A group whose verbs are `"module:attribute"` strings, imported on use.

    default: the verb that is meant where none is given; without one the help is shown.
    """

    def __init__(self, name: str, verbs: Mapping[str, str], default: str = "", **kwargs: Any) -> None:
        super().__init__(name, no_args_is_help=not default, **kwargs)
        self._verbs = verbs
        self._default = default
        self.params.extend(common_options())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        verbless = not args or (args[0].startswith("-") and not {*args} & {*self._verbs, *ALIASES, "--help"})
        return super().parse_args(ctx, [self._default, *args] if self._default and verbless else args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = self._verbs.get(cmd_name) or self._verbs.get(ALIASES.get(cmd_name, ""))
        if target is None:
            return None
        module, attribute = target.split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return (command.name if command is not None else name), command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        path = _path(ctx)
        prefix = f"{path}." if path else ""
        rows = [(name, _help(prefix + name, _language(ctx), "")) for name in self.list_commands(ctx)]
        with formatter.section(_help("heading.commands", _language(ctx), "Commands")):
            formatter.write_dl(rows)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        path, language = _path(ctx), _language(ctx)
        if incomplete.startswith("-"):
            _localise_options(self, ctx)
            return click.Command.shell_complete(self, ctx, incomplete)
        return [
            CompletionItem(name, help=_help(f"{path}.{name}" if path else name, language, ""))
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]


def _store(key: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def callback(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is not None and value is not False:
            make_app(ctx).set_flag(key, value)
        return value

    return callback


def common_options() -> list[click.Option]:
    """Options that every command takes, before or after the verb."""

    def option(names: list[str], key: str, **kwargs: Any) -> click.Option:
        return click.Option(names, callback=_store(key), expose_value=False, is_eager=True, **kwargs)

    return [
        option(["--json", "json_mode"], "json", is_flag=True, help="Print exactly one JSON document."),
        option(
            ["--output", "output_mode"],
            "output",
            type=click.Choice(["human", "json", "jsonl"]),
            help="Form of the result.",
        ),
        option(["-q", "--quiet", "quiet"], "quiet", is_flag=True, help="No progress and no notes."),
        option(
            ["--lang", "language"], "language", type=click.Choice(["en", "zh"]), help="Language of messages."
        ),
        option(["-p", "--profile", "profile"], "profile", help="Profile to use: embedded or one of yours."),
    ]


def command(name: str, **kwargs: Any) -> Callable[[Callable[..., Any]], Command]:
    """Decorator for a verb; the function gets the `App` as its first argument."""

    def decorate(function: Callable[..., Any]) -> Command:
        def invoke(**values: Any) -> Any:
            app = make_app(click.get_current_context())
            try:
                return function(app, **values)
            except UnreachableError as error:
                raise app.explain(error) from error

        invoke.__doc__ = function.__doc__
        invoke.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        return click.command(name, cls=Command, **kwargs)(invoke)

    return decorate
