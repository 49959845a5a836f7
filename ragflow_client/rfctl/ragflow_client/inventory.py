"""What a dataset holds before an upload, found by name without looking through all of it each time."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable

from rfctl.ragflow_client.document import Document, is_copy_name

_COPY = re.compile(r"\(\d+\)(?=\.[^.]*$)")


class Inventory:
    """Documents by id and by name. The server's logs are not kept: ten thousand of them are much."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self.by_id: dict[str, Document] = {}
        self._by_root: dict[str, list[Document]] = defaultdict(list)
        for document in documents:
            self._add(dataclasses.replace(document, log=""))

    def rename(self, id: str, name: str) -> None:
        """Note that a document has another name now."""
        document = self.by_id[id]
        for root in _roots(document.name):
            self._by_root[root].remove(document)
        self._add(dataclasses.replace(document, name=name))

    def namesake(self, name: str) -> Document | None:
        """The document of this name; case does not matter, as for the server."""
        wanted = name.casefold()
        return next((one for one in self._by_root.get(wanted, ()) if one.name.casefold() == wanted), None)

    def copies(self, name: str) -> list[Document]:
        """Documents whose names the server makes when `name` is taken."""
        return [one for one in self._by_root.get(name.casefold(), ()) if is_copy_name(one.name, name)]

    def _add(self, document: Document) -> None:
        self.by_id[document.id] = document
        for root in _roots(document.name):
            self._by_root[root].append(document)


def _roots(name: str) -> set[str]:
    return {_COPY.sub("", name).casefold(), name.casefold()}
