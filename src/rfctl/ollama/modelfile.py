"""Modelfile text: reading, writing, and what it asks the server to create.

Rules from Ollama v0.33.0-rc2, parser/parser.go; every recorded case of the golden data is reproduced. The
wire carries JSON: text goes through a Modelfile only where a person gives or wants one, because Ollama's
parser drops characters (no-break spaces, joiners, ideographic spaces).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rfctl.core.error import UsageError
from rfctl.ollama.parameter import ParameterError, kinds, parse_parameter

KEYWORDS = (
    "from",
    "license",
    "template",
    "system",
    "adapter",
    "draft",
    "renderer",
    "parser",
    "parameter",
    "message",
    "requires",
)
ROLES = ("system", "user", "assistant")
MAX_BYTES = 16 << 20

_BAD_KEYWORD = (
    "command must be one of " + ", ".join(f'"{word}"' for word in KEYWORDS[:-1]) + ', or "requires"'
)
_BAD_ROLE = 'message role must be one of "system", "user", or "assistant"'
_BLANKS = " \t"
_NEWLINES = "\r\n"
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_NAME = _LETTERS | frozenset("0123456789_")
_VERSION = re.compile(
    r"(0|[1-9]\d*)(\.(0|[1-9]\d*)(\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?)?)?", re.ASCII
)


class ModelfileError(UsageError):
    """A Modelfile that Ollama would refuse. reason: Ollama's text; line: from 1 (0: the whole file)."""

    def __init__(self, id: str, reason: str, line: int = 0, **params: object) -> None:
        super().__init__(id, exit_code=None, detail=reason, line=line, **params)
        self.reason = reason
        self.line = line


@dataclass(frozen=True)
class Command:
    """One instruction. name: "model" for FROM, the parameter's own name for PARAMETER, else the keyword in
    lower case; args: the unquoted value, for MESSAGE `role: text`."""

    name: str
    args: str


@dataclass(frozen=True)
class Modelfile:
    """The commands of a Modelfile in order."""

    commands: tuple[Command, ...]

    def __str__(self) -> str:
        """The text that Ollama writes for these commands."""
        return "".join(f"{_format(command)}\n" for command in self.commands)

    def last(self, name: str) -> str | None:
        """The value that wins for a single-valued command, or None."""
        return next((command.args for command in reversed(self.commands) if command.name == name), None)

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of a command that may be repeated."""
        return tuple(command.args for command in self.commands if command.name == name)


@dataclass(frozen=True)
class CreateRequest:
    """What a Modelfile asks for: the JSON fields of /api/create, the local files behind its digests
    (absolute path -> digest, for `files`, `adapters` and `draft_files`), and what was dropped."""

    body: Mapping[str, object]
    uploads: Mapping[Path, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def parse_modelfile(source: str | bytes) -> Modelfile:
    """Commands of a Modelfile; bytes may be UTF-8 or, with a byte order mark, UTF-16.

    Raises ModelfileError with Ollama's text and line.
    """
    text = source if isinstance(source, str) else _decode(source)
    commands = _Scanner(text.removeprefix("\ufeff")).scan()
    if not any(command.name == "model" for command in commands):
        raise ModelfileError("ollama.modelfile-from", "no FROM line")
    return Modelfile(tuple(commands))


def read_modelfile(path: Path) -> Modelfile:
    """Parse a file of at most 16 MiB. Raises ModelfileError, OSError."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ModelfileError("ollama.modelfile-size", "file too large", path=path, limit=MAX_BYTES)
    return parse_modelfile(data)


def to_create_request(modelfile: Modelfile, folder: Path, digest: Callable[[Path], str]) -> CreateRequest:
    """The create request of a Modelfile that lies in `folder`.

    digest: gives `sha256:<hex>` of a local file. Several FROM with existing paths add up (model, projector,
    shards); one without an existing path is a model name, the last wins. Raises ModelfileError or
    ParameterError with Ollama's text.
    """
    body: dict[str, object] = {}
    parameters: dict[str, object] = {}
    uploads: dict[Path, str] = {}
    warnings: list[str] = []
    licenses: list[str] = []
    messages: list[dict[str, str]] = []

    def add_files(key: str, paths: Sequence[Path]) -> None:
        group = body.setdefault(key, {})
        assert isinstance(group, dict)
        for path in paths:
            if path not in uploads:
                uploads[path] = digest(path)
            group[str(path)] = uploads[path]

    for command in modelfile.commands:
        name, args = command.name, command.args
        match name:
            case "model":
                path = _resolve(args, folder)
                if path.exists():
                    add_files("files", _model_files(path))
                else:
                    body["from"] = args
            case "adapter" | "draft":
                path = _resolve(args, folder)
                if not path.exists():
                    if name == "draft":
                        body["draft"] = args
                        continue
                    raise ModelfileError(
                        "ollama.modelfile-file", f"stat {path}: no such file or directory", path=path
                    )
                taken = body.get("files")
                if name == "draft" and isinstance(taken, dict) and str(path) in taken:
                    raise ModelfileError(
                        "ollama.modelfile-file",
                        f"DRAFT must not reference the same local path as FROM: {path}",
                        path=path,
                    )
                add_files("adapters" if name == "adapter" else "draft_files", _model_files(path))
            case "template" | "system" | "renderer" | "parser":
                body[name] = args
            case "requires":
                if not _VERSION.fullmatch(args):
                    raise ModelfileError(
                        "ollama.modelfile-requires",
                        "requires must be a valid semver (e.g. 0.14.0)",
                        value=args,
                    )
                body[name] = args
            case "license":
                licenses.append(args)
            case "message":
                role, _, content = args.partition(": ")
                messages.append({"role": role, "content": content})
            case _:
                if kinds().get(name) == "deprecated":
                    warnings.append(f"warning: parameter {name} is deprecated")
                    continue
                value = parse_parameter(name, args)
                if kinds()[name] == "list":
                    known = parameters.setdefault(name, [])
                    assert isinstance(known, list)
                    known.append(value)
                else:
                    parameters[name] = value
    body |= {"license": licenses, "messages": messages, "parameters": parameters}
    # Go leaves empty fields out of the JSON.
    return CreateRequest({key: value for key, value in body.items() if value}, uploads, tuple(warnings))


