"""Bringing files into a dataset: looked at, sent one per request, parsed one per request, judged one by one.

RAGFlow never refuses a second file of the same name, it makes `a(1).pdf`; so everything is compared with what
is there before, and looked for again after a connection that broke.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rfctl.core.error import AuthError, RfctlError, UnreachableError
from rfctl.core.progress import SILENT, Reporter
from rfctl.ragflow_client.dataset import Dataset
from rfctl.ragflow_client.document import (
    Document,
    hash_file,
    iterate_documents,
    list_documents,
    read_document,
    remove_documents,
    rename_document,
    same_content,
)
from rfctl.ragflow_client.double import doubles_of, find_doubles, newcomers
from rfctl.ragflow_client.failure import Cause, ServerError, UncertainError, explain
from rfctl.ragflow_client.inventory import Inventory
from rfctl.ragflow_client.job import Job, Run
from rfctl.ragflow_client.parse import Outcome, Patience, Waiting, start_parsing, unknown_letters, wait_parsed
from rfctl.ragflow_client.record import record, records, text
from rfctl.ragflow_client.report import Status, UploadItem, UploadReport
from rfctl.ragflow_client.transport import Api
from rfctl.ragflow_client.triage import look_at, rename

__all__ = ["UploadItem", "UploadReport", "upload_files"]

WORKERS = 4
_LOOK_AGAIN_SECONDS = (0.5, 1.5, 3.0)


def upload_files(
    api: Api,
    dataset: Dataset,
    paths: Sequence[Path],
    *,
    replace: bool = False,
    parse: bool = True,
    reads_scans: bool = False,
    names: Mapping[Path, str] | None = None,
    before: Inventory | None = None,
    fresh: bool = False,
    workers: int = WORKERS,
    patience: Patience | None = None,
    reporter: Reporter = SILENT,
) -> UploadReport:
    """Upload files, parse them and wait. A file whose content is there already is left alone.

    replace: a document of the same name and other content is deleted after the new one has been parsed;
    without it that is a failure of this file. reads_scans: pages without text are the server's business
    (OCR). names: the document name of a file where it is not the file's own. before: what the dataset holds,
    when the caller has just listed it. fresh: a document that is there with the same content is parsed anew
    (other parser settings) and replaced.
    The report holds every failure; raised are only AuthError, UnreachableError (server gone while waiting)
    and interruption.
    Done again after an interruption, it goes on where it was.
    """
    named = {path.absolute(): name for path, name in (names or {}).items()}
    jobs = _look_at_all(paths, named, reads_scans, workers, reporter)
    good = [job for job in jobs if job.cause is None]
    if good:
        if before is None:
            before = Inventory(iterate_documents(api, dataset))
        taken = frozenset(name.casefold() for name in [*named.values(), *(job.look.name for job in jobs)])
        total = sum(job.look.size for job in good)
        with reporter.stage("upload.stage-send", total=total, unit="bytes", count=len(good)) as sent:
            run = Run(api, dataset, replace, parse, before, sent, fresh, taken)
            _each(lambda job: _bring(run, job), good, workers)
        find_doubles(run, good)
        _wait(run, good, patience, reporter)
        for job in good:
            _finish(run, job)
    return UploadReport(dataset.name, tuple(_report(job, dataset, parse) for job in jobs))


def _look_at_all(
    paths: Sequence[Path], named: Mapping[Path, str], reads_scans: bool, workers: int, reporter: Reporter
) -> list[Job]:
    unique = list(dict.fromkeys(path.absolute() for path in paths))
    names: set[str] = set()
    with (
        reporter.stage("upload.stage-look", total=len(unique), unit="items") as stage,
        ThreadPoolExecutor(workers) as pool,
    ):

        def look(path: Path) -> Job:
            found = look_at(path, reads_scans=reads_scans)
            if path in named:
                found = rename(found, named[path])
            stage.advance(1)
            return Job(path, found, cause=found.cause)

        jobs = list(pool.map(look, unique))
    for job in jobs:
        if job.cause is None and job.look.name.casefold() in names:
            job.cause = Cause("upload.name-twice", {"name": job.look.name, "path": job.path})
        names.add(job.look.name.casefold())
    return jobs


def _each(act: object, jobs: Sequence[Job], workers: int) -> None:
    """Run `act` for every job on a few threads; what is no failure of one file ends the upload."""
    assert callable(act)
    pool = ThreadPoolExecutor(workers)
    try:
        for future in [pool.submit(act, job) for job in jobs]:
            future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _bring(run: Run, job: Job) -> None:
    """Compare, send if needed, and start the parsing of one file."""
    try:
        _place(run, job)
        if job.document is not None and run.parse and not job.unchanged:
            if job.document.run != "RUNNING":
                start_parsing(run.api, run.dataset, job.document.id)
            job.started = True
    except AuthError:
        raise
    except RfctlError as error:
        job.cause = _explain(error, job)
    except OSError as error:
        job.cause = Cause(
            "upload.unreadable", {"name": job.look.name, "detail": error.strerror or str(error)}
        )


def _place(run: Run, job: Job) -> None:
    name = job.look.name
    namesake = run.before.namesake(name)
    if namesake is not None and not run.fresh and same_content(run.api, run.dataset, namesake, job.path):
        job.document = namesake
        job.doubles = doubles_of(run, namesake, job.path)
        job.unchanged = namesake.is_searchable or not run.parse
        run.sent.advance(job.look.size)
        return
    if namesake is not None and not run.replace:
        job.cause = Cause("upload.name-taken", {"name": name, "dataset": run.dataset.name, "path": job.path})
        return
    job.replaced = namesake
    # A copy with our content is what an interrupted run has left.
    for copy in run.before.copies(name):
        if copy.name.casefold() not in run.names and same_content(run.api, run.dataset, copy, job.path):
            job.document, job.rename = copy, True
            job.unchanged = copy.is_searchable
            run.sent.advance(job.look.size)
            return
    job.document = _send(run, job)
    job.is_new = True
    if job.document.name != name and namesake is None:
        _give_way(run, job)
    job.rename = job.document is not None and job.document.name != name


def _give_way(run: Run, job: Job) -> None:
    """The server gave another name: somebody else has put a document of ours there since we looked.

    Theirs stays if it has our content, else it is an obstacle like any other. Only who came later is told so,
    so never both give way.
    """
    assert job.document is not None
    name = job.look.name
    found = list_documents(run.api, run.dataset, keywords=Path(name).stem)
    other = next((one for one in found if one.name.casefold() == name.casefold()), None)
    if other is None:
        return
    if same_content(run.api, run.dataset, other, job.path):
        remove_documents(run.api, run.dataset, [job.document])
        job.document, job.is_new = other, False
        job.unchanged = other.is_searchable or not run.parse
    elif run.replace:
        job.replaced = other
    else:
        remove_documents(run.api, run.dataset, [job.document])
        job.document, job.is_new = None, False
        job.cause = Cause("upload.name-taken", {"name": name, "dataset": run.dataset.name, "path": job.path})


def _send(run: Run, job: Job) -> Document:
    """Upload one file and find it again when the connection broke before the answer came."""
    path = f"/datasets/{run.dataset.id}/documents"
    for attempt in (1, 2):
        try:
            data = run.api.upload(path, job.path, job.look.name, run.sent.advance)
        except UnreachableError as error:
            if not isinstance(error, UncertainError) and error.id != "ragflow.gateway":
                raise
            if (found := _search(run, job)) is not None:
                return found
            if attempt == 2:
                raise
            run.sent.advance(-job.look.size)
        else:
            row = record(next(iter(records(data, path)), None), path)
            checksum = text(row, "content_hash")
            document = read_document(row)
            if checksum and checksum != hash_file(job.path):
                remove_documents(run.api, run.dataset, [document])
                raise RfctlError("upload.file-changed", name=job.look.name)
            return document
    raise AssertionError("unreachable")


def _search(run: Run, job: Job) -> Document | None:
    """A document that came since we began and has this file's content; it may take a while."""
    for pause in _LOOK_AGAIN_SECONDS:
        time.sleep(pause)
        try:
            documents = list_documents(run.api, run.dataset, keywords=Path(job.look.name).stem)
        except UnreachableError:
            continue
        for one in newcomers(run, documents, job.look.name):
            if same_content(run.api, run.dataset, one, job.path):
                return one
    return None


