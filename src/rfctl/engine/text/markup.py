"""Lines out of text files: the encoding is detected, HTML loses its tags, CSV becomes one record per line."""

from __future__ import annotations

import codecs
import csv
import io
from html.parser import HTMLParser

_BLOCKS = frozenset(
    {
        *(
            "p",
            "div",
            "br",
            "li",
            "ul",
            "ol",
            "dt",
            "dd",
            "tr",
            "table",
            "caption",
            "pre",
            "blockquote",
            "hr",
        ),
        *("h1", "h2", "h3", "h4", "h5", "h6", "title", "section", "article", "header", "footer", "option"),
    }
)
_HIDDEN = frozenset({"script", "style", "template", "noscript"})
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_lines(data: bytes, kind: str) -> list[str]:
    """The non-blank lines of a text file of that kind. Raises UnicodeError if it is no text."""
    text = decode(data)
    if kind in {"html", "htm"}:
        text = strip_html(text)
    elif kind == "csv":
        text = flatten_csv(text)
    lines = (line.rstrip() for line in text.splitlines())
    return [line for line in lines if line.strip()]


def decode(data: bytes) -> str:
    """Text from bytes: a byte order mark decides, else UTF-8, UTF-16 without a mark, GB18030, Latin-1.

    Raises UnicodeError for what has NUL or many control characters (a binary file).
    """
    for mark, name in _BOMS:
        if data.startswith(mark):
            return _check(data.decode(name))
    for name in ("utf-8", *_guess_utf16(data), "gb18030", "latin-1"):
        try:
            return _check(data.decode(name))
        except UnicodeError:
            continue
    raise UnicodeError("no known encoding")


def _guess_utf16(data: bytes) -> tuple[str, ...]:
    sample = data[:4096]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if len(data) % 2 or max(even, odd) * 10 < len(sample):
        return ()
    return ("utf-16-le",) if odd > even else ("utf-16-be",)


def _check(text: str) -> str:
    sample = text[:65536]
    controls = sum(1 for char in sample if char < " " and char not in "\t\n\r\f\v\x1a")
    if "\x00" in text or controls * 100 > len(sample):
        raise UnicodeError("control characters")
    return text


def strip_html(text: str) -> str:
    """The visible text of an HTML page, a line per block element. Never fails on bad markup."""
    parser = _Stripper()
    parser.feed(text)
    parser.close()
    lines = (" ".join(line.split()) for line in "".join(parser.pieces).splitlines())
    return "\n".join(line for line in lines if line)


class _Stripper(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self._hidden += 1
        elif tag in _BLOCKS:
            self.pieces.append("\n")
        elif tag in {"td", "th"}:
            self.pieces.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag in _BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data.replace("\n", " "))


def flatten_csv(text: str) -> str:
    """One line per record, `header: value; header: value` below a header row."""
    try:
        dialect: type[csv.Dialect] | str = csv.Sniffer().sniff(text[:8192], delimiters=",;\t|")
    except csv.Error:
        dialect = "excel"
    try:
        rows = [row for row in csv.reader(io.StringIO(text), dialect) if any(cell.strip() for cell in row)]
    except csv.Error:
        return text
    if len(rows) < 2:
        return "\n".join("; ".join(row) for row in rows)
    header = [" ".join(cell.split()) for cell in rows[0]]
    lines = []
    for row in rows[1:]:
        cells = [" ".join(cell.split()) for cell in row]
        named = [
            f"{header[index]}: {cell}" if index < len(header) and header[index] else cell
            for index, cell in enumerate(cells)
            if cell
        ]
        lines.append("; ".join(named))
    return "\n".join(lines)
