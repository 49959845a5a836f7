"""What click and the operating system say, as errors of ours in both languages."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Sequence
from pathlib import Path

import click

from rfctl.core.error import RfctlError, UsageError

# What a disk or an administrator decides is no fault of rfctl, wherever it is met.
_SYSTEM = {
    errno.ENOSPC: "core.disk-full",
    errno.EDQUOT: "core.disk-full",
    errno.EACCES: "core.file-refused",
    errno.EPERM: "core.file-refused",
    errno.EROFS: "core.file-refused",
    errno.ENAMETOOLONG: "core.name-too-long",
}
# These are the user's doing only for a path that stands in the command line.
_GIVEN = {
    errno.ENOENT: "core.file-missing",
    errno.ENOTDIR: "core.file-missing",
    errno.EISDIR: "core.file-is-folder",
}
_PATH = re.compile(r"^\w+ '(.*)' (does not exist|is a directory|is a file|is not readable)", re.DOTALL)
_PATH_FAULTS = {
    "does not exist": "core.file-missing",
    "is a directory": "core.file-is-folder",
    "is a file": "core.folder-is-file",
    "is not readable": "core.file-refused",
}
_EXTRA = re.compile(r"Got unexpected extra arguments? \((.*)\)", re.DOTALL)


def explain_usage(error: click.ClickException) -> UsageError:
    """The error with its own id; `cli.usage` with click's words for what has none."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "rfctl"
    hint = f"{path} --help"
    match error:
        case click.exceptions.NoArgsIsHelpError():
            return UsageError("cli.command-missing", path=path, hint=hint)
        case click.exceptions.NoSuchCommand():
            return UsageError(
                "cli.command-unknown", path=path, name=error.command_name, hint=_nearest(error, hint)
            )
        case click.NoSuchOption():
            return UsageError(
                "cli.option-unknown",
                path=path,
                name=error.option_name,
                hint=_nearest_option(error, path, hint),
            )
        case click.BadOptionUsage():
            return UsageError("cli.option-use", name=error.option_name, detail=error.message, hint=hint)
        case click.MissingParameter():
            return UsageError("cli.value-missing", name=_name(error), hint=hint)
        case click.BadParameter():
            return _explain_value(error, hint)
        case _:
            if extra := _EXTRA.match(error.format_message()):
                return UsageError("cli.argument-extra", path=path, extra=extra[1], hint=hint)
            if error.message == "Missing command.":
                return UsageError("cli.command-missing", path=path, hint=hint)
            return UsageError("cli.usage", detail=error.format_message(), hint=hint)


def _nearest_option(error: click.NoSuchOption, path: str, default: str) -> str:
    """The option that holds the given word, or is spelled much like it; another one would only mislead."""
    options = (
        [name for one in error.ctx.command.get_params(error.ctx) for name in one.opts] if error.ctx else []
    )
    given = error.option_name.lstrip("-")
    held = [name for name in options if given in name.split("-")]
    close = held or difflib.get_close_matches(error.option_name, options, n=1, cutoff=0.75)
    return f"{path} {close[0]}" if close else default


def _nearest(error: click.exceptions.NoSuchCommand, default: str) -> str:
    context = error.ctx
    if context is None or not isinstance(context.command, click.Group):
        return default
    names = context.command.list_commands(context)
    close = difflib.get_close_matches(error.command_name, names, n=1)
    return f"{context.command_path} {close[0]}" if close else default


def _explain_value(error: click.BadParameter, hint: str) -> UsageError:
    kind = error.param.type if error.param is not None else None
    match kind:
        case click.Choice():
            return UsageError(
                "cli.value-choice", name=_name(error), choices=", ".join(map(str, kind.choices)), hint=hint
            )
        case click.IntRange() | click.FloatRange() if kind.min is not None and kind.max is not None:
            return UsageError("cli.value-range", name=_name(error), least=kind.min, most=kind.max, hint=hint)
        case click.IntRange() | click.FloatRange() if kind.min is not None:
            return UsageError("cli.value-least", name=_name(error), least=kind.min, hint=hint)
        case click.Path() if found := _PATH.search(error.message):
            return UsageError(_PATH_FAULTS[found[2]], path=found[1])
        case _:
            return UsageError("cli.value-invalid", name=_name(error), detail=error.message, hint=hint)


def _name(error: click.BadParameter) -> str:
    """The name of the parameter as the help page shows it."""
    if error.param is None:
        return str(error.param_hint or "")
    if isinstance(error.param, click.Option):
        return max(error.param.opts, key=len)
    return error.param.make_metavar(error.ctx or click.Context(click.Command("rfctl")))


def explain_system(error: OSError, arguments: Sequence[str], home: str = "") -> RfctlError | None:
    """The error for what disk, rights or a given path forbid; None for anything else, which is a bug.

    home: the user's RFCTL_HOME, which may be no folder at all.
    """
    path = str(error.filename or "")
    if home and path and (home.startswith(path) or (error.errno == errno.ENOTDIR and path.startswith(home))):
        return UsageError("core.home-unusable", path=home)
    if id := _SYSTEM.get(error.errno or 0):
        return RfctlError(id, path=path or home or str(Path.home()))
    if path and any(path in argument for argument in arguments) and (id := _GIVEN.get(error.errno or 0)):
        return UsageError(id, path=path)
    return None
