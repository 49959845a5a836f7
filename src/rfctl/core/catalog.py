"""User-visible texts in English and Chinese, by id.

Every room has one file per language: `message/en/<room>.toml` and `message/zh/<room>.toml`.
An entry is a table keyed by the id:

    ["model.architecture-unknown"]
    message = "No converter knows the architecture {architecture}"
    why = "config.json names it in `architectures`"
    next = "rfctl model check {path} --json"

`message` is required; `why` (cause) and `next` (the command or action that helps) are optional.
Placeholders are `str.format` fields filled from keyword arguments.
"""

from __future__ import annotations

import re
import shlex
import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LANGUAGES = ("en", "zh")
_SPECIAL = re.compile(r"[\s&|;<>()$`\"'!*?#\[\]{}]")
# Names stand as one word of a command that is shown; in the prose around it they need no quotes.
_COMMAND = re.compile(r"\b(?:rfctl|qpdf|ocrmypdf|ollama|docker) ")
_WORD = re.compile(r"(?<![\w\"'/=.-]){(?:name|kb|dataset|chat|model)}(?![\w\"'/.-])")
_ROOT = Path(__file__).parent / "message"


@dataclass(frozen=True)
class Text:
    """A rendered catalog entry."""

    message: str
    why: str = ""
    next: str = ""


class _Formatter(string.Formatter):
    """`str.format` without attribute or index access and without failing on a missing value."""

    def get_field(self, field_name: str, args: object, kwargs: object) -> tuple[object, str]:
        values = kwargs if isinstance(kwargs, Mapping) else {}
        return values.get(field_name, "{" + field_name + "}"), field_name

    def format_field(self, value: object, format_spec: str) -> str:
        if format_spec and isinstance(value, int | float):
            return format(value, format_spec)
        return str(value)


_FORMATTER = _Formatter()


@cache
def entries(language: str) -> Mapping[str, Mapping[str, str]]:
    """All entries of one language: id -> {"message", "why"?, "next"?}.

    Raises ValueError when two files define the same id.
    """
    merged: dict[str, Mapping[str, str]] = {}
    for path in sorted((_ROOT / language).glob("*.toml")):
        with path.open("rb") as file:
            for key, entry in tomllib.load(file).items():
                if key in merged:
                    raise ValueError(f"{path.name}: {key} is defined twice")
                merged[key] = entry
    return merged


def render(id: str, language: str, params: Mapping[str, object]) -> Text:
    """The text of `id` in `language`, falling back to English, then to the bare id."""
    entry = entries(language).get(id) or entries("en").get(id)
    if entry is None:
        values = ", ".join(f"{key}={value}" for key, value in params.items())
        return Text(message=f"{id} ({values})" if values else id)
    quoted = {name: quote_path(value) if isinstance(value, Path) else value for name, value in params.items()}
    return Text(
        message=_fill(entry.get("message", ""), params),
        why=_FORMATTER.vformat(entry.get("why", ""), (), params),
        next=_fill(entry.get("next", ""), quoted),
    )


def _fill(template: str, params: Mapping[str, object]) -> str:
    """The text with its values, names behind a command quoted as the shell needs it."""
    command = _COMMAND.search(template)
    if command is not None:
        begin = command.end()
        template = template[:begin] + _WORD.sub(lambda word: _quote_name(word[0], params), template[begin:])
    return _FORMATTER.vformat(template, (), params)


def _quote_name(field: str, params: Mapping[str, object]) -> str:
    value = params.get(field[1:-1])
    if not isinstance(value, str) or not _SPECIAL.search(value) or value[:1] in "\"'":
        return field
    return quote_path(value).replace("{", "{{").replace("}", "}}")


def read_back(id: str, text: str) -> dict[str, str] | None:
    """The values filled into the English message of `id` to make `text`, a cause in brackets after it.

    None where `text` is not of this form, or the rest of the entry needs values that it does not hold.
    """
    entry = entries("en").get(id)
    if entry is None:
        return None
    parts = [(before, field) for before, field, _, _ in string.Formatter().parse(entry.get("message", ""))]
    pattern, names = "", set()
    for before, field in parts:
        pattern += re.escape(before)
        if field:
            pattern += f"(?P={field})" if field in names else f"(?P<{field}>.+?)"
            names.add(field)
    rest = entry.get("why", "") + entry.get("next", "")
    if {field for _, field, _, _ in string.Formatter().parse(rest) if field} - names:
        return None
    found = re.fullmatch(pattern + r"(?: \(.*\))?", text, re.DOTALL)
    return None if found is None else found.groupdict()


def quote_path(path: Path | str) -> str:
    """The path as one word of a command to copy, in sh and PowerShell alike."""
    text = str(path)
    if not _SPECIAL.search(text):
        return text
    return shlex.quote(text) if re.search(r'["$`!]', text) else f'"{text}"'
