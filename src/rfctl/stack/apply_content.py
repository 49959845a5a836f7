"""Whether two documents of the same name and size hold the same bytes, as far as it is known.

RAGFlow's list shows no `content_hash` (v0.27.0; only the answer to an upload does), so what `apply` has
brought and what `kb sync` has put there is remembered on this machine, by document id.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from rfctl.core.file import write_atomic
from rfctl.ragflow_client.ledger import read_hashes
from rfctl.ragflow_client.record import is_id

Content = Literal["", "same", "other", "unknown"]
_XXH128 = re.compile(r"[0-9a-f]{32}")


class ContentMemory:
    """XXH128 (hex) of documents by id, one file per knowledge base. ledger: the folder of `kb sync`."""

    def __init__(self, folder: Path, ledger: Path) -> None:
        self._folder, self._ledger = folder, ledger

    def known(self, dataset_id: str) -> dict[str, str]:
        """What is remembered of a knowledge base. Raises RfctlError `sync.ledger-broken`."""
        return {**read_hashes(self._ledger, dataset_id), **self._read(dataset_id)}

    def remember(self, dataset_id: str, found: Mapping[str, str]) -> None:
        """Keep these too. A disk that takes nothing costs a comparison later, not the work of now."""
        if not found or not is_id(dataset_id):
            return
        text = json.dumps({**self._read(dataset_id), **found}, indent=0)
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(self._path(dataset_id), text.encode(), mode=0o600)

    def _read(self, dataset_id: str) -> dict[str, str]:
        if not is_id(dataset_id):
            return {}
        try:
            document = json.loads(self._path(dataset_id).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {
            id: digest
            for id, digest in (document.items() if isinstance(document, dict) else ())
            if isinstance(digest, str) and _XXH128.fullmatch(digest)
        }

    def _path(self, dataset_id: str) -> Path:
        return self._folder / f"{dataset_id}.json"


def compare(mine: str, theirs: str) -> Content:
    """Of two hashes, "" where one is not known."""
    if not mine or not theirs:
        return "unknown"
    return "same" if mine == theirs else "other"
