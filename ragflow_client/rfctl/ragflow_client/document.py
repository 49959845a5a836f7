"""Documents of a dataset: list, find, fetch, rename, delete."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from rfctl.core.error import UsageError
from rfctl.ragflow_client.dataset import Dataset
from rfctl.ragflow_client.failure import ServerError, UncertainError
from rfctl.ragflow_client.record import (
    PAGE_SIZE,
    check_ids,
    is_id,
    mapping,
    number,
    pages,
    records,
    text,
    whole,
)
from rfctl.ragflow_client.transport import Api

_PIECE_BYTES = 1 << 20
# Numbers are what the database holds; some routes let them through.
_RUNS = {"0": "UNSTART", "1": "RUNNING", "2": "CANCEL", "3": "DONE", "4": "FAIL", "5": "UNSTART"}
_NOTHING = "you don't own the document"


@dataclass(frozen=True)
class Document:
    """A document as listed.

    run       UNSTART, RUNNING, DONE, FAIL or CANCEL
    progress  0-1, -1 after a failure; log is the server's whole `progress_msg`
    """

    id: str
    name: str
    size: int
    run: str
    progress: float = 0.0
    log: str = ""
    chunk_count: int = 0
    token_count: int = 0
    seconds: float = 0.0
    created: str = ""

    @property
    def is_searchable(self) -> bool:
        """DONE alone is not enough: a blank PDF ends DONE with no chunk."""
        return self.run == "DONE" and self.chunk_count > 0


def list_documents(api: Api, dataset: Dataset, *, keywords: str = "") -> tuple[Document, ...]:
    """All documents, newest first; keywords: part of the name."""
    return tuple(iterate_documents(api, dataset, keywords=keywords))


def iterate_documents(api: Api, dataset: Dataset, *, keywords: str = "") -> Iterator[Document]:
    """The same one by one, so that nobody has to hold the logs of ten thousand."""
    seen: set[str] = set()
    for page in pages():
        query: dict[str, Any] = {"page": page, "page_size": PAGE_SIZE}
        if keywords:
            query["keywords"] = keywords
        rows = _rows(api, dataset, query)
        for row in rows:
            if (id := text(row, "id")) not in seen:
                seen.add(id)
                yield read_document(row)
        if len(rows) < PAGE_SIZE:
            break


def list_newest(api: Api, dataset: Dataset, ids: Set[str]) -> tuple[Document, ...]:
    """The newest documents, up to one page beyond those with these ids."""
    found: dict[str, Document] = {}
    for page in pages():
        complete = ids <= found.keys()
        rows = _rows(api, dataset, {"page": page, "page_size": PAGE_SIZE})
        for row in rows:
            found.setdefault(text(row, "id"), read_document(row))
        if complete or len(rows) < PAGE_SIZE:
            break
    return tuple(found.values())


def fetch_documents(api: Api, dataset: Dataset, ids: Sequence[str]) -> dict[str, Document]:
    """The documents with these ids, by id; one that is gone is left out."""
    found: dict[str, Document] = {}
    for start in range(0, len(ids), PAGE_SIZE // 2):
        part = check_ids(ids[start : start + PAGE_SIZE // 2])
        query: dict[str, Any] = {"page": 1, "page_size": PAGE_SIZE}
        query |= {"id": part[0]} if len(part) == 1 else {"ids": part}
        try:
            rows = _rows(api, dataset, query)
        except ServerError as error:
            if _NOTHING not in error.message:
                raise
            continue
        found |= {text(row, "id"): read_document(row) for row in rows if text(row, "id") in part}
    return found


def find_documents(api: Api, dataset: Dataset, names: Sequence[str]) -> tuple[Document, ...]:
    """The documents with these names or ids. Raises UsageError for the first missing."""
    documents = list_documents(api, dataset)
    found = []
    for wanted in names:
        matches = [
            one for one in documents if one.name == wanted or (is_id(wanted) and one.id == wanted)
        ] or [one for one in documents if one.name.casefold() == wanted.casefold()]
        if not matches:
            raise UsageError("upload.document-unknown", name=wanted, dataset=dataset.name)
        found.append(matches[0])
    return tuple(found)


def remove_documents(api: Api, dataset: Dataset, documents: Sequence[Document]) -> None:
    """Delete documents. Succeeds when they are gone, whoever removed them."""
    ids = check_ids([one.id for one in documents])
    try:
        api.call("DELETE", f"/datasets/{dataset.id}/documents", json={"ids": ids})
    except (ServerError, UncertainError):
        left = fetch_documents(api, dataset, ids)
        if len(left) == len(ids):
            raise
        if left:  # the server deletes nothing when one of them is unknown
            remove_documents(api, dataset, list(left.values()))


def rename_document(api: Api, dataset: Dataset, document: Document, name: str) -> None:
    """Give a document another name of the same extension."""
    path = f"/datasets/{dataset.id}/documents/{document.id}"
    api.call("PATCH", path, json={"name": name}, repeatable=True)


def list_meta(api: Api, dataset: Dataset) -> dict[str, dict[str, Any]]:
    """The fields that are kept with documents, by document id; those without any are left out."""
    found: dict[str, dict[str, Any]] = {}
    for page in pages():
        rows = _rows(api, dataset, {"page": page, "page_size": PAGE_SIZE})
        found |= {
            text(row, "id"): dict(fields) for row in rows if (fields := mapping(row.get("meta_fields")))
        }
        if len(rows) < PAGE_SIZE:
            break
    return found


def set_meta(api: Api, dataset: Dataset, document_id: str, fields: Mapping[str, Any]) -> bool:
    """Keep these fields with a document, beside those it has; whether one of them was new or other."""
    (id,) = check_ids([document_id])
    rows = _rows(api, dataset, {"page": 1, "page_size": PAGE_SIZE, "id": id})
    row = next((row for row in rows if text(row, "id") == id), None)
    have = mapping(row.get("meta_fields")) if row is not None else {}
    if all(have.get(key) == value for key, value in fields.items()):
        return False
    path = f"/datasets/{dataset.id}/documents/{id}"
    api.call("PATCH", path, json={"meta_fields": {**have, **fields}}, repeatable=True)
    return True


def same_content(api: Api, dataset: Dataset, document: Document, path: Path) -> bool:
    """Whether the stored document has the bytes of `path`. Size first; then it is fetched piece by piece."""
    if document.size != path.stat().st_size:
        return False
    return hash_document(api, dataset, document) == hash_file(path)


def hash_document(api: Api, dataset: Dataset, document: Document) -> str:
    """XXH128 of a stored document in hex; it is fetched piece by piece and not kept.

    A server that sends more than it listed is not listened to any longer: the hash is then another one.
    """
    digest = xxhash.xxh3_128()
    left = document.size
    for piece in api.download(f"/datasets/{dataset.id}/documents/{document.id}"):
        digest.update(piece)
        if (left := left - len(piece)) < 0:
            break
    return str(digest.hexdigest())


def hash_file(path: Path) -> str:
    """XXH128 of a file in hex, RAGFlow's `content_hash`."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return str(digest.hexdigest())


def is_copy_name(name: str, original: str) -> bool:
    """Whether the server made `name` of `original` because that was taken: `a(1).pdf` of `a.pdf`."""
    stem, dot, suffix = original.rpartition(".")
    pattern = re.escape(stem) + r"\(\d+\)" + re.escape(dot + suffix)
    return re.fullmatch(pattern, name, re.IGNORECASE) is not None


def read_document(row: Mapping[str, Any]) -> Document:
    run = text(row, "run")
    return Document(
        id=text(row, "id"),
        name=text(row, "name"),
        size=whole(row, "size"),
        run=_RUNS.get(run, run),
        progress=number(row, "progress"),
        log=text(row, "progress_msg"),
        chunk_count=whole(row, "chunk_count"),
        token_count=whole(row, "token_count"),
        seconds=number(row, "process_duration"),
        created=text(row, "create_date"),
    )


def _rows(api: Api, dataset: Dataset, query: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    path = f"/datasets/{dataset.id}/documents"
    return records(mapping(api.call("GET", path, params=query)).get("docs"), path)
