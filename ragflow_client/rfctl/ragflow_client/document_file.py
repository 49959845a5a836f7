"""A stored document as a file here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rfctl.ragflow_client.dataset import Dataset
from rfctl.ragflow_client.document import Document
from rfctl.ragflow_client.failure import ServerError
from rfctl.ragflow_client.transport import Api


def save_document(
    api: Api,
    dataset: Dataset,
    document: Document,
    path: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the document's bytes to `path`; advance gets the bytes of each piece.

    Raises as `Api.download`, OSError, and ServerError `ragflow.shape` when the server sends another number of
    bytes than it listed (it stops there: a server cannot fill the disk).
    """
    url = f"/datasets/{dataset.id}/documents/{document.id}"
    done = 0
    with path.open("wb") as file:
        for piece in api.download(url):
            done += len(piece)
            if done > document.size:
                break
            file.write(piece)
            advance(len(piece))
    if done != document.size:
        raise ServerError("ragflow.shape", url=url, detail=f"{document.name}: {done} != {document.size}")
