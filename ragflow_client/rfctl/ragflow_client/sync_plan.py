"""What a sync would do: files, ledger and the server's list compared, nothing changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rfctl.core.error import UsageError
from rfctl.core.progress import SILENT, Reporter
from rfctl.ragflow_client.dataset import Dataset
from rfctl.ragflow_client.document import Document, hash_document, hash_file
from rfctl.ragflow_client.failure import Cause
from rfctl.ragflow_client.inventory import Inventory
from rfctl.ragflow_client.ledger import Row
from rfctl.ragflow_client.selection import name_files, walk
from rfctl.ragflow_client.transport import Api

Action = Literal["keep", "adopt", "add", "replace", "parse", "rename", "fail"]
# A file system may keep times in steps of two seconds (FAT): a younger file is read again.
_GRAIN_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Step:
    """One file. row: what the ledger will say of it when all goes well (document "" until it is known);
    known: what it says now; document: what is on the server for it.

    action  keep: nothing to do; adopt: the same content is there already, only the ledger learns it; add,
            replace: send (the old one goes when the new one is parsed); parse: other parser settings, or not
            parsed to the end; rename: same content, other name; fail: see cause
    """

    path: Path
    name: str
    action: Action
    row: Row
    document: Document | None = None
    cause: Cause | None = None
    known: Row | None = None


@dataclass(frozen=True)
class SyncPlan:
    """steps: all files, sorted by path. orphans: documents that sync made of files that are gone.

    vanished: paths in the ledger with neither file nor document.
    """

    folder: Path
    signature: str
    steps: tuple[Step, ...]
    orphans: tuple[tuple[str, Document], ...]
    vanished: tuple[str, ...]
    skipped: Counter[str]

    @property
    def changes(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.action not in ("keep", "adopt"))


def sign(dataset: Dataset) -> str:
    """A text that differs when documents of the dataset would be cut or embedded differently."""
    settings = [dataset.embedding_model, dataset.chunk_method, dict(dataset.parser_config)]
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:32]


def plan_sync(
    api: Api,
    dataset: Dataset,
    folder: Path,
    rows: dict[str, Row],
    elsewhere: set[str],
    inventory: Inventory,
    *,
    reporter: Reporter = SILENT,
) -> SyncPlan:
    """Compare. A file whose size and time are those of the ledger is not read again.

    Raises UsageError `sync.not-a-folder`, `upload.folder-unreadable`; what `Api.download` raises where a
    document of unknown origin has to be compared.
    """
    if not folder.is_dir():
        raise UsageError("sync.not-a-folder", path=folder)
    skipped: Counter[str] = Counter()
    paths = list(walk(folder, skipped))
    names = name_files({path: path.relative_to(folder) for path in paths})
    signature = sign(dataset)
    steps = []
    taken: set[str] = set()
    owner = {row.document: row.path for row in rows.values() if row.document}
    with reporter.stage("sync.stage-compare", total=len(paths), unit="items") as stage:
        for path in paths:
            below = str(path.relative_to(folder))
            step = _compare(
                api, dataset, path, names[path], below, rows.get(below), owner, inventory, signature
            )
            name = step.name
            if name.casefold() in taken:
                cause = Cause("upload.name-twice", {"name": name, "path": path})
                step = Step(path, name, "fail", step.row, cause=cause)
            taken.add(name.casefold())
            steps.append(step)
            stage.advance(1)
    present = {step.row.path for step in steps}
    kept = {step.document.id for step in steps if step.document is not None}
    gone = [row for path, row in rows.items() if path not in present]
    orphans = tuple(
        (row.path, inventory.by_id[row.document])
        for row in gone
        if row.made and row.document in inventory.by_id and row.document not in kept | elsewhere
    )
    lost = {path for path, _ in orphans}
    vanished = tuple(row.path for row in gone if row.path not in lost)
    return SyncPlan(folder, signature, tuple(steps), orphans, vanished, skipped)


def _compare(
    api: Api,
    dataset: Dataset,
    path: Path,
    name: str,
    below: str,
    known: Row | None,
    owner: dict[str, str],
    inventory: Inventory,
    signature: str,
) -> Step:
    def step(action: Action, row: Row, document: Document | None = None, cause: Cause | None = None) -> Step:
        return Step(path, name, action, row, document, cause, known)

    try:
        status = path.stat()
        seen = time.time_ns()
        unread = (
            known is not None
            and known.hash
            and (known.size, known.mtime_ns) == (status.st_size, status.st_mtime_ns)
            and known.mtime_ns + _GRAIN_NS < known.seen_ns
        )
        digest = known.hash if unread and known is not None else hash_file(path)
    except OSError as error:
        cause = Cause("upload.unreadable", {"name": name, "detail": error.strerror or str(error)})
        # Its document stays, and gives its name free where another file needs that.
        standing = inventory.by_id.get(known.document) if known else None
        return step("fail", known or Row(below), standing, cause)
    row = Row(
        path=below,
        document=known.document if known else "",
        hash=digest,
        signature=signature,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        seen_ns=known.seen_ns if unread and known is not None else seen,
        made=known is not None and known.made,
    )
    document = inventory.by_id.get(row.document) if row.document else None
    if document is not None and known is not None:
        if (other := inventory.namesake(name)) is not None and other.id != document.id:
            name = document.name  # the better name is free after the other has gone: next time
        # The server's list shows no hash, but a document that somebody has changed has another id or size.
        if known.hash != digest or document.size != status.st_size:
            return step("replace", row, document)
        if known.signature != signature:
            return step("parse", row, document)
        if not document.is_searchable:
            return step("add", row, document)
        return step("keep" if document.name == name else "rename", row, document)
    namesake = inventory.namesake(name)
    if namesake is None or owner.get(namesake.id, below) != below:
        # The document of another file of this folder: that one is renamed, or gone.
        return step("add", row)
    stored = ""
    if namesake.size == status.st_size or (known is not None and known.intent):
        stored = hash_document(api, dataset, namesake)
    ours = known is not None and known.intent != "" and stored == known.intent
    if stored == digest:
        found = dataclasses.replace(row, document=namesake.id, made=ours)
        return step("adopt" if namesake.is_searchable else "add", found, namesake)
    if ours:
        return step("replace", dataclasses.replace(row, document=namesake.id, made=True), namesake)
    cause = Cause("sync.name-taken", {"name": name, "dataset": dataset.name, "path": path})
    return step("fail", row, cause=cause)


def count_actions(steps: Sequence[Step]) -> Counter[str]:
    return Counter(step.action for step in steps)
