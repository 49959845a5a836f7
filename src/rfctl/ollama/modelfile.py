"""Modelfile text: reading and writing.

Rules from Ollama v0.33.0-rc2, parser/parser.go; every recorded case of the golden data is reproduced. The
wire carries JSON: text goes through a Modelfile only where a person gives or wants one, because Ollama's
parser drops characters (no-break spaces, joiners, ideographic spaces).
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from pathlib import Path

from rfctl.core.error import UsageError

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


class ModelfileError(UsageError):
    """A Modelfile that Ollama would refuse. reason: Ollama's text; line: from 1 (0: the whole file)."""

    def __init__(self, id: str, reason: str, line: int = 0, **params: object) -> None:
        super().__init__(id, exit_code=None, detail=reason, line=line, **params)
        self.reason = reason
        self.line = line


@dataclass(frozen=True)
class Command:
    """One instruction. name: "model" for FROM, the parameter's own name for PARAMETER, else the keyword in
    lower case; args: the unquoted value, for MESSAGE `role: text`; line: where it begins, from 1 as an editor
    counts (0: not read from a text)."""

    name: str
    args: str
    line: int = field(default=0, compare=False)


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


def parse_modelfile(source: str | bytes) -> Modelfile:
    """Commands of a Modelfile; bytes may be UTF-8 or, with a byte order mark, UTF-16.

    Raises ModelfileError with Ollama's text and line.
    """
    text = source if isinstance(source, str) else decode_modelfile(source)
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


class _Scanner:
    """A cursor over the text; `line` is the line of the character just read as Ollama counts (CR and LF
    both), `row` as an editor does."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1
        self.row = 1

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
            self.row += character == "\n" or self.text[self.at : self.at + 1] != "\n"
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
        row = self.row
        first = self._next()
        word, end = self._word(_LETTERS)
        keyword = ((first if first.isprintable() else "") + word).lower()
        if end not in _BLANKS or keyword not in KEYWORDS:
            raise ModelfileError("ollama.modelfile-syntax", f"(line {self.line}): {_BAD_KEYWORD}", self.line)
        if keyword == "parameter":
            name, end = self._word(_NAME)
            if end not in _BLANKS:
                raise ModelfileError("ollama.modelfile-end", f"unexpected EOF: {name}", self.line)
            return Command(name, self._value(), row)
        if keyword == "message":
            role, end = self._word(_LETTERS)
            if end not in _BLANKS:
                raise ModelfileError("ollama.modelfile-end", f"unexpected EOF: {role}", self.line)
            if role not in ROLES:
                raise ModelfileError("ollama.modelfile-syntax", f"(line {self.line}): {_BAD_ROLE}", self.line)
            return Command("message", f"{role}: {self._value()}", row)
        return Command("model" if keyword == "from" else keyword, self._value(), row)

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


def decode_modelfile(data: bytes) -> str:
    """The text of a Modelfile: UTF-16 with a byte order mark, else UTF-8; what is neither becomes U+FFFD."""
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
