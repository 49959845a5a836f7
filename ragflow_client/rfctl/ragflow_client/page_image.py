"""A page of a PDF as a picture with a passage marked.

PDFium meets hostile files, so it draws in a child process (`python -m rfctl.ragflow_client.page_image PATH
MEMORY_BYTES PAGE BOXES`, boxes as JSON) with bounded memory, pixels and time; the child prints a PNG.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pypdfium2

from rfctl.core.error import RfctlError
from rfctl.ragflow_client.failure import shorten
from rfctl.ragflow_client.pdf_look import limit_memory
from rfctl.ragflow_client.reference import MAX_BOXES, Box

DRAW_SECONDS = 30.0
DRAW_MEMORY_BYTES = 4 << 30
WIDTH_PIXELS = 1200
MAX_HEIGHT_PIXELS = 4800
_PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
_MARKER = (255, 240, 150)
_MARGIN_POINTS = 2.0


def draw_page(path: Path, page: int, boxes: Sequence[Box] = ()) -> bytes:
    """PNG of the 1-based `page`, 1200 pixels wide, the boxes of that page as if gone over with a marker.

    Raises RfctlError `web.page-not-drawn` (no PDF, no such page, PDFium crashed or took over 30 s).
    """
    marked = [[box.left, box.top, box.right, box.bottom] for box in boxes if box.page == page][:MAX_BOXES]
    command = [sys.executable, "-I", "-m", "rfctl.ragflow_client.page_image"]
    command += [str(path), str(DRAW_MEMORY_BYTES), str(page), json.dumps(marked)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DRAW_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RfctlError("web.page-not-drawn", page=page, detail=f"{DRAW_SECONDS:.0f} s") from error
    if done.returncode != 0 or not done.stdout.startswith(_PNG_BEGIN):
        lines = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
        detail = shorten(lines[-1]) if lines else f"exit {done.returncode}"
        raise RfctlError("web.page-not-drawn", page=page, detail=detail)
    return done.stdout


def _draw(path: str, page: int, boxes: Sequence[Sequence[float]]) -> bytes:
    document = pypdfium2.PdfDocument(path)
    if not 1 <= page <= len(document):
        raise IndexError(f"page {page} of {len(document)}")
    sheet = document[page - 1]
    width, height = sheet.get_size()
    scale = min(WIDTH_PIXELS / max(width, 1), MAX_HEIGHT_PIXELS / max(height, 1))
    picture = np.array(sheet.render(scale=scale, rev_byteorder=True).to_numpy()[:, :, :3])
    for left, top, right, bottom in boxes:
        _mark(picture, left * scale, top * scale, right * scale, bottom * scale, _MARGIN_POINTS * scale)
    return _to_png(picture)


def _mark(
    picture: npt.NDArray[np.uint8], left: float, top: float, right: float, bottom: float, margin: float
) -> None:
    """Multiply the rectangle with the colour of the marker, so that what is black stays black."""
    rows, columns = picture.shape[:2]
    first, last = (int(min(max(edge, 0), rows)) for edge in (top - margin, bottom + margin))
    begin, end = (int(min(max(edge, 0), columns)) for edge in (left - margin, right + margin))
    part = picture[first:last, begin:end].astype(np.uint16)
    picture[first:last, begin:end] = part * np.array(_MARKER, dtype=np.uint16) // 255


def _to_png(picture: npt.NDArray[np.uint8]) -> bytes:
    """An 8 bit RGB image, shape (rows, columns, 3), as PNG (ISO/IEC 15948), every row unfiltered."""
    rows, columns = picture.shape[:2]
    lines = np.zeros((rows, 1 + 3 * columns), dtype=np.uint8)
    lines[:, 1:] = picture.reshape(rows, 3 * columns)

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 3)
    return _PNG_BEGIN + part(b"IHDR", head) + part(b"IDAT", body) + part(b"IEND", b"")


if __name__ == "__main__":
    limit_memory(int(sys.argv[2]))
    sys.stdout.buffer.write(_draw(sys.argv[1], int(sys.argv[3]), json.loads(sys.argv[4])))
