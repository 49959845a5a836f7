"""Starting the parsing of documents and waiting for it with a deadline, one document per request.

States: RAGFlow v0.27.0 (document_api.py, task_service.py). One bad document would abort the rest of a batch,
and a document can stay RUNNING at progress 0 for ever.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rfctl.core.catalog import read_back
from rfctl.core.error import RfctlError, UnreachableError
from rfctl.core.progress import Stage
from rfctl.ragflow_client.dataset import Dataset
from rfctl.ragflow_client.document import Document, fetch_documents
from rfctl.ragflow_client.failure import Cause, ServerError, UncertainError, explain, shorten
from rfctl.ragflow_client.record import check_ids, mapping
from rfctl.ragflow_client.transport import Api

_QUEUE = re.compile(r"(\d+) tasks? (?:is|are) ahead in the queue")
_CLOCK = re.compile(r"^\d\d:\d\d:\d\d\s+")
_UNKNOWN = re.compile(r"\[WARNING\]\[upload\.letters-unknown\]: (\d{1,3})%")
# What rfctl's own engine says of a document, by the id of its text.
_OWN = re.compile(r"\[ERROR\]\[(document\.[a-z-]+)\]: (.*)")
_BUSY = "currently being processed"
_NO_ANSWER = ("ragflow.not-api", "ragflow.answer-broken", "ragflow.http-status")
_FINISHED = ("DONE", "FAIL", "CANCEL")


@dataclass(frozen=True)
class Patience:
    """Seconds that a wait allows.

    poll     between two looks, growing from a tenth of it
    silent   RUNNING at progress 0 without a word: the start failed (RAGFlow 0.27 with an unreadable PDF)
    stall    without any change of one document
    offline  the server may be away (restart) while we wait
    total    the whole wait
    """

    poll: float = 2.0
    silent: float = 120.0
    stall: float = 1800.0
    offline: float = 120.0
    total: float = 12 * 3600.0


@dataclass(frozen=True)
class Waiting:
    """A document that is being parsed: its name, and its pages (0: unknown)."""

    name: str
    pages: int = 0


@dataclass(frozen=True)
class Outcome:
    """How parsing ended: the document as last seen (None: it vanished), and the cause of a failure."""

    document: Document | None
    cause: Cause | None = None


def start_parsing(api: Api, dataset: Dataset, document_id: str) -> None:
    """Ask for one document. Raises ServerError `upload.start-refused`; the document is stopped then."""
    ids = check_ids([document_id])
    path = f"/datasets/{dataset.id}/chunks"
    for attempt in (1, 2):
        try:
            api.call("POST", path, json={"document_ids": ids})
            return
        except UncertainError:
            # It may have been started: look, and ask once more if not.
            seen = fetch_documents(api, dataset, ids).get(document_id)
            if seen is not None and seen.run in ("RUNNING", "DONE", "FAIL"):
                return
            if attempt == 2:
                raise
        except ServerError as error:
            if _BUSY in error.message:
                return
            stop_parsing(api, dataset, document_id)
            raise ServerError(
                "upload.start-refused", code=error.code, message=error.message, detail=error.message
            ) from error


def stop_parsing(api: Api, dataset: Dataset, document_id: str) -> None:
    """Free a document that is RUNNING; one that is not is left as it is."""
    try:
        path = f"/datasets/{dataset.id}/chunks"
        api.call("DELETE", path, json={"document_ids": check_ids([document_id])}, repeatable=True)
    except ServerError:
        return


def wait_parsed(
    api: Api,
    dataset: Dataset,
    waiting: Mapping[str, Waiting],
    *,
    patience: Patience | None = None,
    stage: Stage | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Outcome]:
    """Wait until every document (by id) is finished or given up; one that stalls is stopped.

    stage gets pages done of all documents and a detail with the slowest one's state. Raises UnreachableError
    when the server stays away for `patience.offline`, and for a refused key AuthError.
    """
    limits = patience or Patience()
    begin = seen_server = clock()
    states: dict[str, tuple[tuple[object, ...], float]] = {}
    outcomes: dict[str, Outcome] = {}
    pause = limits.poll / 10
    last: dict[str, Document] = {}
    while pending := [id for id in waiting if id not in outcomes]:
        try:
            last |= (found := fetch_documents(api, dataset, pending))
            seen_server = clock()
        except RfctlError as error:
            # A proxy's error page while the server starts again is as good as silence.
            if not isinstance(error, UnreachableError) and error.id not in _NO_ANSWER:
                raise
            if clock() - seen_server > limits.offline:
                raise
            time.sleep(min(limits.poll, 1.0))
            continue
        now = clock()
        for id in pending:
            document = found.get(id)
            if document is None:
                outcomes[id] = Outcome(None, Cause("upload.vanished", {"name": waiting[id].name}))
                continue
            if document.run in _FINISHED:
                outcomes[id] = Outcome(document, _within(dataset, judge(document)))
                continue
            look = (document.run, document.progress, document.log, document.chunk_count)
            if states.get(id, (None, 0.0))[0] != look:
                states[id] = (look, now)
            quiet = now - states[id][1]
            limit = limits.silent if not document.log.strip() and document.progress <= 0 else limits.stall
            if quiet > limit or now - begin > limits.total:
                stop_parsing(api, dataset, id)
                outcomes[id] = Outcome(document, _within(dataset, _blame(api, document, quiet)))
        if stage is not None:
            _show(stage, waiting, outcomes, last)
        time.sleep(pause)
        pause = min(limits.poll, pause * 1.3)
    return outcomes


def judge(document: Document) -> Cause | None:
    """Why a finished document is of no use, or None."""
    if document.run == "DONE":
        return None if document.chunk_count else Cause("upload.no-chunks", {"name": document.name})
    if document.run == "CANCEL":
        return Cause("upload.cancelled", {"name": document.name})
    detail = last_error(document.log) or document.run
    own = _OWN.search(detail)
    if own is not None and (values := read_back(own[1], own[2])) is not None:
        return Cause(own[1], {**values, "name": document.name})
    if "File size exceeds" in detail:
        return Cause("upload.parser-too-large", {"name": document.name, "detail": detail})
    if "embedding" in detail.lower():
        return Cause("upload.embedding-failed", {"name": document.name, "detail": detail})
    return Cause("upload.parse-failed", {"name": document.name, "detail": detail})


def _within(dataset: Dataset, cause: Cause | None) -> Cause | None:
    """The cause with the knowledge base that the command which helps must name."""
    return cause and Cause(cause.id, {**cause.params, "dataset": dataset.name}, cause.exit_code)


def last_error(log: str) -> str:
    """The most telling line of a `progress_msg`: the last with [ERROR], else the last one."""
    lines = [_CLOCK.sub("", line.strip()) for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "[ERROR]" in line]
    return shorten((errors or lines or [""])[-1])


def unknown_letters(log: str) -> int:
    """Percentage of letters unknown to the embedding model, where rfctl's engine says it, else 0."""
    found = _UNKNOWN.search(log)
    return min(100, int(found[1])) if found else 0


