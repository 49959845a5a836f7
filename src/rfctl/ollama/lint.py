"""Faults of a Modelfile that Ollama takes without a word, or reports without saying what to do.

Rules from Ollama v0.33.0-rc2: parser/parser.go (characters that vanish, parameters that are dropped),
server/images.go (when a template is ignored), server/create.go (what is not checked).
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rfctl.core.error import RfctlError
from rfctl.core.gguf_header import GgufError
from rfctl.ollama.candidate import Candidate, read_candidate
from rfctl.ollama.context import choose_context, default_need
from rfctl.ollama.create_request import is_semantic_version
from rfctl.ollama.family import recognise_family
from rfctl.ollama.modelfile import (
    MAX_BYTES,
    Command,
    Modelfile,
    ModelfileError,
    decode_modelfile,
    parse_modelfile,
)
from rfctl.ollama.parameter import ParameterError, kinds, parse_parameter
from rfctl.ollama.stop import derive_stops

_SINGLE = ("template", "system", "renderer", "parser", "requires")
_TURN = re.compile(r"\.(Messages|Prompt|Response)\b")
_COMMENT = re.compile(r"\s#\s")


class Severity(enum.StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """id: catalog id, whose `next` is the fix; line: from 1 (0: the whole file)."""

    id: str
    severity: Severity
    line: int = 0
    params: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class LintReport:
    """commands: what Ollama reads (empty after an error). error: Ollama's own text for a Modelfile that it
    refuses, with its `line` as Ollama counts lines (0: none). findings: errors and warnings by line."""

    commands: tuple[Command, ...]
    error: str
    line: int
    findings: tuple[Finding, ...]

    @property
    def has_error(self) -> bool:
        return any(finding.severity is Severity.ERROR for finding in self.findings)


def lint_modelfile(
    data: bytes, folder: Path, *, explain_template: Callable[[str], str] | None = None
) -> LintReport:
    """Read a Modelfile as Ollama would and say what is wrong with it.

    folder: where relative paths in it begin; a GGUF named by FROM is looked into (header only).
    explain_template: says why a Go template does not parse, "" when it does.
    """
    if len(data) > MAX_BYTES:
        problem = Finding("lint.too-large", Severity.ERROR, 0, {"limit": MAX_BYTES})
        return LintReport((), "file too large", 0, (problem,))
    text = decode_modelfile(data)
    try:
        modelfile = parse_modelfile(text)
    except ModelfileError as error:
        id = "lint.no-from" if error.id == "ollama.modelfile-from" else "lint.syntax"
        problem = Finding(id, Severity.ERROR, error.line, {"detail": error.reason})
        return LintReport((), error.reason, error.line, (problem,))
    findings = [
        *_check_parameters(modelfile),
        *_check_commands(modelfile, folder),
        *_check_characters(text, modelfile),
        *_check_template(modelfile, explain_template),
        *_check_model(modelfile, folder),
    ]
    findings.sort(key=lambda finding: (finding.line, finding.severity))
    return LintReport(modelfile.commands, "", 0, tuple(findings))


def _check_parameters(modelfile: Modelfile) -> Iterator[Finding]:
    seen: dict[str, Command] = {}
    for command in modelfile.commands:
        name, kind = command.name, kinds().get(command.name)
        if kind is None:
            if not _is_keyword(name):
                close = difflib.get_close_matches(name.lower(), _living(), n=1, cutoff=0.6)
                params: dict[str, object] = {
                    "name": name,
                    "close": close[0] if close else ", ".join(sorted(_living())),
                }
                yield Finding("lint.parameter-unknown", Severity.ERROR, command.line, params)
            continue
        if kind == "deprecated":
            yield Finding("lint.parameter-deprecated", Severity.WARNING, command.line, {"name": name})
            continue
        try:
            parse_parameter(name, command.args)
        except ParameterError:
            params = {"name": name, "value": command.args, "kind": kind}
            yield Finding("lint.parameter-type", Severity.ERROR, command.line, params)
        if kind != "list" and name in seen:
            params = {"name": f"PARAMETER {name}", "line": seen[name].line}
            yield Finding("lint.repeated", Severity.WARNING, command.line, params)
        seen[name] = command


def _check_commands(modelfile: Modelfile, folder: Path) -> Iterator[Finding]:
    seen: dict[str, Command] = {}
    for command in modelfile.commands:
        name, args = command.name, command.args
        if name in _SINGLE:
            if name in seen:
                params = {"name": name.upper(), "line": seen[name].line}
                yield Finding("lint.repeated", Severity.WARNING, command.line, params)
            seen[name] = command
        if name == "requires" and not is_semantic_version(args):
            yield Finding("lint.requires", Severity.ERROR, command.line, {"value": args})
        elif name == "adapter":
            yield Finding("lint.adapter", Severity.WARNING, command.line)
        elif name == "model":
            path = _resolve(args, folder)
            if path.is_dir() and any(path.glob("*.safetensors")):
                yield Finding("lint.safetensors", Severity.WARNING, command.line, {"path": args})
            elif not path.exists() and _looks_like_path(args):
                yield Finding("lint.from-missing", Severity.ERROR, command.line, {"path": args})
        elif name in ("system", "message"):
            content = args.partition(": ")[2] if name == "message" else args
            if "\n" not in content and _COMMENT.search(content):
                yield Finding("lint.comment", Severity.WARNING, command.line, {"name": name.upper()})
            if len(content) > 1 and content[0] == content[-1] == "'":
                yield Finding("lint.single-quotes", Severity.WARNING, command.line, {"name": name.upper()})


def _check_characters(text: str, modelfile: Modelfile) -> Iterator[Finding]:
    """Characters that Ollama's parser drops from values, and values that its own output cannot bring back."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        lost = [char for char in line if not char.isprintable() and char not in "\t\r"]
        if lost and not line.lstrip(" \t").startswith("#"):
            names = ", ".join(dict.fromkeys(f"U+{ord(char):04X}" for char in lost))
            params = {"count": len(lost), "characters": names}
            yield Finding("lint.characters", Severity.WARNING, number, params)
    for command in modelfile.commands:
        if '"""' in command.args:
            name = "FROM" if command.name == "model" else command.name.upper()
            yield Finding("lint.triple-quotes", Severity.WARNING, command.line, {"name": name})


