"""What is said of a file before it is sent."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pypdfium2
import pytest

from rfctl.ragflow_client import triage
from rfctl.ragflow_client.triage import look_at


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("corrupt.pdf", "upload.corrupt"),
        ("encrypted.pdf", "upload.encrypted"),
        ("not-a-pdf.pdf", "upload.not-a-pdf"),
        ("zero.pdf", "upload.empty"),
        ("blank.pdf", "upload.blank"),
        ("no-such-file.pdf", "upload.missing"),
        ("handbook.pdf", None),
        ("zh.pdf", None),
        ("note.txt", None),
        ("program.exe", None),
    ],
)
def test_the_recorded_files(fixtures: Path, name: str, id: str | None) -> None:
    look = look_at(fixtures / name)
    assert (look.cause.id if look.cause else None) == id
    if look.cause is not None:
        for language in ("en", "zh"):
            text = look.cause.text(language)
            assert name in text.message
            assert text.next


def test_pages_and_their_text(fixtures: Path) -> None:
    look = look_at(fixtures / "handbook.pdf")
    assert (look.pages, look.looked, look.text, look.text_share) == (2, 2, 2, 1.0)
    assert look_at(fixtures / "note.txt").pages == 0


def make_pdf(path: Path, *, images: int = 0, empty: int = 0, text_from: Path | None = None) -> Path:
    document = pypdfium2.PdfDocument.new()
    for _ in range(images):
        page = document.new_page(200, 200)
        bitmap = pypdfium2.PdfBitmap.new_native(20, 20, pypdfium2.raw.FPDFBitmap_BGR)
        bitmap.fill_rect((10, 20, 30, 255), 0, 0, 20, 20)
        image = pypdfium2.PdfImage.new(document)
        image.set_bitmap(bitmap)
        image.set_matrix(pypdfium2.PdfMatrix().scale(200, 200))
        page.insert_obj(image)
        page.gen_content()
    for _ in range(empty):
        document.new_page(200, 200)
    if text_from is not None:
        document.import_pages(pypdfium2.PdfDocument(text_from))
    document.save(path)
    return path


def test_a_scan_is_no_blank_page(tmp_path: Path) -> None:
    scan = make_pdf(tmp_path / "scan.pdf", images=3)
    look = look_at(scan)
    assert look.cause is not None
    assert (look.cause.id, look.pages, look.text) == ("upload.scanned", 3, 0)
    assert look_at(scan, reads_scans=True).cause is None
    blank = look_at(make_pdf(tmp_path / "blank.pdf", empty=2), reads_scans=True)
    assert blank.cause is not None and blank.cause.id == "upload.blank"


def test_a_document_that_is_partly_scanned(tmp_path: Path, fixtures: Path) -> None:
    path = make_pdf(tmp_path / "mixed.pdf", images=2, text_from=fixtures / "handbook.pdf")
    look = look_at(path)
    assert (look.cause, look.pages, look.text, look.text_share) == (None, 4, 2, 0.5)


def test_many_pages_are_sampled(tmp_path: Path) -> None:
    look = look_at(make_pdf(tmp_path / "long.pdf", empty=500))
    assert look.pages == 500
    assert 32 < look.looked <= 64


def test_no_cut_of_a_pdf_is_taken_for_a_good_one_without_pages(tmp_path: Path, fixtures: Path) -> None:
    data = (fixtures / "handbook.pdf").read_bytes()
    for size in range(200, len(data), 550):
        path = tmp_path / "cut.pdf"
        path.write_bytes(data[:size])
        look = look_at(path)
        assert look.cause is not None or look.pages > 0


def test_names_and_kinds(tmp_path: Path) -> None:
    for name, id in (
        ("noextension", "upload.no-extension"),
        ("数" * 84 + ".txt", "upload.name-too-long"),
        ("a.txt", None),
    ):
        path = tmp_path / name
        try:
            path.write_text("text")
        except OSError:
            continue  # this file system does not have such names
        look = look_at(path)
        assert (look.cause.id if look.cause else None) == id
    folder = look_at(tmp_path)
    assert folder.cause is not None and folder.cause.id == "upload.not-a-file"


def test_a_file_that_the_parser_would_refuse_later(tmp_path: Path) -> None:
    path = tmp_path / "big.pdf"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 200 << 20)
    look = look_at(path)
    assert look.cause is not None and look.cause.id == "upload.file-too-large"
    begin = time.monotonic()
    assert look_at(path, parser_limit=1 << 30).cause is not None
    assert time.monotonic() - begin < 5


def test_a_reader_that_hangs_or_dies_is_that_files_failure(
    tmp_path: Path, fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triage, "LOOK_SECONDS", 0.5)
    python = sys.executable
    for body, id in (
        ("import time; time.sleep(30)", "upload.pdf-stalls"),
        ("import os; os.abort()", "upload.pdf-crashes"),
    ):
        fake = tmp_path / "python"
        fake.write_text(f"#!{python}\n{body}\n")
        fake.chmod(0o755)
        monkeypatch.setattr(triage.sys, "executable", str(fake))
        look = look_at(fixtures / "handbook.pdf")
        assert look.cause is not None and look.cause.id == id
