"""Consoles that cannot show every character: nothing crashes, symbols become plain ones, widths stay.

GBK has `√ × → … ●` but not `✓ ✗ ⚠ •`; the old code pages of Windows and the C locale have none of them, and
no Chinese.
"""

from __future__ import annotations

import codecs
import unicodedata
from typing import TextIO

_HANDLER = "rfctl.plain"
_PLAIN = {
    "…": "...",
    "→": "->",
    "←": "<-",
    "⇒": "=>",
    "×": "x",
    "±": "+/-",
    "≥": ">=",
    "≤": "<=",
    "≈": "~",
    "≠": "!=",
    "√": "ok",
    "✓": "ok",
    "✔": "ok",
    "✗": "x",
    "✘": "x",
    "⚠": "!",
    "●": "*",
    "•": "*",
    "·": "-",
    "–": "-",
    "—": "-",
    "−": "-",
    "‑": "-",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "\u00a0": " ",
    "\u2009": " ",
    "\u202f": " ",
    "\u3000": "  ",
    "，": ", ",
    "。": ". ",
    "：": ": ",
    "；": "; ",
    "（": " (",
    "）": ") ",
}


# A line does not begin with the first nor end with the second.
_CLOSING = frozenset("，。；：、！？）】》”’…,.;:!?)]}%")
_OPENING = frozenset("（【《“‘([{")


def soften(stream: TextIO, encoding: str | None = None) -> None:
    """A character that the console cannot show becomes plain ones of the same width, never a crash."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors=_HANDLER, encoding=encoding)


def can_show(stream: TextIO, text: str) -> bool:
    """Whether the stream's encoding has every character of `text`."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def cell_width(text: str) -> int:
    """Terminal cells of `text`: wide East Asian characters take two (Unicode TR 11)."""
    width = 0
    for char in text:
        if not unicodedata.combining(char):
            width += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return width


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    refused = error.object[error.start : error.end]
    return "".join(_PLAIN.get(char) or "?" * cell_width(char) for char in refused), error.end


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` cells; a line break in the text stays.

    Chinese has no spaces: a line may end between two of its characters, but not before a closing mark or
    after an opening one. Latin words are never broken.
    """
    lines = []
    for paragraph in text.splitlines() or [""]:
        line, used = "", 0
        for piece in _split(paragraph):
            size = cell_width(piece.rstrip())
            if line and used + size > width:
                lines.append(line.rstrip())
                line, used = "", 0
            piece = piece if line else piece.lstrip()
            line += piece
            used += cell_width(piece)
        lines.append(line.rstrip())
    return lines


def _split(text: str) -> list[str]:
    """The pieces between which a line may end; a piece holds the spaces behind it."""
    pieces: list[str] = []
    for char in text:
        last = pieces[-1] if pieces else ""
        if not last or _breaks(last, char):
            pieces.append(char)
        else:
            pieces[-1] += char
    return pieces


def _breaks(before: str, char: str) -> bool:
    if char == " " or char in _CLOSING or before[-1] in _OPENING:
        return False
    if before[-1] == "：" and not _is_wide(char):  # a label and its value
        return False
    return before[-1] == " " or _is_wide(before[-1]) or _is_wide(char)


def _is_wide(char: str) -> bool:
    return unicodedata.east_asian_width(char) in "WF"


codecs.register_error(_HANDLER, _replace)