def _check_template(modelfile: Modelfile, explain: Callable[[str], str] | None) -> Iterator[Finding]:
    command = _last(modelfile, "template")
    if command is None:
        return
    problem = explain(command.args) if explain is not None else ""
    if problem:
        yield Finding("lint.template-broken", Severity.ERROR, command.line, {"detail": problem})
    elif not _TURN.search(command.args):
        yield Finding("lint.template-silent", Severity.ERROR, command.line)
    if not modelfile.all("stop"):
        yield Finding("lint.template-stop", Severity.WARNING, command.line)


def _check_model(modelfile: Modelfile, folder: Path) -> Iterator[Finding]:
    """What only the GGUF behind FROM can tell; without one, that num_ctx is not left to the server."""
    context = _last(modelfile, "num_ctx")
    candidate = _open_model(modelfile, folder)
    if isinstance(candidate, Finding):
        yield candidate
        candidate = None
    if context is None:
        fitting = choose_context(candidate).num_ctx if candidate is not None else default_need().tokens
        yield Finding("lint.num-ctx-missing", Severity.WARNING, 0, {"value": fitting})
    if candidate is None:
        return
    limit = candidate.context_length
    if context is not None and limit is not None and context.args.isdecimal() and int(context.args) > limit:
        params = {"value": context.args, "limit": limit}
        yield Finding("lint.num-ctx-above", Severity.ERROR, context.line, params)
    if candidate.is_embedding:
        return
    own, template = candidate.template.text, _last(modelfile, "template")
    if template is not None and ignores_template(own, template.args):
        yield Finding("lint.template-ignored", Severity.WARNING, template.line)
    if template is None and not own:
        yield Finding("lint.template-none", Severity.WARNING)
    stops = derive_stops(candidate, recognise_family(own))
    if stops.unreachable:
        yield Finding("lint.end-unreachable", Severity.ERROR, 0, {"end": stops.end})
    elif stops.ends_itself is False and stops.end not in modelfile.all("stop"):
        yield Finding("lint.stop-missing", Severity.WARNING, 0, {"end": stops.end})


def ignores_template(chat_template: str, go_template: str) -> bool:
    """Whether Ollama from 0.30 on renders the GGUF's own template although a Go template was given: it does
    when the former knows tools or thinking and the latter does not (server/images.go:202-234)."""
    tools = "tools" in chat_template or "tool_call" in chat_template
    thinking = "<think>" in chat_template and "</think>" in chat_template
    return (tools and ".Tools" not in go_template) or (thinking and ".Thinking" not in go_template)


def _open_model(modelfile: Modelfile, folder: Path) -> Candidate | Finding | None:
    """The GGUF behind the last FROM that is a file, or what is wrong with it."""
    for command in reversed(modelfile.commands):
        path = _resolve(command.args, folder)
        if command.name == "model" and path.is_file():
            try:
                return read_candidate(path)
            except (GgufError, OSError) as error:
                detail = error.text().message if isinstance(error, RfctlError) else str(error)
                params = {"path": command.args, "detail": detail}
                return Finding("lint.from-broken", Severity.ERROR, command.line, params)
    return None


def _last(modelfile: Modelfile, name: str) -> Command | None:
    return next((command for command in reversed(modelfile.commands) if command.name == name), None)


def _living() -> list[str]:
    return [name for name, kind in kinds().items() if kind != "deprecated"]


def _is_keyword(name: str) -> bool:
    return name in ("model", "license", "adapter", "draft", "message", *_SINGLE)


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "/", "~", "\\")) or text.lower().endswith(".gguf") or text[1:3] == ":\\"


def _resolve(text: str, folder: Path) -> Path:
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # `~name` of nobody
        path = Path(text)
    return path if path.is_absolute() else folder / path
