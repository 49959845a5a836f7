"""Text of models, documents and servers made fit for a page that reads Markdown.

What reaches the page may come from a hostile document: an image is fetched by the browser as soon as it is
shown, and carries whatever its address says to whoever owns the host. So an answer keeps its lists, emphasis,
tables and code, but no image, no link with other words than its address, no HTML, no formula and none of
Streamlit's own directives; everything else is shown as the characters that it is. Rules: CommonMark 0.31, GFM
0.29 and streamlit 1.67 (`:name[...]`, `:emoji:`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from rfctl.core.redact import redact

# As `rfctl.cli.output`: control characters but tab and line feed, and the marks that turn text around; with
# the characters that show nothing and would split a word that is looked for.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
# A colon before a name and another colon is an emoji to Streamlit wherever it stands, escaped or not.
_SHORTCODE = re.compile(r"(?<=:)(?=[A-Za-z+\-_][\w+\-/]*:|material/|material-outlined/)")
# The same, and where an address begins.
_SPLIT = re.compile(rf"{_SHORTCODE.pattern}|(?<=:)(?=//)|(?<=www)(?=\.)", re.IGNORECASE)
_INVISIBLE = "\u200b"
# Indented as in a list too: it ends the list, but is read as code by no one else.
_FENCE = re.compile(r"^\s*(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$")
_HEADING = re.compile(r"^( {0,3})#{1,6}(?=\s)")
_UNDERLINE = re.compile(r"^ {0,3}(?:=+|-{2,})\s*$")
_CODE = re.compile(r"(?<!`)(`+)(?!`)(.*?[^`])\1(?!`)")
# Before a bracket of these kinds the badge would be a link, or lose what follows as its attributes.
_CITATION = re.compile(r"\[(\d{1,3})\](?![({])")
# Inside of code nothing is a link. These halves of one are split all the same: should a renderer see the end
# of the code elsewhere, there is still no link.
_LINK_PARTS = re.compile(r"(?<=[\]!])(?=[(\[:])")
# GFM makes a link of a bare address wherever it stands. As code it stays readable and can be copied, but no
# click carries what a hostile text has put into it to its host.
_ADDRESS = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://|www\.)[^\s<>`|\"'()\[\]{}\\\u3000-\u303f\uff00-\uffef]*", re.IGNORECASE
)
_ACTIVE = re.compile(r"[\[\]<$~\\]|:(?=[:\w\u200b])|&(?=#?\w+;)")


@dataclass(frozen=True)
class Part:
    """A piece of an answer: Markdown that is safe to render, or code as it is, with its language or ""."""

    text: str
    is_code: bool = False
    language: str = ""


def strip_controls(text: str) -> str:
    """The text without secrets, terminal controls and marks that turn the direction around."""
    return _STEERING.sub("", redact(text.replace("\r\n", "\n")))


def plain(text: str) -> str:
    """Markdown that shows exactly these characters on one line: for labels, names and messages."""
    line = " ".join(strip_controls(text).split())
    return _PUNCTUATION.sub(r"\\\1", _SPLIT.sub(_INVISIBLE, line))


def quote(text: str) -> str:
    """Prose on one line for a Markdown file: no link, image or HTML is in it, but it stays readable."""
    return _neutralise(" ".join(strip_controls(text).split()), frozenset())


def shorten(text: str, width: int) -> str:
    """The beginning of a text on one line."""
    line = " ".join(strip_controls(text).split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def split_answer(text: str, cited: Set[int] = frozenset()) -> Iterator[Part]:
    """An answer as parts to render one after the other; `[n]` with n in `cited` becomes a badge.

    Fenced code is a part of its own and never read as Markdown; a fence that is still open goes to the end.
    """
    prose: list[str] = []
    code: list[str] = []
    fence, language = "", ""
    for line in strip_controls(text).split("\n"):
        if fence:
            end = line.strip()
            if end and set(end) == {fence[0]} and len(end) >= len(fence):
                yield Part("\n".join(code), True, language)
                fence, code = "", []
            else:
                code.append(line)
        elif found := _FENCE.match(line):
            if prose:
                yield Part("\n".join(prose))
                prose = []
            fence, language = found[1], found[2].lower()
        else:
            prose.append(_neutralise(line, cited))
    if fence:
        yield Part("\n".join(code), True, language)
    if prose:
        yield Part("\n".join(prose))


def _neutralise(line: str, cited: Set[int]) -> str:
    # A heading of the model would be larger than the page's own, and would get an anchor.
    line = _HEADING.sub(r"\1#####", line)
    if _UNDERLINE.match(line):  # would make a heading of the line before
        return "\n---\n"
    pieces = []
    at = 0
    for code in _CODE.finditer(line):
        pieces.append(_escape(line[at : code.start()], cited))
        inside = _LINK_PARTS.sub(_INVISIBLE, code[2])
        if "|" in inside:  # in a table the cell ends there, and the code never began
            inside = _SPLIT.sub(_INVISIBLE, inside)
        pieces.append(code[1] + inside + code[1])
        at = code.end()
    pieces.append(_escape(line[at:], cited))
    return _join(pieces)


def _escape(text: str, cited: Set[int]) -> str:
    """Prose without code: what could begin a link, an image, HTML, a formula or a directive is escaped."""
    pieces = []
    at = 0
    for mark in _CITATION.finditer(text):
        if int(mark[1]) in cited:
            pieces += [_escape_plain(text[at : mark.start()]), f":blue-badge[{mark[1]}]"]
            at = mark.end()
    pieces.append(_escape_plain(text[at:]))
    return "".join(pieces)


def _escape_plain(text: str) -> str:
    pieces = []
    at = 0
    for address in _ADDRESS.finditer(text):
        shown = address[0].rstrip(".,;:!?*_~")
        pieces += [_escape_words(text[at : address.start()]), f"`{shown}`"]
        at = address.start() + len(shown)
    pieces.append(_escape_words(text[at:]))
    return _join(pieces)


def _join(pieces: Sequence[str]) -> str:
    """One after the other; backticks that meet would become one mark."""
    joined = ""
    for piece in pieces:
        apart = _INVISIBLE if joined.endswith("`") and piece.startswith("`") else ""
        joined += apart + piece
    return joined


def _escape_words(text: str) -> str:
    text = _SHORTCODE.sub(_INVISIBLE, text)
    return _ACTIVE.sub(r"\\\g<0>", text).replace("`", r"\`")
