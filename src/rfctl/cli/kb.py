"""`rfctl kb`: knowledge bases and their documents."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.output import human_bytes
from rfctl.core.error import UsageError

if TYPE_CHECKING:
    from rfctl.ragflow_client.connection import Ragflow
    from rfctl.ragflow_client.dataset import Dataset

DEFAULT_NAME = "default"


def parser_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a verb that sets how documents are cut; what is not given is None."""
    for option in reversed(
        (
            click.option("--chunk-tokens", type=click.IntRange(1, 2048)),
            click.option("--chunk-method", metavar="METHOD"),
            click.option("--layout", metavar="NAME"),
            click.option("--delimiter"),
            click.option("--auto-keywords", type=click.IntRange(0, 32)),
            click.option("--auto-questions", type=click.IntRange(0, 10)),
            click.option("--pages", metavar="RANGES"),
            click.option("--raptor/--no-raptor", default=None),
            click.option("--graphrag/--no-graphrag", default=None),
        )
    ):
        function = option(function)
    return function


@command("create")
@click.argument("name")
@click.option("--embedding-model", metavar="MODEL", default="")
@parser_options
def create(app: App, name: str, embedding_model: str, **values: Any) -> None:
    """Create a knowledge base; one of that name that fits is left as it is."""
    from rfctl.ragflow_client.dataset import ParserOptions, read_options

    given = given_options(values)
    with app.ragflow() as ragflow:
        dataset, is_new = ragflow.create_dataset(
            name, embedding_model=embedding_model, options=ParserOptions(**given)
        )
    if not is_new:
        found = read_options(dataset)
        other = [f"--{key.replace('_', '-')}" for key, value in given.items() if getattr(found, key) != value]
        if other:
            raise UsageError("kb.other-settings", name=dataset.name, options=", ".join(other), first=other[0])
    app.out.report({"unchanged": not is_new, "knowledge_base": dataset})
    id = "kb.created" if is_new else "kb.exists"
    app.out.say(id, name=dataset.name, model=dataset.embedding_model)


@command("edit")
@click.argument("name")
@click.option("--name", "new_name", metavar="NAME", default="")
@parser_options
def edit(app: App, name: str, new_name: str, **values: Any) -> None:
    """Change the name or the parser settings of a knowledge base."""
    from rfctl.ragflow_client.dataset import read_options

    given = given_options(values)
    if not given and not new_name:
        raise UsageError("kb.nothing-to-edit", name=name)
    with app.ragflow() as ragflow:
        dataset = ragflow.dataset(name)
        options = dataclasses.replace(read_options(dataset), **given) if given else None
        dataset, changed = ragflow.edit_dataset(dataset, name=new_name, options=options)
    app.out.report({"unchanged": not changed, "knowledge_base": dataset})
    app.out.say("kb.edited" if changed else "kb.not-edited", name=dataset.name)
    if changed and given and dataset.document_count:
        app.out.note("kb.edit-later", count=dataset.document_count)


@command("ls")
def ls(app: App) -> None:
    """List the knowledge bases."""
    with app.ragflow() as ragflow:
        datasets = ragflow.datasets()
        url = ragflow.url
    app.out.records(datasets)
    if not datasets:
        app.out.note("kb.none", url=url)
        return
    headings = [app.out.text(f"kb.column-{name}") for name in ("name", "documents", "chunks", "model")]
    app.out.table(
        headings,
        [(one.name, one.document_count, one.chunk_count, one.embedding_model or "-") for one in datasets],
    )


@command("show")
@click.argument("name", required=False)
def show(app: App, name: str | None) -> None:
    """Show a knowledge base with its parser settings."""
    with app.ragflow() as ragflow:
        dataset = choose(app, ragflow, name)
    app.out.report({"knowledge_base": dataset})
    config = dataset.parser_config
    rows = (
        ("kb.column-name", dataset.name),
        ("kb.column-id", dataset.id),
        ("kb.column-documents", dataset.document_count),
        ("kb.column-chunks", dataset.chunk_count),
        ("kb.column-model", dataset.embedding_model or "-"),
        ("kb.column-method", dataset.chunk_method),
        ("kb.column-tokens", config.get("chunk_token_num", "-")),
        ("kb.column-layout", config.get("layout_recognize", "-")),
    )
    (title, first), *rest = [(app.out.text(label), str(value)) for label, value in rows]
    app.out.table([title, first], rest)