def _wait(run: Run, jobs: Sequence[Job], patience: Patience | None, reporter: Reporter) -> None:
    waiting = {
        job.document.id: Waiting(job.look.name, job.look.pages)
        for job in jobs
        if job.started and job.document is not None
    }
    if not waiting:
        return
    total = sum(max(1, entry.pages) for entry in waiting.values())
    with reporter.stage("upload.stage-parse", total=total, unit="pages", count=len(waiting)) as stage:
        outcomes = wait_parsed(run.api, run.dataset, waiting, patience=patience, stage=stage)
    for job in jobs:
        if job.started and job.document is not None:
            outcome: Outcome = outcomes[job.document.id]
            job.document = outcome.document or job.document
            job.cause = _name(outcome.cause, job)


def _finish(run: Run, job: Job) -> None:
    """After success the old document goes and the new one gets its name; after failure the old one stays."""
    if job.document is None:
        return
    try:
        if job.cause is not None:
            if job.replaced is not None and job.is_new:
                remove_documents(run.api, run.dataset, [job.document])
            return
        gone = job.doubles if job.replaced is None else [job.replaced, *job.doubles]
        if gone:
            remove_documents(run.api, run.dataset, gone)
        if job.rename and job.document.name != job.look.name:
            rename_document(run.api, run.dataset, job.document, job.look.name)
    except AuthError:
        raise
    except RfctlError as error:
        job.cause = _explain(error, job)


def _explain(error: RfctlError, job: Job) -> Cause:
    if isinstance(error, ServerError):
        if "not been supported" in error.message:
            return Cause("upload.type-unsupported", {"name": job.look.name, "kind": job.path.suffix})
        if error.id == "ragflow.too-large":
            return Cause("upload.proxy-too-large", {"name": job.look.name, "size": job.look.size})
    cause = explain(error)
    return Cause(cause.id, {**cause.params, "name": job.look.name}, cause.exit_code)


def _name(cause: Cause | None, job: Job) -> Cause | None:
    """The cause with the file's own name instead of `a(1).pdf`."""
    return None if cause is None else Cause(cause.id, {**cause.params, "name": job.look.name})


def _report(job: Job, dataset: Dataset, parse: bool) -> UploadItem:
    look, document = job.look, job.document
    status: Status = "parsed" if parse else "uploaded"
    if job.cause is not None:
        status = "failed"
    elif job.replaced is not None:
        status = "replaced"
    elif job.unchanged:
        status = "unchanged"
    return UploadItem(
        path=job.path,
        name=look.name,
        status=status,
        size=look.size,
        pages=look.pages,
        text_pages=round(look.pages * look.text_share),
        chunks=document.chunk_count if document else 0,
        seconds=document.seconds if document else 0.0,
        document_id=document.id if document else "",
        cause=job.cause,
        unknown_letters=unknown_letters(document.log) if document and job.started else 0,
    )
