"""Text out of documents: pages, places, encodings, and files that want to break the reader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfctl.core.catalog import LANGUAGES, entries
from rfctl.engine.text import extract as extract_module
from rfctl.engine.text import markup, pdf
from rfctl.engine.text.extract import DocumentError, Extraction, Line, Page, extract
from rfctl.engine.text.hypertext import strip_html


@pytest.fixture(scope="session")
def fixtures(golden: Path) -> Path:
    return golden / "ragflow" / "fixtures"


def make_pdf(path: Path, pages: list[list[str]], *, rotate: int = 0, box: str = "0 0 400 300") -> Path:
    """A plain PDF: a page per list, a line of Helvetica per text, from the top down 20 points apart."""
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"", b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"]
    kids = []
    for lines in pages:
        moves = "".join(f"1 0 0 1 20 {260 - 20 * n} Tm ({line}) Tj\n" for n, line in enumerate(lines))
        stream = f"BT /F1 12 Tf\n{moves}ET".encode("latin-1")
        objects.append(b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream))
        kids.append(len(objects) + 1)
        objects.append(
            f"<</Type/Page/Parent 2 0 R/MediaBox[{box}]/Rotate {rotate}/Contents {len(objects)} 0 R"
            "/Resources<</Font<</F1 3 0 R>>>>>>".encode()
        )
    refs = " ".join(f"{kid} 0 R" for kid in kids)
    objects[1] = f"<</Type/Pages/Count {len(kids)}/Kids[{refs}]>>".encode()
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    data += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    data += b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    path.write_bytes(data)
    return path


def text_of(extraction: Extraction, number: int) -> str:
    (page,) = (page for page in extraction.pages if page.number == number)
    return "\n".join(line.text for line in page.lines)


def test_every_line_is_on_its_page(fixtures: Path) -> None:
    seen: list[tuple[int, int]] = []
    extraction = extract(
        fixtures / "handbook.pdf", "pdf", on_page=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 2), (2, 2)]
    assert [page.number for page in extraction.pages] == [1, 2]
    assert text_of(extraction, 1).splitlines()[:2] == ["Project Aurora Handbook", "1. Overview"]
    assert "launch code name is Bluebird" in text_of(extraction, 1)
    assert "The battery must be stored below thirty degrees." in text_of(extraction, 2)
    for page in extraction.pages:
        assert (round(page.width), round(page.height)) == (595, 842)
        tops = [line.top for line in page.lines]
        assert tops == sorted(tops)
        for line in page.lines:
            assert 0 < line.x0 < line.x1 < page.width
            assert 0 < line.top < line.bottom < page.height


def test_chinese(fixtures: Path) -> None:
    extraction = extract(fixtures / "zh.pdf", "pdf")
    assert text_of(extraction, 1).splitlines()[:2] == ["极光项目手册", "一、概述"]
    assert all(line.bottom > line.top for line in extraction.pages[0].lines)


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_places_count_from_the_top_left_of_the_page_as_shown(tmp_path: Path, rotate: int) -> None:
    extraction = extract(make_pdf(tmp_path / "a.pdf", [["Hello"]], rotate=rotate, box="0 0 400 300"), "pdf")
    (page,) = extraction.pages
    (line,) = page.lines
    assert line.text == "Hello"
    assert (page.width, page.height) == ((400, 300) if rotate in (0, 180) else (300, 400))
    # Base line 260 from the bottom of 300, size 12: the word stands between 28 and 44 from the top.
    middle = ((line.x0 + line.x1) / 2, (line.top + line.bottom) / 2)
    shown = {0: (34, 36), 90: (264, 34), 180: (366, 264), 270: (36, 366)}[rotate]
    assert middle == pytest.approx(shown, abs=4)


def test_a_page_box_that_does_not_begin_at_zero(tmp_path: Path) -> None:
    (page,) = extract(make_pdf(tmp_path / "a.pdf", [["Hello"]], box="10 100 410 300"), "pdf").pages
    (line,) = page.lines
    assert line.x0 == pytest.approx(11, abs=2)
    assert line.bottom == pytest.approx(40, abs=2)


def test_a_range_of_pages(tmp_path: Path) -> None:
    path = make_pdf(tmp_path / "a.pdf", [[f"page {number}"] for number in range(1, 8)])
    extraction = extract(path, "pdf", pages=[(2, 4), (6, 7), (50, 60)])
    assert [page.number for page in extraction.pages] == [2, 3, 6]
    assert [page.lines[0].text for page in extraction.pages] == ["page 2", "page 3", "page 6"]


def test_running_heads_go_and_the_text_stays(tmp_path: Path) -> None:
    pages = [
        ["The Manual", f"Chapter {n}", f"Body of page {n}.", "The Manual is here.", f"{n} / 6"]
        for n in range(1, 7)
    ]
    extraction = extract(make_pdf(tmp_path / "a.pdf", pages), "pdf")
    assert text_of(extraction, 3) == "Body of page 3."
    pages[2][1] = "An own heading"
    extraction = extract(make_pdf(tmp_path / "a.pdf", pages), "pdf")
    assert text_of(extraction, 3) == "An own heading\nBody of page 3."


def test_a_chapter_head_with_the_page_number_goes(tmp_path: Path) -> None:
    names = ["Start"] * 4 + ["Middle"] * 4 + ["End"] * 4
    words = [chr(ord("a") + n) * 3 for n in range(12)]
    pages = [
        [f"Chapter: {name} {n + 7}", f"Body {word}.", f"More {word}.", f"The {word} end."]
        for n, (name, word) in enumerate(zip(names, words, strict=True))
    ]
    extraction = extract(make_pdf(tmp_path / "a.pdf", pages), "pdf")
    for number, word in enumerate(words, 1):
        assert text_of(extraction, number) == f"Body {word}.\nMore {word}.\nThe {word} end."


def test_a_line_with_a_number_of_its_own_is_no_running_head(tmp_path: Path) -> None:
    """One form a page: its serial number stands where a running head would, and is what is looked for."""
    serials = [4711, 23, 90210, 8, 31337, 512, 77, 1984]
    pages = [
        ["Works Ltd, form 7", f"Serial number SN-{serial}", "Name:", f"Page {n} of 8"]
        for n, serial in enumerate(serials, 1)
    ]
    extraction = extract(make_pdf(tmp_path / "a.pdf", pages), "pdf")
    for number, serial in enumerate(serials, 1):
        assert text_of(extraction, number) == f"Serial number SN-{serial}"


def test_pages_that_are_alike_are_not_emptied(tmp_path: Path) -> None:
    path = make_pdf(tmp_path / "a.pdf", [[f"Form {n}", "Name:"] for n in range(1, 9)])
    assert text_of(extract(path, "pdf"), 5) == "Form 5\nName:"


def test_the_mark_of_a_broken_word_is_resolved(tmp_path: Path) -> None:
    from rfctl.engine.text import extract as module
    from rfctl.engine.text.extract import Line, Page

    def join(*texts: str) -> str:
        pages = [Page(1, 1, 1, tuple(Line(text) for text in texts))]
        return module._join_hyphens(pages)[0].lines[0].text

    assert join("the back\x02ground of it") == "the background of it"
    assert join("a well\x02known one", "well well known known") == "a well-known one"
    assert join("a well\x02known one", "well well known known", "wellknown") == "a wellknown one"
    assert join("ends with\ufffe", "x") == "ends with-"


ERRORS = {
    "corrupt.pdf": "document.corrupt",
    "encrypted.pdf": "document.encrypted",
    "not-a-pdf.pdf": "document.corrupt",
    "zero.pdf": "document.empty",
    "program.exe": "document.type-unsupported",
}


@pytest.mark.parametrize(("name", "id"), ERRORS.items())
def test_unreadable_files_say_why(fixtures: Path, name: str, id: str) -> None:
    with pytest.raises(DocumentError) as caught:
        extract(fixtures / name, Path(name).suffix)
    assert caught.value.id == id
    for language in LANGUAGES:
        text = caught.value.text(language)
        assert name in text.message
        assert "{" not in text.message + text.why + text.next
        assert text.next


def test_a_scan_has_no_text_and_says_so(fixtures: Path) -> None:
    extraction = extract(fixtures / "blank.pdf", "pdf")
    assert not extraction.has_text
    assert extraction.blank_pages == (1,)


def test_no_pages(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        extract(make_pdf(tmp_path / "a.pdf", []), "pdf")
    assert caught.value.id in ("document.no-pages", "document.corrupt")


def test_missing_and_too_large(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        extract(tmp_path / "no.pdf", "pdf")
    assert caught.value.id == "document.unreadable"
    large = tmp_path / "large.pdf"
    with large.open("wb") as file:
        file.truncate((128 << 20) + 1)
    with pytest.raises(DocumentError) as caught:
        extract(large, "pdf")
    assert caught.value.id == "document.too-large"


def test_both_languages_have_the_same_entries() -> None:
    mine = [{id for id in entries(language) if id.startswith("document.")} for language in LANGUAGES]
    assert mine[0] == mine[1]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_pdfs_are_read_or_refused(fixtures: Path, tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["handbook.pdf", "encrypted.pdf", "zh.pdf"]))
    content = bytearray((fixtures / name).read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(1, len(content))) :]
    for _ in range(data.draw(st.integers(0, 40))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.pdf"
    path.write_bytes(bytes(content))
    begin = time.monotonic()
    try:
        extraction = extract(path, "pdf", page_timeout=10)
    except DocumentError as error:
        assert error.id.startswith("document.")
        assert "{" not in error.text("zh").message
    else:
        assert all(page.number == number for number, page in enumerate(extraction.pages, 1))
    assert time.monotonic() - begin < 30


def _children() -> set[int]:
    shown = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    return {
        int(line.split()[0])
        for line in shown.stdout.splitlines()
        if "text.pdf_worker" in line and "ps -eo" not in line
    }


@pytest.mark.skipif(os.name == "nt", reason="looks at the process table")
def test_the_reader_is_gone_when_the_caller_gives_up(fixtures: Path) -> None:
    def give_up(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = _children()
    with pytest.raises(KeyboardInterrupt):
        extract(fixtures / "handbook.pdf", "pdf", on_page=give_up)
    assert _children() - before == set()


STALLED = "import sys, time; sys.stdin.readline(); print('{\"total\": 3}', flush=True); time.sleep(60)"
CRASHED = "import sys, os; sys.stdin.readline(); print('{\"total\": 3}', flush=True); os.abort()"


@pytest.mark.parametrize(("script", "id"), [(STALLED, "document.timeout"), (CRASHED, "document.crashed")])
def test_a_reader_that_stalls_or_dies(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, id: str
) -> None:
    # An interpreter in whose place a script stands: what a stalled or crashed PDFium looks like from outside.
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\nexec {sys.executable} -c "$SCRIPT"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("SCRIPT", script)
    monkeypatch.setattr(pdf.sys, "executable", str(fake))
    begin = time.monotonic()
    with pytest.raises(DocumentError) as caught:
        extract(fixtures / "handbook.pdf", "pdf", page_timeout=1)
    assert caught.value.id == id
    assert time.monotonic() - begin < 20


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_the_memory_of_the_reader_is_bounded(fixtures: Path) -> None:
    with pytest.raises(pdf.PdfError) as caught:
        list(pdf.read_pages(fixtures / "handbook.pdf", None, memory=16 << 20))
    assert caught.value.id == "crashed"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gb18030"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("极光项目 handbook\r\nzweite Zeile\n\n".encode(encoding))
    extraction = extract(path, "txt")
    assert [line.text for line in extraction.pages[0].lines] == ["极光项目 handbook", "zweite Zeile"]


def test_a_binary_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(DocumentError) as caught:
        extract(path, "txt")
    assert caught.value.id == "document.encoding-unknown"


def test_html_and_csv() -> None:
    page = b"<style>p{}</style><h1>Title</h1><p>One <b>bold</b>\nword.<script>alert(1)</script><li>x &amp; y"
    assert markup.read_lines(page, "html") == ["Title", "One bold word.", "x & y"]
    table = b"name;price\nSensor;340 EUR\n;\nBattery;1200 EUR\n"
    assert markup.read_lines(table, "csv") == [
        "name: Sensor; price: 340 EUR",
        "name: Battery; price: 1200 EUR",
    ]


@given(data=st.binary(max_size=2000), kind=st.sampled_from(["txt", "html", "csv", "json", "md"]))
def test_any_bytes_are_text_or_refused(data: bytes, kind: str) -> None:
    try:
        lines = markup.read_lines(data, kind)
    except UnicodeError:
        return
    assert all(line.strip() and "\n" not in line for line in lines)


def test_markup_that_is_never_closed_and_quotes_that_stand_alone() -> None:
    assert strip_html("<p>a<!-- b") == "a"
    assert strip_html("<p>1 < 2 and a<b") == "1 < 2 and a"
    assert strip_html("<a title='x>y' href=\"a>b\">link</a>") == "link"
    assert strip_html("<p title=it's>one</p><p>two") == "one\ntwo"
    assert strip_html("<textarea><b>raw</b></textarea><i>x</i>") == "<b>raw</b>x"
    assert strip_html("<!DOCTYPE html><?x?></ p>a<template>b</template>c") == "ac"
    assert strip_html("<table><tr><td>1</td><td>2</td></tr></table>&lt;&#20013;&#" + "9" * 5000 + ";") == (
        "1 2\n<中\ufffd"
    )


# Each was quadratic or worse once: hours for a megabyte, with the engine's other threads standing still.
@pytest.mark.parametrize(
    "mark", ["<!--", "<a ", "</a ", "<![CDATA[", "<!DOCTYPE ", "<?", "<a b='", "<a =\"'>", "&#"]
)
def test_hostile_html_takes_time_in_proportion(mark: str) -> None:
    begin = time.process_time()
    strip_html("<textarea>" + mark * 20_000 + "</textarea>" + mark * 200_000)
    assert time.process_time() - begin < 3


def test_hostile_lines_take_time_in_proportion() -> None:
    size = 300_000
    lines = ("a" * size, "a" * size + "\x02", "\x02 " * size, "1 " * size, "x")
    page = Page(1, 10.0, 10.0, tuple(Line(text) for text in lines))
    begin = time.process_time()
    pages = extract_module._join_hyphens(extract_module._drop_running_heads([page] * 4))
    assert len(pages) == 4
    assert time.process_time() - begin < 10


def test_a_table_of_quotes_is_no_work() -> None:
    begin = time.process_time()
    for text in ('"' * 500_000, ',"' * 500_000, '"",' * 200_000, "a;b\n" * 100_000):
        markup.flatten_csv(text)
    assert time.process_time() - begin < 5


def test_the_delimiter_of_a_table() -> None:
    assert (
        markup.flatten_csv('name\tnote\nA\t"x, y, z"\nB\tp, q\n')
        == "name: A; note: x, y, z\nname: B; note: p, q"
    )
    assert markup.flatten_csv("a|b\n1|2\n") == "a: 1; b: 2"
    assert markup.flatten_csv('a, "b, c"\n1, "2, 3"\n4, "5, 6"\n') == "a: 1; b, c: 2, 3\na: 4; b, c: 5, 6"
    assert markup.flatten_csv("one column\nvalue\n") == "one column: value"


def write_bomb(path: Path) -> Path:
    """Two thousand pages that are all the same stream: some kilobytes of file, any amount of text."""
    words = " ".join(f"(word{number}) Tj 0 -1 Td" for number in range(400))
    stream = f"BT /F1 1 Tf 10 290 Td {words} ET".encode()
    count = 2000
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>" % (count, b" ".join(b"5 0 R" for _ in range(count))),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 300] /Contents 4 0 R"
        b" /Resources << /Font << /F1 3 0 R >> >> >>",
    ]
    data = b"%PDF-1.4\n"
    for number, body in enumerate(objects, 1):
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    path.write_bytes(data + b"trailer << /Root 1 0 R /Size 6 >>\n%%EOF\n")
    return path


def test_pages_that_share_one_text_do_not_fill_the_memory(tmp_path: Path) -> None:
    path = write_bomb(tmp_path / "bomb.pdf")
    with pytest.raises(pdf.PdfError) as caught:
        for _ in pdf.read_pages(path, None, output=1 << 20):
            pass
    assert caught.value.id == "too-much-text"


def test_a_text_of_very_many_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_module, "MAX_LINES", 1000)
    path = tmp_path / "a.txt"
    path.write_text("a\n" * 1001, "ascii")
    with pytest.raises(DocumentError) as caught:
        extract(path, "txt")
    assert caught.value.id == "document.too-much-text"


def test_a_reader_that_is_busy_ends_with_its_engine(tmp_path: Path) -> None:
    reader = subprocess.Popen(
        [sys.executable, "-P", "-m", "rfctl.engine.text.pdf_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert reader.stdin is not None and reader.stdout is not None
    request = {"path": str(write_bomb(tmp_path / "bomb.pdf")), "pages": None, "memory": 0}
    reader.stdin.write(json.dumps(request).encode() + b"\n")
    reader.stdin.flush()
    # Nobody reads what it says, so it hangs, as it would in a page that never ends.
    with pytest.raises(subprocess.TimeoutExpired):
        reader.wait(2)
    reader.stdin.close()
    assert reader.wait(10) == 1
    reader.stdout.close()
