"""The one place that prints.

Data goes to standard output, everything else to standard error. Modes: human text, `--json` (exactly one
document), `--output jsonl` (one document per record) and `-q` (data only, no progress, no notes).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rfctl.cli.console import cell_width, soften
from rfctl.cli.progress import ConsoleReporter
from rfctl.core.catalog import render
from rfctl.core.error import RfctlError
from rfctl.core.progress import SILENT, Reporter
from rfctl.core.redact import redact

SCHEMA_VERSION = 1
# Control characters but tab and line feed, and the marks that turn the direction of text around: an answer, a
# passage or a file name must not steer the terminal.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Mode(enum.Enum):
    HUMAN = "human"
    JSON = "json"
    JSONL = "jsonl"


class Output:
    """Writes results, notes and errors of one command."""

    def __init__(self, mode: Mode, language: str, *, quiet: bool = False) -> None:
        self.mode = mode
        self.language = language
        self.quiet = quiet
        if mode is not Mode.HUMAN:
            for stream in (sys.stdout, sys.stderr):
                soften(stream, encoding="utf-8")

    @property
    def is_human(self) -> bool:
        return self.mode is Mode.HUMAN

    # -- data on standard output -------------------------------------------------------------

    def result(self, value: object) -> None:
        """The one JSON document of `--json` (in jsonl mode: one line); nothing in human mode."""
        if self.mode is Mode.HUMAN:
            return
        document = to_json(value)
        indent = 2 if self.mode is Mode.JSON else None
        self._write(sys.stdout, json.dumps(document, ensure_ascii=False, indent=indent))

    def report(self, value: object) -> None:
        """Like `result` for a report: a JSON object with `schema_version` in front."""
        document = to_json(value)
        if not isinstance(document, dict):
            raise TypeError("a report is an object")
        self.result({"schema_version": SCHEMA_VERSION, **document})

    def records(self, values: Iterable[object]) -> None:
        """A list: one JSON array with `--json`, one line each with jsonl; nothing in human mode."""
        if self.mode is Mode.JSONL:
            for value in values:
                self.result(value)
        else:
            self.result(list(values))

    def line(self, text: str = "") -> None:
        """A line of human data."""
        if self.mode is Mode.HUMAN:
            self._write(sys.stdout, text)

    def text(self, id: str, /, **params: object) -> str:
        """A catalog message in the user's language."""
        return render(id, self.language, params).message

    def say(self, id: str, /, **params: object) -> None:
        """A line of human data from the catalog."""
        self.line(self.text(id, **params))

    def piece(self, text: str) -> None:
        """A piece of streamed human text, without a newline."""
        if self.mode is Mode.HUMAN:
            self._write(sys.stdout, text, end="")

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Aligned columns, widths counted in terminal cells; the last column is not padded."""
        if self.mode is not Mode.HUMAN:
            return
        cells = [[clean(heading) for heading in headings]]
        cells += [[clean(str(value)) for value in row] for row in rows]
        widths = [max(cell_width(row[index]) for row in cells) for index in range(len(headings))]
        for row in cells:
            padded = [
                text + " " * (width - cell_width(text)) for text, width in zip(row, widths, strict=True)
            ]
            self._write(sys.stdout, "  ".join(padded).rstrip())

    # -- everything else on standard error ----------------------------------------------------

    def note(self, id: str, /, **params: object) -> None:
        if self.mode is Mode.HUMAN and not self.quiet:
            self._write(sys.stderr, self.text(id, **params))

    def warn(self, id: str, /, **params: object) -> None:
        if self.mode is Mode.HUMAN and not self.quiet:
            text = render(id, self.language, params)
            self._write(sys.stderr, f"{self.text('cli.warning')}: {text.message}")
            if text.next:
                self._write(sys.stderr, f"  {self.text('cli.next')}: {text.next}")

    def error(self, error: RfctlError) -> None:
        """At most eight lines in human mode, one JSON line in JSON mode."""
        text = error.text(self.language)
        if self.mode is not Mode.HUMAN:
            english = error.text("en")
            document = {
                "error": {
                    "id": error.id,
                    "message": text.message,
                    "message_en": english.message,
                    "why": text.why,
                    "next": text.next,
                    "exit_code": error.exit_code,
                }
            }
            self._write(sys.stderr, json.dumps(document, ensure_ascii=False))
            return
        lines = [f"{self.text('cli.error')}[{error.id}]: {text.message}"]
        if text.why:
            lines.append(f"  {self.text('cli.why')}: {text.why}")
        if text.next:
            lines.append(f"  {self.text('cli.next')}: {text.next}")
        lines.append(f"  rfctl explain {error.id}")
        for line in "\n".join(lines).splitlines()[:8]:
            self._write(sys.stderr, line)

    def thought(self, text: str, end: str = "\n") -> None:
        """What a reasoning model thought before its answer, dimmed where the terminal can."""
        if self.mode is Mode.HUMAN and not self.quiet:
            faint = is_terminal(sys.stderr) and not os.environ.get("NO_COLOR")
            plain = _STEERING.sub("", redact(text))
            sys.stderr.write(f"\x1b[2m{plain}\x1b[22m{end}" if faint else plain + end)
            sys.stderr.flush()

    def trace(self, text: str) -> None:
        """A traceback of a bug, redacted."""
        self._write(sys.stderr, text.rstrip("\n"))

    def reporter(self) -> Reporter:
        """Progress for the library: bars on a terminal, plain lines in a pipe, nothing with JSON or -q."""
        if self.quiet or self.mode is not Mode.HUMAN:
            return SILENT
        return ConsoleReporter(self.language, write=lambda line: self._write(sys.stderr, line))

    def _write(self, stream: TextIO, text: str, end: str = "\n") -> None:
        stream.write(_STEERING.sub("", redact(text)) + end)
        stream.flush()


def to_json(value: object) -> object:
    """Plain JSON values: dataclasses become objects, paths text, times ISO-8601 UTC, enums their value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, enum.Enum):
        return to_json(value.value)
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    return value


def clean(text: str) -> str:
    """Text of a server or a file name without control characters (no terminal escapes get through)."""
    return "".join(char if char.isprintable() else " " for char in text)


def human_bytes(size: int | None) -> str:
    """1536 -> "1.5 kB"; powers of 1000, as `ollama list` shows them."""
    if size is None:
        return "-"
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"
