"""The document of a passage: its bytes to keep, and the page to look at."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rfctl.core.error import RfctlError
from rfctl.ragflow_client.chat import Chat
from rfctl.ragflow_client.connection import Ragflow
from rfctl.ragflow_client.dataset import Dataset
from rfctl.ragflow_client.document import Document, fetch_documents
from rfctl.ragflow_client.document_file import save_document
from rfctl.ragflow_client.page_image import draw_page
from rfctl.ragflow_client.reference import Source

# The parser takes no larger file, and a page is drawn from a copy.
MAX_FILE_BYTES = 256 << 20
MAX_PAGES = 2


def has_page(source: Source) -> bool:
    """Whether the passage stands on a page that can be drawn."""
    return bool(source.document_id and source.pages and source.document.lower().endswith(".pdf"))


def read_file(ragflow: Ragflow, chat: Chat, source: Source) -> bytes:
    """The document. Raises `web.document-gone`, `web.document-too-large`, and as `save_document`."""
    with tempfile.TemporaryDirectory(prefix="rfctl-web-") as folder:
        return _save(ragflow, chat, source, Path(folder)).read_bytes()


def draw_source(ragflow: Ragflow, chat: Chat, source: Source) -> tuple[bytes, ...]:
    """The pages of the passage as PNG, at most two, with it marked. Raises as `read_file`, `draw_page`."""
    with tempfile.TemporaryDirectory(prefix="rfctl-web-") as folder:
        path = _save(ragflow, chat, source, Path(folder))
        return tuple(draw_page(path, page, source.boxes) for page in source.pages[:MAX_PAGES])


def _save(ragflow: Ragflow, chat: Chat, source: Source, folder: Path) -> Path:
    dataset, document = _find(ragflow, chat, source)
    if document.size > MAX_FILE_BYTES:
        raise RfctlError("web.document-too-large", name=source.document, limit=MAX_FILE_BYTES >> 20)
    path = folder / "document"
    try:
        save_document(ragflow.api, dataset, document, path)
    except OSError as error:
        detail = error.strerror or str(error)
        raise RfctlError("web.document-unwritable", name=source.document, detail=detail) from error
    return path


def _find(ragflow: Ragflow, chat: Chat, source: Source) -> tuple[Dataset, Document]:
    """A passage names its document, not the knowledge base; an assistant has few of those."""
    if source.document_id:
        for dataset in ragflow.datasets():
            if dataset.id in chat.dataset_ids:
                found = fetch_documents(ragflow.api, dataset, [source.document_id])
                if document := found.get(source.document_id):
                    return dataset, document
    raise RfctlError("web.document-gone", name=source.document)
