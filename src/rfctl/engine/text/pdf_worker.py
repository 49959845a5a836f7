"""The child process that reads a PDF: `python -m rfctl.engine.text.pdf_worker`.

PDFium is not thread-safe and meets hostile files, so it never runs in the engine's own process.

The end of stdin ends the process. Protocol, UTF-8 JSON, one object per line. stdin: {"path", "pages":
[[first, end], ...] or null (1-based, end exclusive), "memory": bytes or 0}. stdout: {"total": pages to come},
then for each page {"number", "width", "height", "lines": [[text, x0, x1, top, bottom], ...]} (PDF points,
origin top left), then {"done": true}; or at any point {"error": id without the prefix `document.`, "detail":
text}. Unknown failures end the process with a trace on stderr.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

# PDFium maps a page to a device of whole pixels; this many pixels per point keep a tenth of a point.
_SCALE = 10
_PASSWORD_ERROR = 4
MAX_PAGES = 20_000
MAX_CHARACTERS = 2_000_000


def serve() -> None:
    """Answer the one request on stdin."""
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_memory(int(request.get("memory") or 0))
    try:
        document = pypdfium2.PdfDocument(request["path"])
        count = len(document)
    except pypdfium2.PdfiumError as error:
        _send({"error": _classify(error), "detail": str(error)})
        return
    if count == 0:
        _send({"error": "no-pages", "detail": ""})
        return
    numbers = list(_select(request.get("pages"), count))
    if len(numbers) > MAX_PAGES:
        _send({"error": "too-many-pages", "detail": str(len(numbers))})
        return
    _send({"total": len(numbers)})
    for number in numbers:
        try:
            page = document[number - 1]
            text_page = page.get_textpage()
        except pypdfium2.PdfiumError as error:
            # One page that cannot be read costs that page, not the document.
            _send({"number": number, "width": 0.0, "height": 0.0, "lines": [], "damaged": str(error)})
            continue
        try:
            _send({"number": number, **_read(page, text_page)})
        finally:
            text_page.close()
            page.close()
    _send({"done": True})


def _end_with_parent() -> None:
    """A page can keep PDFium busy for ever; nobody would stop it after a kill of the engine."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(1)


def limit_memory(size: int) -> None:
    """Cap the address space of this process at `size` bytes; 0 or an unable system leave it as it is."""
    if not size or sys.platform == "win32":
        return
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _classify(error: pypdfium2.PdfiumError) -> str:
    if getattr(error, "err_code", None) == _PASSWORD_ERROR or "assword" in str(error):
        return "encrypted"
    # PDFium reports a document without pages as a failure with the code of success.
    return "no-pages" if "Success" in str(error) else "corrupt"


def _select(ranges: list[list[int]] | None, count: int) -> Iterator[int]:
    if not ranges:
        yield from range(1, count + 1)
        return
    wanted = set[int]()
    for first, end in ranges:
        wanted.update(range(max(1, first), min(end, count + 1)))
    yield from sorted(wanted)


def _read(page: Any, text_page: Any) -> dict[str, Any]:
    width, height = page.get_size()
    lines = []
    for start, text in _split(text_page):
        box = _box(page, text_page, start, len(text), width, height)
        if text.strip():
            lines.append([text.strip(), *box])
    return {"width": round(width, 2), "height": round(height, 2), "lines": lines}


def _split(text_page: Any) -> Iterator[tuple[int, str]]:
    """(index of the first character, text) of each line; indexes count PDFium's characters."""
    count = min(text_page.count_chars(), MAX_CHARACTERS)
    text = text_page.get_text_range(0, count) if count > 0 else ""
    if len(text) != count:
        # Characters outside the BMP or without meaning shift the text against the indexes.
        codes = (pdfium.FPDFText_GetUnicode(text_page.raw, index) for index in range(count))
        text = "".join(
            chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else " " for code in codes
        )
    start = 0
    for line in text.splitlines(keepends=True):
        yield start, line.rstrip("\r\n")
        start += len(line)


def _box(page: Any, text_page: Any, start: int, length: int, width: float, height: float) -> list[float]:
    count = pdfium.FPDFText_CountRects(text_page.raw, start, length) if length else 0
    corners: list[tuple[float, float]] = []
    left, top, right, bottom = (ctypes.c_double() for _ in range(4))
    for index in range(max(0, count)):
        references = (ctypes.byref(value) for value in (left, top, right, bottom))
        if pdfium.FPDFText_GetRect(text_page.raw, index, *references):
            corners.append(_place(page, left.value, top.value, width, height))
            corners.append(_place(page, right.value, bottom.value, width, height))
    if not corners:
        return [0.0, 0.0, 0.0, 0.0]
    across, down = [x for x, _ in corners], [y for _, y in corners]
    x0, x1, above, below = min(across), max(across), min(down), max(down)
    if below - above < 1:
        # Fonts that are not embedded have no glyph boxes: take the font size above the base line.
        above = max(0.0, round(below - pdfium.FPDFText_GetFontSize(text_page.raw, start), 1))
    return [x0, x1, above, below]


def _place(page: Any, x: float, y: float, width: float, height: float) -> tuple[float, float]:
    """A point of the page's own space (any rotation, any crop box) from the top left, in points."""
    across, down = ctypes.c_int(), ctypes.c_int()
    size = (round(width * _SCALE), round(height * _SCALE))
    pdfium.FPDF_PageToDevice(page.raw, 0, 0, *size, 0, x, y, ctypes.byref(across), ctypes.byref(down))
    return across.value / _SCALE, down.value / _SCALE


def _send(value: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()
