"""Keeping a dataset equal to a folder: only what differs is sent, and the old goes when the new is there."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rfctl.core.error import PartlyDoneError, RfctlError
from rfctl.core.progress import SILENT, Reporter, Stage
from rfctl.ragflow_client.dataset import Dataset
from rfctl.ragflow_client.document import iterate_documents, remove_documents, rename_document
from rfctl.ragflow_client.inventory import Inventory
from rfctl.ragflow_client.ledger import Ledger, Row
from rfctl.ragflow_client.parse import Patience
from rfctl.ragflow_client.report import UploadItem
from rfctl.ragflow_client.sync_plan import Step, SyncPlan, plan_sync
from rfctl.ragflow_client.transport import Api
from rfctl.ragflow_client.upload import upload_files

BATCH = 32
_REMOVED_AT_ONCE = 50


@dataclass(frozen=True)
class SyncReport:
    """What a sync did.

    counts   by result: "unchanged", "parsed", "replaced", "renamed", "failed", "removed", and "left" for
             documents of files that are gone where nothing was pruned
    changed  every file that was touched or failed, in the order of the paths; removed: names
    """

    dataset: str
    counts: Counter[str]
    changed: tuple[UploadItem, ...]
    removed: tuple[str, ...]
    left: tuple[str, ...]
    skipped: Counter[str]

    @property
    def failed(self) -> tuple[UploadItem, ...]:
        return tuple(item for item in self.changed if item.status == "failed")

    def check(self) -> None:
        """Raise when files failed: their own error when there is one file at all, exit 6 when others are
        there."""
        failed = self.failed
        if not failed:
            return
        total = sum(self.counts[name] for name in ("unchanged", "parsed", "replaced", "renamed", "failed"))
        if total == 1 and failed[0].cause is not None:
            raise failed[0].cause.to_error()
        values: dict[str, object] = {"failed": len(failed), "total": total, "dataset": self.dataset}
        if len(failed) == total:
            raise RfctlError("upload.all-failed", exit_code=None, **values)
        raise PartlyDoneError("upload.partly-failed", exit_code=None, done=total - len(failed), **values)


def sync_folder(
    api: Api,
    dataset: Dataset,
    folder: Path,
    ledger_folder: Path,
    *,
    prune: bool = False,
    reads_scans: bool = False,
    approve: Callable[[SyncPlan], bool] = lambda _: True,
    patience: Patience | None = None,
    reporter: Reporter = SILENT,
) -> SyncReport | None:
    """Make the dataset hold the documents of `folder`; None when `approve` declined.

    approve     sees the plan before anything is changed: the place for a dry run and for consent
    prune       remove documents that sync has put there and whose files are gone
    An interrupted sync is finished by the next one. Raises UsageError `sync.not-a-folder`, RfctlError
    `sync.busy`, `sync.ledger-broken`, AuthError, UnreachableError; failures of files are in the report.
    """
    folder = folder.resolve()
    with Ledger(ledger_folder, dataset.id, folder) as ledger:
        inventory = Inventory(iterate_documents(api, dataset))
        plan = plan_sync(
            api, dataset, folder, ledger.rows(), ledger.elsewhere(), inventory, reporter=reporter
        )
        if not approve(plan):
            return None
        run = _Run(api, dataset, ledger, inventory, plan, reads_scans, patience)
        run.settle()
        send = [step for step in plan.steps if step.action in ("add", "replace")]
        again = [step for step in plan.steps if step.action == "parse"]
        if send or again:
            with reporter.stage("sync.stage-send", total=len(send) + len(again), unit="items") as stage:
                run.send(send, stage, fresh=False)
                run.send(again, stage, fresh=True)
        removed = run.prune() if prune else ()
        return run.report(removed)


class _Run:
    """One sync after it has been approved."""

    def __init__(
        self,
        api: Api,
        dataset: Dataset,
        ledger: Ledger,
        inventory: Inventory,
        plan: SyncPlan,
        reads_scans: bool,
        patience: Patience | None,
    ) -> None:
        self._api = api
        self._dataset = dataset
        self._ledger = ledger
        self._inventory = inventory
        self._plan = plan
        self._reads_scans = reads_scans
        self._patience = patience
        self._names = {step.path: step.name for step in plan.steps}
        self._items: dict[Path, UploadItem] = {}
        self._used: set[str] = set()

    def settle(self) -> None:
        """What needs no sending: ledger rows of documents found there, new names, failures known already."""
        plan = self._plan
        learnt = [
            step.row
            for step in plan.steps
            if step.action == "adopt" or (step.action in ("keep", "rename") and step.row != step.known)
        ]
        for part in _parts(learnt, 1000):
            self._ledger.write(part)
        self._ledger.forget(plan.vanished)
        for step in plan.steps:
            if step.document is not None and step.document.name != step.name:
                self._rename(step)
            if step.action == "fail":
                self._items[step.path] = UploadItem(step.path, step.name, "failed", cause=step.cause)

    def send(self, steps: Sequence[Step], stage: Stage, *, fresh: bool) -> None:
        for part in _parts(steps, BATCH):
            # Said before it is done, so that what an interruption leaves is known as ours.
            self._ledger.write(self._intend(step) for step in part)
            report = upload_files(
                self._api,
                self._dataset,
                [step.path for step in part],
                replace=True,
                fresh=fresh,
                names=self._names,
                before=self._inventory,
                reads_scans=self._reads_scans,
                patience=self._patience,
            )
            self._record(part, report.items)
            stage.advance(len(part))

    def prune(self) -> tuple[str, ...]:
        removed: list[str] = []
        # A file that was moved goes on with the document it had.
        orphans = [(path, one) for path, one in self._plan.orphans if one.id not in self._used]
        for part in _parts(orphans, _REMOVED_AT_ONCE):
            remove_documents(self._api, self._dataset, [document for _, document in part])
            self._ledger.forget(path for path, _ in part)
            removed += [document.name for _, document in part]
        return tuple(removed)

    def report(self, removed: tuple[str, ...]) -> SyncReport:
        items = tuple(self._items[path] for path in sorted(self._items))
        named: Counter[str] = Counter(item.status for item in items)
        named["unchanged"] += len(self._plan.steps) - len(items)
        named["removed"] = len(removed)
        left = tuple(
            one.name
            for _, one in self._plan.orphans
            if not removed and one.id not in self._used and one.name not in self._names.values()
        )
        named["left"] = len(left)
        return SyncReport(self._dataset.name, named, items, removed, left, self._plan.skipped)

    def _rename(self, step: Step) -> None:
        assert step.document is not None
        if step.known is None or step.known.document != step.document.id:
            return  # its name differs in case only
        rename_document(self._api, self._dataset, step.document, step.name)
        self._inventory.rename(step.document.id, step.name)
        if step.action == "rename":
            self._items[step.path] = UploadItem(
                step.path, step.name, "renamed", size=step.row.size, document_id=step.document.id
            )

    def _intend(self, step: Step) -> Row:
        """The ledger's row while the file is being sent: the old document stays known until the end."""
        row = self._standing(step) or Row(step.row.path)
        foreign = step.document is not None and step.document.id != row.document and not step.row.made
        return dataclasses.replace(row, intent="" if foreign else step.row.hash)

    def _record(self, steps: Sequence[Step], items: Sequence[UploadItem]) -> None:
        found = {item.path: item for item in items}
        rows: list[Row] = []
        for step in steps:
            item = found[step.path]
            self._items[step.path] = item
            standing = self._standing(step)
            # After a failed replacement the old document stands; otherwise what failed is there, as ours.
            # Where nobody knows, the intent stays: the next sync asks the server.
            if item.document_id and (item.cause is None or standing is None):
                made = self._has_made(step, item.document_id)
                rows.append(dataclasses.replace(step.row, document=item.document_id, made=made, intent=""))
                self._used.add(item.document_id)
        self._ledger.write(rows)

    def _standing(self, step: Step) -> Row | None:
        """The ledger's row if its document is still on the server."""
        known = step.known
        return known if known is not None and known.document in self._inventory.by_id else None

    def _has_made(self, step: Step, id: str) -> bool:
        if id not in self._inventory.by_id:
            return True
        known = step.known
        if known is not None and (known.intent or (known.document == id and known.made)):
            return True
        return step.row.document == id and step.row.made


def _parts[Item](items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
