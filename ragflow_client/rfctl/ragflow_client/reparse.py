"""Parsing documents that are there already: again after a failure, or with other settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rfctl.core.error import AuthError, RfctlError
from rfctl.core.progress import SILENT, Reporter
from rfctl.ragflow_client.dataset import Dataset, read_options
from rfctl.ragflow_client.document import Document, find_documents, list_documents
from rfctl.ragflow_client.failure import Cause, explain
from rfctl.ragflow_client.parse import Outcome, Patience, Waiting, start_parsing, unknown_letters, wait_parsed
from rfctl.ragflow_client.record import check_ids
from rfctl.ragflow_client.report import UploadItem, UploadReport
from rfctl.ragflow_client.transport import Api


def parse_documents(
    api: Api,
    dataset: Dataset,
    names: Sequence[str] = (),
    *,
    options: Mapping[str, Any] | None = None,
    patience: Patience | None = None,
    reporter: Reporter = SILENT,
) -> UploadReport:
    """Parse documents and wait for each; those that are being parsed already are waited for.

    names: documents by name or id; none: all in which nothing can be found yet. options: names of
    ParserOptions that these documents get from now on, beside what the dataset says. The old chunks of a
    document are gone once its parsing starts (task_service.py of RAGFlow v0.27.0).
    Raises UsageError `upload.document-unknown`, `dataset.option-invalid`, AuthError, UnreachableError.
    """
    chosen = dataclasses.replace(read_options(dataset), **(options or {}))
    chosen.check()
    if names:
        documents = find_documents(api, dataset, names)
    else:
        documents = tuple(one for one in list_documents(api, dataset) if not one.is_searchable)
    causes: dict[str, Cause] = {}
    waiting: dict[str, Waiting] = {}
    for document in {one.id: one for one in documents}.values():
        try:
            if document.run != "RUNNING":
                if options:
                    path = f"/datasets/{dataset.id}/documents/{check_ids([document.id])[0]}"
                    body = {"chunk_method": chosen.chunk_method, "parser_config": chosen.to_config()}
                    api.call("PATCH", path, json=body, repeatable=True)
                start_parsing(api, dataset, document.id)
            waiting[document.id] = Waiting(document.name)
        except AuthError:
            raise
        except RfctlError as error:
            cause = explain(error)
            causes[document.id] = Cause(cause.id, {**cause.params, "name": document.name}, cause.exit_code)
    outcomes: dict[str, Outcome] = {}
    if waiting:
        with reporter.stage(
            "upload.stage-parse", total=len(waiting), unit="pages", count=len(waiting)
        ) as stage:
            outcomes = wait_parsed(api, dataset, waiting, patience=patience, stage=stage)
    items = [_report(one, outcomes.get(one.id), causes.get(one.id)) for one in documents]
    return UploadReport(dataset.name, tuple(items))


def _report(before: Document, outcome: Outcome | None, refused: Cause | None) -> UploadItem:
    after = outcome.document if outcome is not None and outcome.document is not None else before
    cause = refused or (outcome.cause if outcome is not None else None)
    return UploadItem(
        path=Path(before.name),
        name=before.name,
        status="failed" if cause is not None else "parsed",
        size=after.size,
        chunks=after.chunk_count,
        seconds=after.seconds,
        document_id=before.id,
        cause=cause,
        unknown_letters=unknown_letters(after.log) if cause is None else 0,
    )
