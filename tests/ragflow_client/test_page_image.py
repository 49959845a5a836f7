"""A page as a picture, drawn in a child process."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pypdfium2
import pytest

from rfctl.core.error import RfctlError
from rfctl.ragflow_client.page_image import WIDTH_PIXELS, draw_page
from rfctl.ragflow_client.reference import Box

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "manual.pdf"


def read_png(data: bytes) -> np.ndarray:
    """The pixels of a PNG as this module writes it; every checksum is looked at."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, body = 8, b""
    size = (0, 0)
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        content = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + content)
        if kind == b"IHDR":
            size = struct.unpack(">II", content[:8])
            assert content[8:] == bytes([8, 2, 0, 0, 0])
        elif kind == b"IDAT":
            body += content
        at += 12 + length
    columns, rows = size
    lines = np.frombuffer(zlib.decompress(body), dtype=np.uint8).reshape(rows, 1 + 3 * columns)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(rows, columns, 3)


def test_a_passage_is_marked_where_it_stands() -> None:
    plain = read_png(draw_page(MANUAL, 2))
    marked = read_png(draw_page(MANUAL, 2, [Box(2, 100.0, 200.0, 300.0, 340.0), Box(3, 0, 10, 0, 10)]))
    assert plain.shape == marked.shape
    assert plain.shape[1] == WIDTH_PIXELS
    rows, columns = np.nonzero((plain != marked).any(axis=2))
    scale = WIDTH_PIXELS / pypdfium2.PdfDocument(MANUAL)[1].get_width()
    for found, points in ((rows, (300, 340)), (columns, (100, 200))):
        assert abs(found.min() - points[0] * scale) < 8
        assert abs(found.max() - points[1] * scale) < 8
    # Text under a marker stays readable.
    assert (marked <= plain).all()


def test_a_box_outside_of_the_page_marks_nothing() -> None:
    wild = Box(2, -1e9, 1e9, 1e8, 1e9)
    assert draw_page(MANUAL, 2, [wild]) == draw_page(MANUAL, 2)


@pytest.mark.parametrize("page", [0, 11])
def test_a_page_that_is_not_there(page: int) -> None:
    with pytest.raises(RfctlError) as caught:
        draw_page(MANUAL, page)
    assert caught.value.id == "web.page-not-drawn"


def test_what_is_no_pdf(tmp_path: Path) -> None:
    path = tmp_path / "x.pdf"
    path.write_bytes(b"%PDF-1.7\n" + bytes(range(256)) * 40)
    with pytest.raises(RfctlError) as caught:
        draw_page(path, 1)
    assert caught.value.id == "web.page-not-drawn"
    assert "Error" in str(caught.value.params["detail"])
