"""A look at a file before it is sent: what RAGFlow would accept and then never finish is named here.

RAGFlow 0.27 takes corrupt, encrypted and empty PDFs with code 0; starting them fails and leaves them RUNNING
for ever (task_service.queue_tasks).
"""

from __future__ import annotations

import dataclasses
import json
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rfctl.ragflow_client.failure import Cause, shorten

MAX_FILE_BYTES = 1 << 30  # MAX_CONTENT_LENGTH of RAGFlow and client_max_body_size of its nginx
PARSER_FILE_BYTES = 128 << 20  # what the parser takes unless MAX_CONTENT_LENGTH is set (common/settings.py)
MAX_NAME_BYTES = 255
LOOK_SECONDS = 60.0
LOOK_MEMORY_BYTES = 4 << 30
_HEADER_BYTES = 1024


@dataclass(frozen=True)
class Look:
    """What was found without sending anything.

    cause         why the file should not be sent, or None
    pages         pages of a PDF, 0 for other files and where it is not known
    looked, text  pages looked at (at most 64) and those of them that have a text layer
    """

    path: Path
    name: str
    size: int = 0
    pages: int = 0
    looked: int = 0
    text: int = 0
    cause: Cause | None = None

    @property
    def text_share(self) -> float:
        """Share of the pages with a text layer, 0-1; 1 where it was not looked at."""
        return self.text / self.looked if self.looked else 1.0


def look_at(path: Path, *, reads_scans: bool = False, parser_limit: int = PARSER_FILE_BYTES) -> Look:
    """Look at one file. reads_scans: whether the server recognises text in images.

    Never raises for the file; the cause has an id `upload.*`. Reads a PDF in a child process of bounded time
    and memory.
    """
    name = path.name
    size = 0

    def refuse(id: str, **params: object) -> Look:
        return Look(path, name, size, cause=Cause(id, {"name": name, **params}))

    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return refuse("upload.not-a-file")
        size = status.st_size
        with path.open("rb") as file:
            start = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return refuse("upload.missing", path=path)
    except OSError as error:
        return refuse("upload.unreadable", detail=error.strerror or str(error))
    try:
        name_bytes = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return refuse("upload.name-not-text")
    if name_bytes > MAX_NAME_BYTES:
        return refuse("upload.name-too-long", limit=MAX_NAME_BYTES, bytes=name_bytes)
    if size == 0:
        return refuse("upload.empty")
    if not path.suffix:
        return refuse("upload.no-extension")
    if size > min(MAX_FILE_BYTES, parser_limit):
        return refuse("upload.file-too-large", size=size, limit=min(MAX_FILE_BYTES, parser_limit))
    if path.suffix.lower() != ".pdf":
        return Look(path, name, size)
    if b"%PDF-" not in start:
        return refuse("upload.not-a-pdf")
    return _look_at_pdf(path, size, reads_scans)


def rename(look: Look, name: str) -> Look:
    """The same under the name that the document will have."""
    cause = look.cause
    if cause is not None:
        cause = Cause(cause.id, {**cause.params, "name": name}, cause.exit_code)
    elif (size := len(name.encode("utf-8"))) > MAX_NAME_BYTES:
        cause = Cause("upload.name-too-long", {"name": name, "limit": MAX_NAME_BYTES, "bytes": size})
    return dataclasses.replace(look, name=name, cause=cause)


def _look_at_pdf(path: Path, size: int, reads_scans: bool) -> Look:
    name = path.name
    pages = looked = text = 0

    def refuse(id: str, **params: object) -> Look:
        return Look(path, name, size, pages, looked, text, cause=Cause(id, {"name": name, **params}))

    command = [sys.executable, "-I", "-m", "rfctl.ragflow_client.pdf_look", str(path), str(LOOK_MEMORY_BYTES)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LOOK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return refuse("upload.pdf-stalls", seconds=int(LOOK_SECONDS))
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return refuse("upload.pdf-crashes", detail=_last_line(done.stderr) or f"exit {done.returncode}")
    match found.get("error"):
        case None:
            pass
        case "encrypted":
            return refuse("upload.encrypted")
        case "no-pages":
            return refuse("upload.no-pages")
        case _:
            return refuse("upload.corrupt", detail=shorten(str(found.get("detail"))))
    pages = int(found["pages"])
    looked, text = int(found["looked"]), int(found["text"])
    if text == 0:
        if not found["images"]:
            return refuse("upload.blank", pages=pages)
        if not reads_scans:
            return refuse("upload.scanned", pages=pages)
    return Look(path, name, size, pages, looked, text)


def _last_line(data: bytes) -> str:
    lines = data.decode("utf-8", errors="replace").strip().splitlines()
    return shorten(lines[-1]) if lines else ""
