"""What became of the files of an upload, one by one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rfctl.core.error import PartlyDoneError, RfctlError
from rfctl.ragflow_client.failure import Cause

Status = Literal["parsed", "uploaded", "unchanged", "replaced", "renamed", "failed"]


@dataclass(frozen=True)
class UploadItem:
    """What became of one file.

    pages, text_pages   pages of a PDF (0: not a PDF), and the estimate of those with a text layer
    seconds             the server's time for parsing; cause is set exactly when status is "failed"
    source              the web address that it was fetched from, "" for a file of this machine
    unknown_letters     percentage of its letters unknown to the embedding model (0: few, or nobody said)
    """

    path: Path
    name: str
    status: Status
    size: int = 0
    pages: int = 0
    text_pages: int = 0
    chunks: int = 0
    seconds: float = 0.0
    document_id: str = ""
    cause: Cause | None = None
    source: str = ""
    unknown_letters: int = 0


@dataclass(frozen=True)
class UploadReport:
    """All files of one upload, in the order in which they were given."""

    dataset: str
    items: tuple[UploadItem, ...]

    @property
    def failed(self) -> tuple[UploadItem, ...]:
        return tuple(item for item in self.items if item.status == "failed")

    def check(self) -> None:
        """Raise for failures: the file's own error when it is the only one, exit 6 when others were done."""
        failed = self.failed
        if not failed:
            return
        if len(self.items) == 1 and failed[0].cause is not None:
            raise failed[0].cause.to_error()
        counts: dict[str, object] = {"failed": len(failed), "total": len(self.items), "dataset": self.dataset}
        if len(failed) == len(self.items):
            raise RfctlError("upload.all-failed", exit_code=None, **counts)
        done = len(self.items) - len(failed)
        raise PartlyDoneError("upload.partly-failed", exit_code=None, done=done, **counts)
