"""Lines out of text files: the encoding is detected, HTML loses its tags, CSV becomes one record per line."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter

from rfctl.engine.text.hypertext import strip_html

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_SAMPLE = 8192
_SAMPLE_LINES = 50
_QUOTED = re.compile(r'"[^"]*+"')


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


def flatten_csv(text: str) -> str:
    """One line per record, `header: value; header: value` below a header row."""
    try:
        # A blank behind a delimiter is no part of a cell: before a quote it would make two cells of one.
        delimiter = _find_delimiter(text[:_SAMPLE])
        reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
        rows = [row for row in reader if any(cell.strip() for cell in row)]
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


def _find_delimiter(sample: str) -> str:
    """The mark that comes equally often in most of the first lines, outside quotes; a comma if none does.

    `csv.Sniffer` looks for quotes with expressions that a few kilobytes can stall.
    """
    lines = [line for line in _QUOTED.sub("", sample).splitlines() if line.strip()][:_SAMPLE_LINES]
    best, score = ",", 0.0
    for mark in ",;\t|":
        counts = Counter(line.count(mark) for line in lines)
        del counts[0]
        if counts:
            times, lines_with = counts.most_common(1)[0]
            # Agreement first; among equals the mark that makes more columns.
            found = lines_with + min(times, 99) / 100
            if found > score:
                best, score = mark, found
    return best