class _Scanner:
    """A cursor over the text; `line` is the line of the character just read (CR and LF both count)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1

    def scan(self) -> list[Command]:
        commands = []
        while self._skip_to_command():
            commands.append(self._command())
        return commands

    def _next(self) -> str:
        """The next character, or "" at the end."""
        if self.at >= len(self.text):
            return ""
        character = self.text[self.at]
        self.at += 1
        if character in _NEWLINES:
            self.line += 1
        return character

    def _skip_to_command(self) -> bool:
        comment = False
        while character := self._next():
            if character in _NEWLINES:
                comment = False
            elif character == "#":
                comment = True
            elif not comment and character not in _BLANKS:
                self.at -= 1
                return True
        return False

    def _command(self) -> Command:
        # The first character may be anything; the word is judged as a whole when a blank ends it.
        first = self._next()
        word, end = self._word(_LETTERS)
        keyword = ((first if first.isprintable() else "") + word).lower()
        if end not in _BLANKS or keyword not in KEYWORDS:
            raise ModelfileError("ollama.modelfile-syntax", f"(line {self.line}): {_BAD_KEYWORD}", self.line)
        if keyword == "parameter":
            name, end = self._word(_NAME)
            if end not in _BLANKS:
                raise ModelfileError("ollama.modelfile-end", f"unexpected EOF: {name}", self.line)
            return Command(name, self._value())
        if keyword == "message":
            role, end = self._word(_LETTERS)
            if end not in _BLANKS:
                raise ModelfileError("ollama.modelfile-end", f"unexpected EOF: {role}", self.line)
            if role not in ROLES:
                raise ModelfileError("ollama.modelfile-syntax", f"(line {self.line}): {_BAD_ROLE}", self.line)
            return Command("message", f"{role}: {self._value()}")
        return Command("model" if keyword == "from" else keyword, self._value())

    def _word(self, allowed: frozenset[str]) -> tuple[str, str]:
        """The following characters in `allowed` and the one that ended them."""
        start = self.at
        while (character := self._next()) in allowed and character:
            pass
        if not character:
            raise ModelfileError("ollama.modelfile-end", "unexpected EOF", self.line)
        return self.text[start : self.at - 1], character

    def _value(self) -> str:
        """The rest of the line, or a quoted value over as many lines as it needs."""
        start_line = self.line
        parts: list[str] = []
        opener = ""
        size = 0
        while True:
            begin = self.at
            while (character := self._next()) and character not in _NEWLINES:
                pass
            stop = self.at - 1 if character else self.at
            parts.append("".join(c for c in self.text[begin:stop] if c.isprintable() or c == "\t"))
            if len(parts) == 1:
                head = parts[0].strip(_BLANKS)
                opener = '"""' if head.startswith('"""') else '"' if head.startswith('"') else ""
                parts[0] = parts[0].lstrip(_BLANKS)
            size += len(parts[-1])
            if not opener:
                return parts[0].strip(_BLANKS)
            if parts[-1].rstrip(_BLANKS).endswith(opener) and size >= 2 * len(opener):
                joined = "".join(parts).strip(_BLANKS + _NEWLINES)
                if len(joined) >= 2 * len(opener):
                    return joined[len(opener) : len(joined) - len(opener)]
            if not character:
                raise ModelfileError("ollama.modelfile-end", "unexpected EOF", start_line)
            parts.append(character)
            size += 1


def _decode(data: bytes) -> str:
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="replace")


def _format(command: Command) -> str:
    name, args = command.name, command.args
    if name == "model":
        return f"FROM {args}"
    if name == "message":
        role, _, content = args.partition(": ")
        return f"MESSAGE {role} {_quote(content)}"
    if name in KEYWORDS:
        return f"{name.upper()} {_quote(args)}"
    return f"PARAMETER {name} {_quote(args)}"


def _quote(text: str) -> str:
    if "\n" in text or text.startswith(" ") or text.endswith(" "):
        return f'"""{text}"""' if '"' in text else f'"{text}"'
    return text


def _resolve(args: str, folder: Path) -> Path:
    try:
        path = Path(args).expanduser()
    except RuntimeError:  # `~name` of nobody
        path = Path(args)
    return path if path.is_absolute() else folder / path


def _model_files(path: Path) -> list[Path]:
    """The file itself, or the GGUF files of a folder in name order."""
    if not path.is_dir():
        return [path]
    if any(path.glob("*.safetensors")):
        raise ModelfileError(
            "ollama.modelfile-safetensors",
            "the folder holds safetensors, which have to be converted",
            path=path,
        )
    if files := sorted(path.glob("*.gguf")):
        return files
    raise ModelfileError("ollama.modelfile-empty", "no Modelfile or safetensors files found", path=path)


__all__ = [
    "Command",
    "CreateRequest",
    "Modelfile",
    "ModelfileError",
    "ParameterError",
    "parse_modelfile",
    "read_modelfile",
    "to_create_request",
]
