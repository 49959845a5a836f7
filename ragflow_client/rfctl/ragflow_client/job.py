"""The state of one upload: what all its files share, and how far each file is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rfctl.core.progress import Stage
from rfctl.ragflow_client.dataset import Dataset
from rfctl.ragflow_client.document import Document
from rfctl.ragflow_client.failure import Cause
from rfctl.ragflow_client.inventory import Inventory
from rfctl.ragflow_client.transport import Api
from rfctl.ragflow_client.triage import Look


@dataclass
class Job:
    """One file on its way. document: what is to be parsed; replaced: what goes when that has worked."""

    path: Path
    look: Look
    document: Document | None = None
    replaced: Document | None = None
    rename: bool = False
    is_new: bool = False
    unchanged: bool = False
    started: bool = False
    doubles: list[Document] = field(default_factory=list)
    cause: Cause | None = None


@dataclass
class Run:
    """What all jobs of one upload share.

    fresh  parse anew although the content is there; names: the names of all files (case-folded), none of
    which is ever taken for a leftover of another
    """

    api: Api
    dataset: Dataset
    replace: bool
    parse: bool
    before: Inventory
    sent: Stage
    fresh: bool = False
    names: frozenset[str] = frozenset()
