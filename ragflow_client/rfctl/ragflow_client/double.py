"""Documents that a repeated delivery has made: a proxy sends a POST twice, and the server keeps both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rfctl.core.error import AuthError, RfctlError
from rfctl.ragflow_client.document import Document, is_copy_name, list_newest, same_content
from rfctl.ragflow_client.job import Job, Run

_DOUBLE_SECONDS = 10.0


def newcomers(run: Run, documents: Sequence[Document], name: str) -> list[Document]:
    """Documents that were not there before this upload and have this name or one the server made of it."""
    return [
        one
        for one in documents
        if one.id not in run.before.by_id
        and (one.name == name or (is_copy_name(one.name, name) and one.name.casefold() not in run.names))
    ]


def find_doubles(run: Run, jobs: Sequence[Job]) -> None:
    """What a repeated delivery has made beside our document: new, unparsed, same name and content."""
    new = [job for job in jobs if job.is_new and job.document is not None]
    if not new:
        return
    try:
        ours = {job.document.id for job in jobs if job.document is not None}
        added = {job.document.id for job in new if job.document is not None}
        documents = list_newest(run.api, run.dataset, added)
        for job in new:
            for one in newcomers(run, documents, job.look.name):
                if one.id in ours or one.run != "UNSTART":
                    continue
                if same_content(run.api, run.dataset, one, job.path):
                    job.rename = True
                    job.doubles.append(one)
    except AuthError:
        raise
    except RfctlError:
        return  # a later run finds them by their time


def doubles_of(run: Run, document: Document, path: Path) -> list[Document]:
    """The same for an earlier run that ended before it could look: made within seconds of the document."""
    return [
        one
        for one in run.before.copies(document.name)
        if one.name.casefold() not in run.names
        and one.run == "UNSTART"
        and _seconds_between(one.created, document.created) <= _DOUBLE_SECONDS
        and same_content(run.api, run.dataset, one, path)
    ]


def _seconds_between(one: str, other: str) -> float:
    try:
        return abs((datetime.fromisoformat(one) - datetime.fromisoformat(other)).total_seconds())
    except (ValueError, TypeError):
        return math.inf
