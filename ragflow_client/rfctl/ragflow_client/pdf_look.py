"""The child process that looks at a PDF: `python -m rfctl.ragflow_client.pdf_look PATH MEMORY_BYTES`.

PDFium meets hostile files, so it never runs in the caller's process. It prints one JSON object: {"pages": n,
"looked": pages looked at, "text": those with text, "images": those with an image but no text} or {"error":
"encrypted" | "corrupt" | "no-pages", "detail": text}.
"""

from __future__ import annotations

import contextlib
import json
import sys

import pypdfium2
import pypdfium2.raw as pdfium

MAX_LOOKED = 64
_PASSWORD_ERROR = 4
_OBJECTS_PER_PAGE = 2000
_CHARACTERS_PER_PAGE = 2000


def look(path: str) -> dict[str, object]:
    """Open the file and look at up to 64 pages, evenly spread."""
    try:
        document = pypdfium2.PdfDocument(path)
        count = len(document)
    except pypdfium2.PdfiumError as error:
        return {"error": _classify(error), "detail": str(error)}
    if count == 0:
        return {"error": "no-pages", "detail": ""}
    step = max(1, -(-count // MAX_LOOKED))
    text = images = looked = 0
    for index in range(0, count, step):
        looked += 1
        try:
            page = document[index]
        except pypdfium2.PdfiumError:
            continue
        characters = page.get_textpage()
        if _has_text(characters):
            text += 1
        elif _has_image(page):
            images += 1
        characters.close()
        page.close()
    return {"pages": count, "looked": looked, "text": text, "images": images}


def _has_text(characters: pypdfium2.PdfTextPage) -> bool:
    count = min(characters.count_chars(), _CHARACTERS_PER_PAGE)
    codes = (pdfium.FPDFText_GetUnicode(characters.raw, index) for index in range(count))
    return any(code < 0x110000 and chr(code).isprintable() and not chr(code).isspace() for code in codes)


def _has_image(page: pypdfium2.PdfPage) -> bool:
    count = min(pdfium.FPDFPage_CountObjects(page.raw), _OBJECTS_PER_PAGE)
    for index in range(count):
        kind = pdfium.FPDFPageObj_GetType(pdfium.FPDFPage_GetObject(page.raw, index))
        if kind in (pdfium.FPDF_PAGEOBJ_IMAGE, pdfium.FPDF_PAGEOBJ_FORM):
            return True
    return False


def _classify(error: pypdfium2.PdfiumError) -> str:
    if getattr(error, "err_code", None) == _PASSWORD_ERROR or "assword" in str(error):
        return "encrypted"
    # PDFium reports a document without pages as a failure with the code of success.
    return "no-pages" if "Success" in str(error) else "corrupt"


def limit_memory(size: int) -> None:
    """Cap the address space of this process; where the system cannot, the caller's time limit remains."""
    if sys.platform == "win32":
        return
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    limit_memory(int(sys.argv[2]))
    sys.stdout.write(json.dumps(look(sys.argv[1])))