@command("rm")
@click.argument("name")
@click.argument("documents", nargs=-1)
@click.option("--yes", is_flag=True)
def rm(app: App, name: str, documents: tuple[str, ...], yes: bool) -> None:
    """Remove a knowledge base with all its documents, or only the named DOCUMENTS of it."""
    from rfctl.cli.consent import confirm

    with app.ragflow() as ragflow:
        dataset = ragflow.dataset(name)
        if documents:
            found = ragflow.find_documents(dataset, documents)
            names = ", ".join(one.name for one in found)
            action = app.out.text("kb.rm-documents-action", name=dataset.name, documents=names)
            confirm(app, action, yes=yes)
            ragflow.remove_documents(dataset, [one.id for one in found])
            app.out.result({"name": dataset.name, "removed": True, "documents": [one.name for one in found]})
            app.out.say("kb.removed-documents", name=dataset.name, count=len(found))
            return
        action = app.out.text(
            "kb.rm-action", name=dataset.name, documents=dataset.document_count, url=ragflow.url
        )
        confirm(app, action, yes=yes)
        ragflow.remove_dataset(dataset)
    app.out.result({"name": dataset.name, "removed": True})
    app.out.say("kb.removed", name=dataset.name)


@command("docs")
@click.argument("name", required=False)
@click.option("--kb", metavar="NAME")
def docs(app: App, name: str | None, kb: str | None) -> None:
    """List the documents of a knowledge base with their states."""
    with app.ragflow() as ragflow:
        dataset = choose(app, ragflow, kb or name)
        documents = ragflow.documents(dataset)
    app.out.records(documents)
    if not documents:
        app.out.note("kb.empty", name=dataset.name)
        return
    headings = [app.out.text(f"kb.column-{key}") for key in ("document", "state", "size", "chunks", "id")]
    app.out.table(
        headings,
        [
            (
                one.name,
                one.run if one.run != "RUNNING" else f"{one.run} {max(0.0, one.progress):.0%}",
                human_bytes(one.size),
                one.chunk_count,
                one.id,
            )
            for one in documents
        ],
    )


@command("search")
@click.argument("question")
@click.option("--kb", metavar="NAME", multiple=True)
@click.option("--limit", type=click.IntRange(1, 100), default=6, show_default=True)
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.2, show_default=True)
def search(app: App, question: str, kb: tuple[str, ...], limit: int, threshold: float) -> None:
    """Find passages with their scores; no model writes anything."""
    with app.ragflow() as ragflow:
        datasets = [ragflow.dataset(name) for name in kb] or [choose(app, ragflow, None)]
        found = ragflow.search(datasets, question, limit=limit, similarity_threshold=threshold)
    app.out.report({"question": question, "total": found.total, "sources": found.sources})
    if not found.sources:
        app.out.note("kb.nothing-found", threshold=threshold)
        return
    for source in found.sources:
        place = ", ".join(part for part in (source.document, pages_text(app, source.pages)) if part)
        scores = app.out.text(
            "kb.scores",
            similarity=source.similarity,
            vector=source.vector_similarity,
            term=source.term_similarity,
        )
        app.out.line(f"[{source.number}] {place}  {scores}")
        app.out.line(f"    {excerpt(source.content)}")


def given_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The parser options that were given, ready for `ParserOptions`."""
    given = {key: value for key, value in values.items() if value is not None}
    if "pages" in given:
        given["pages"] = _read_pages(given["pages"])
    return given


def _read_pages(text: str) -> tuple[tuple[int, int], ...]:
    """ "1-10,15" as ((1, 10), (15, 15)), "all" as (). Raises UsageError `dataset.option-invalid`."""
    if text.strip().lower() == "all":
        return ()
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:\s*-\s*(\d{1,6}))?\s*", part)
        if match is None:
            raise UsageError("dataset.option-invalid", option="pages", value=text, allowed="1-10,15 / all")
        ranges.append((int(match[1]), int(match[2] or match[1])))
    return tuple(ranges)


def choose(app: App, ragflow: Ragflow, name: str | None, *, folders: tuple[Path, ...] = ()) -> Dataset:
    """The knowledge base that is meant: the named one, the default of the settings, or the only one.

    folders: when there is none at all, one is made for what is in these and named so. Raises UsageError.
    """
    wanted = name or app.settings.get("kb.default")
    if wanted:
        return ragflow.dataset(wanted)
    datasets = ragflow.datasets()
    if len(datasets) == 1:
        return datasets[0]
    if datasets:
        raise UsageError("kb.not-chosen", known=", ".join(one.name for one in datasets))
    if not folders:
        raise UsageError("kb.none-yet", url=ragflow.url)
    dataset, _ = ragflow.create_dataset(_name_for(folders))
    app.out.note("kb.made", name=dataset.name)
    return dataset


def pages_text(app: App, pages: tuple[int, ...]) -> str:
    """ "page 3", "pages 3-4", or "" for a document without pages."""
    if not pages:
        return ""
    if len(pages) == 1:
        return app.out.text("kb.page", page=pages[0])
    return app.out.text("kb.pages", first=min(pages), last=max(pages))


def excerpt(content: str, width: int = 160) -> str:
    """The beginning of a passage on one line."""
    line = " ".join(content.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _name_for(folders: tuple[Path, ...]) -> str:
    names = {path.absolute().name for path in folders}
    name = names.pop().strip() if len(names) == 1 else ""
    return name if name and name.isprintable() and len(name.encode()) <= 100 else DEFAULT_NAME
