"""Web addresses among the words of `rfctl kb upload`: fetched here, and uploaded with their source."""

from __future__ import annotations

import dataclasses
import re
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rfctl.cli.app import App
from rfctl.core.error import RfctlError

if TYPE_CHECKING:
    from rfctl.ragflow_client.dataset import Dataset
    from rfctl.ragflow_client.report import UploadItem, UploadReport
    from rfctl.ragflow_client.transport import Api
    from rfctl.ragflow_client.web_document import WebDocument

_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


@dataclass
class Web:
    """documents: the fetched files; failed: an item of the report for each that could not be fetched."""

    documents: dict[Path, WebDocument] = field(default_factory=dict)
    failed: list[UploadItem] = field(default_factory=list)


def is_address(word: str) -> bool:
    return _ADDRESS.match(word) is not None


def fetch_all(app: App, words: Sequence[str], folder: Path, *, allow_private: bool) -> Web:
    """Fetch the addresses among `words`, one after the other. A single one that fails raises its error."""
    from rfctl.ragflow_client.failure import explain
    from rfctl.ragflow_client.report import UploadItem
    from rfctl.ragflow_client.web_document import Fetcher

    web = Web()
    addresses = list(dict.fromkeys(word for word in words if is_address(word)))
    if not addresses:
        return web
    fetcher = Fetcher(folder.absolute(), allow_private=allow_private, proxies=urllib.request.getproxies())
    with app.reporter().stage("fetch.stage", total=len(addresses), unit="items") as stage:
        for address in addresses:
            stage.update(detail=address)
            try:
                document = fetcher.fetch(address)
            except RfctlError as error:
                if len(words) == 1:
                    raise
                web.failed.append(
                    UploadItem(Path(address), address, "failed", cause=explain(error), source=address)
                )
            else:
                web.documents[document.path] = document
            stage.advance(1)
    return web


def keep_sources(api: Api, dataset: Dataset, report: UploadReport, web: Web) -> UploadReport:
    """Write each document's address and day into its meta fields; the report with the failures of the web."""
    from rfctl.ragflow_client.document import set_meta

    items = []
    for item in report.items:
        document = web.documents.get(item.path)
        if document is None:
            items.append(item)
            continue
        if item.document_id and item.cause is None:
            # The day stays that of the first fetch while the content is the same.
            fields = {"url": document.url}
            if item.status != "unchanged":
                fields["fetched"] = document.fetched
            set_meta(api, dataset, item.document_id, fields)
        items.append(dataclasses.replace(item, path=Path(document.name), source=document.url))
    return dataclasses.replace(report, items=(*items, *web.failed))
