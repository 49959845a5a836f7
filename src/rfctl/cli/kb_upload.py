"""`rfctl kb upload`: files, folders, patterns, web addresses and standard input into a knowledge base."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.completion import complete_file
from rfctl.cli.kb import choose
from rfctl.cli.kb_web import fetch_all, is_address, keep_sources
from rfctl.core.error import UsageError

if TYPE_CHECKING:
    from rfctl.ragflow_client.report import UploadItem, UploadReport

STDIN = Path("-")


@command("upload")
@click.argument(
    "words", nargs=-1, required=True, metavar="FILES|FOLDERS|URLS|-", shell_complete=complete_file
)
@click.option("--kb", metavar="NAME")
@click.option("--replace", is_flag=True)
@click.option("--no-parse", is_flag=True)
@click.option("--name", metavar="FILE")
@click.option("--allow-private", is_flag=True)
def upload(
    app: App,
    words: tuple[str, ...],
    kb: str | None,
    replace: bool,
    no_parse: bool,
    name: str | None,
    allow_private: bool,
) -> None:
    """Upload documents, parse them and wait for each. A folder is taken with all documents below it."""
    from rfctl.ragflow_client.selection import select_files
    from rfctl.ragflow_client.twin import find_twins

    with tempfile.TemporaryDirectory(prefix="rfctl-") as folder:
        files = tuple(Path(word) for word in words if not is_address(word))
        received = None
        if STDIN in files:
            received = _receive(Path(folder), name)
            files = tuple(received if path == STDIN else path for path in files)
        elif name is not None:
            raise UsageError("kb.name-without-stdin", name=name)
        web = fetch_all(app, words, Path(folder), allow_private=allow_private)
        selection = select_files((*files, *web.documents))
        missing = [path for path in selection.files if not path.exists()]
        if missing and len(missing) == len(selection.files) and not web.documents:
            raise UsageError("upload.missing", path=missing[0], name=missing[0].name)
        note_skipped(app, selection.skipped)
        own = Path(folder).absolute()
        folders = tuple(one for one in selection.folders if not one.is_relative_to(own)) or (Path.cwd(),)
        with app.ragflow() as ragflow:
            dataset = choose(app, ragflow, kb, folders=folders)
            report = ragflow.upload(
                dataset,
                selection.files,
                replace=replace,
                parse=not no_parse,
                names=selection.names,
                reporter=app.reporter(),
            )
            report = keep_sources(ragflow.api, dataset, report, web)
        twins = find_twins(report.items)
    if received is not None:
        report = dataclasses.replace(report, items=tuple(_from_stdin(one, received) for one in report.items))
    app.out.report(
        {"knowledge_base": report.dataset, "documents": [describe(app, item) for item in report.items]}
    )
    print_upload(app, report)
    for names in twins:
        app.out.note("upload.twins", name=names[0], others=", ".join(names[1:]), count=len(names))
    report.check()


def note_skipped(app: App, skipped: Mapping[str, int]) -> None:
    """What of the folders was left out, so that nobody misses it later."""
    for reason in sorted(skipped):
        app.out.note(f"kb.skipped-{reason}", count=skipped[reason])


def describe(app: App, item: UploadItem) -> dict[str, Any]:
    """An item of a report as JSON, its cause as a text in the user's language."""
    described: dict[str, Any] = {key: value for key, value in vars(item).items() if key != "cause"}
    for key in ("source", "unknown_letters"):
        if not described[key]:
            del described[key]
    described["error"] = None
    if item.cause is not None:
        text = item.cause.text(app.language)
        described["error"] = {"id": item.cause.id, **vars(text)}
    return described


def warn_unknown_letters(app: App, items: Sequence[UploadItem]) -> None:
    """Once for all documents that the embedding model cannot read."""
    unread = [item for item in items if item.unknown_letters]
    if unread:
        worst = max(unread, key=lambda item: item.unknown_letters)
        app.out.warn(
            "upload.letters-unknown", name=worst.name, percent=worst.unknown_letters, count=len(unread)
        )


def print_causes(app: App, failed: Sequence[UploadItem]) -> None:
    """Each failure with its cause and what helps."""
    out = app.out
    for item in failed:
        assert item.cause is not None
        text = item.cause.text(app.language)
        out.line()
        out.line(f"{out.text('cli.error')}[{item.cause.id}]: {text.message}")
        for label, words in (("cli.why", text.why), ("cli.next", text.next)):
            if words:
                out.line(f"  {out.text(label)}: {words}")


def _receive(folder: Path, name: str | None) -> Path:
    """Standard input as a file of that name. Raises UsageError `kb.stdin-name`, `kb.stdin-terminal`."""
    if name is None or name != Path(name).name or name in ("", ".", ".."):
        raise UsageError("kb.stdin-name", name=name or "-")
    if sys.stdin.isatty():
        raise UsageError("kb.stdin-terminal")
    path = folder.absolute() / name
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


def _from_stdin(item: UploadItem, received: Path) -> UploadItem:
    return dataclasses.replace(item, path=STDIN) if item.path == received else item


def print_upload(app: App, report: UploadReport) -> None:
    """A row per document, then the failures; nothing for a single failure."""
    out = app.out
    if len(report.items) == 1 and report.failed:
        return  # its error is the whole story
    headings = [out.text(f"kb.column-{name}") for name in ("document", "result", "pages", "chunks")]
    rows = [
        (item.name, out.text(f"kb.{item.status}"), item.pages or "-", item.chunks or "-")
        for item in report.items
    ]
    out.table(headings, rows)
    for item in report.items:
        if item.cause is None and item.text_pages < item.pages:
            out.warn(
                "kb.partly-scanned", name=item.name, pages=item.pages, empty=item.pages - item.text_pages
            )
    warn_unknown_letters(app, report.items)
    print_causes(app, report.failed)
    out.line()
    done = len(report.items) - len(report.failed)
    out.say("kb.upload-total", done=done, total=len(report.items), name=report.dataset)