def describe(document: Document) -> str:
    """A short state for people: the place in the queue, or the last line of the log with the percentage."""
    if (queue := _QUEUE.search(document.log)) and "Start to parse" not in document.log:
        return f"{document.name}: queue {queue[1]}"
    lines = [_CLOCK.sub("", line.strip()) for line in document.log.splitlines() if line.strip()]
    percent = f"{max(0.0, document.progress):.0%}"
    return f"{document.name}: {percent} {shorten(lines[-1])[:60]}" if lines else f"{document.name}: {percent}"


def _show(
    stage: Stage,
    waiting: Mapping[str, Waiting],
    outcomes: Mapping[str, Outcome],
    last: Mapping[str, Document],
) -> None:
    done = 0.0
    slowest: Document | None = None
    for id, entry in waiting.items():
        pages = max(1, entry.pages)
        if id in outcomes:
            done += pages
        elif (document := last.get(id)) is not None:
            done += pages * min(1.0, max(0.0, document.progress))
            if slowest is None or document.progress > slowest.progress:
                slowest = document
    stage.update(done=int(done), detail=describe(slowest) if slowest is not None else "")


def _blame(api: Api, document: Document, quiet: float) -> Cause:
    """A stalled document's cause; whether any task executor is alive is asked of the server."""
    params = {"name": document.name, "seconds": int(quiet), "detail": describe(document)}
    try:
        beats = mapping(api.call("GET", "/system/status")).get("task_executor_heartbeats")
    except RfctlError as error:
        return Cause("upload.stalled", {**params, "detail": explain(error).id})
    if isinstance(beats, Mapping) and not any(beats.values()):
        return Cause("upload.no-executor", params)
    return Cause("upload.stalled", params)
