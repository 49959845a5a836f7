"""Datasets (knowledge bases): exact names, and a parser configuration that is always sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rfctl.core.error import RefusedError, RfctlError, UsageError
from rfctl.core.near import find_near
from rfctl.ragflow_client.failure import ServerError, UncertainError
from rfctl.ragflow_client.model import choose_model
from rfctl.ragflow_client.record import (
    PAGE_SIZE,
    check_ids,
    is_id,
    mapping,
    pages,
    record,
    records,
    text,
    whole,
)
from rfctl.ragflow_client.transport import Api

CHUNK_METHODS = (
    "naive", "book", "email", "laws", "manual", "one", "paper", "picture", "presentation", "qa", "table",
    "tag", "resume",
)  # fmt: skip
MAX_NAME_BYTES = 128


@dataclass(frozen=True)
class ParserOptions:
    """How documents are cut. Limits: validation_utils.py of RAGFlow v0.27.0.

    chunk_method    one of CHUNK_METHODS
    chunk_tokens    tokens per chunk, 1-2048
    delimiter       characters that end a piece, at least one
    layout          "DeepDOC" (layout model and OCR), "Plain Text" (text layer only), or a model's full name
    auto_keywords   keywords per chunk made by the chat model, 0-32
    auto_questions  questions per chunk made by the chat model, 0-10
    pages           ranges of pages, 1-based and inclusive; empty means all
    raptor, graphrag  extra model passes over the whole document; RAGFlow switches both on when nothing is
    sent
    """

    chunk_method: str = "naive"
    chunk_tokens: int = 512
    delimiter: str = "\n"
    layout: str = "DeepDOC"
    auto_keywords: int = 0
    auto_questions: int = 0
    pages: tuple[tuple[int, int], ...] = ()
    raptor: bool = False
    graphrag: bool = False

    def check(self) -> None:
        """Raise UsageError `dataset.option-invalid` for the first value that the server would refuse."""
        if self.chunk_method not in CHUNK_METHODS:
            _refuse("chunk_method", self.chunk_method, ", ".join(CHUNK_METHODS))
        for name, least, most in (
            ("chunk_tokens", 1, 2048),
            ("auto_keywords", 0, 32),
            ("auto_questions", 0, 10),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                _refuse(name, value, f"{least}-{most}")
        if not self.delimiter:
            _refuse("delimiter", self.delimiter, ">= 1")
        if not self.layout.strip():
            _refuse("layout", self.layout, "DeepDOC, Plain Text")
        for first, last in self.pages:
            if not 1 <= first <= last:
                _refuse("pages", f"{first}-{last}", "1-10")

    def to_config(self) -> dict[str, Any]:
        """The `parser_config` of a request: every default is said, so that none is the server's choice."""
        config: dict[str, Any] = {
            "auto_keywords": self.auto_keywords,
            "auto_questions": self.auto_questions,
            "chunk_token_num": self.chunk_tokens,
            "delimiter": self.delimiter,
            "layout_recognize": self.layout,
            "raptor": {"use_raptor": self.raptor},
            "graphrag": {"use_graphrag": self.graphrag},
        }
        if self.pages:
            # queue_tasks counts the end of a range as exclusive
            config["pages"] = [[first, last + 1] for first, last in self.pages]
        return config


def read_options(dataset: Dataset) -> ParserOptions:
    """The options that a dataset has now. A value of a wrong type reads as the default."""
    config = dataset.parser_config
    default = ParserOptions()
    ranges = config.get("pages")
    pages = [
        (first, end - 1)
        for first, end in (
            entry for entry in (ranges if isinstance(ranges, list) else []) if _is_range(entry)
        )
    ]
    return ParserOptions(
        chunk_method=dataset.chunk_method or default.chunk_method,
        chunk_tokens=whole(config, "chunk_token_num") or default.chunk_tokens,
        delimiter=text(config, "delimiter") or default.delimiter,
        layout=text(config, "layout_recognize") or default.layout,
        auto_keywords=whole(config, "auto_keywords"),
        auto_questions=whole(config, "auto_questions"),
        pages=tuple(pages),
        raptor=mapping(config.get("raptor")).get("use_raptor") is True,
        graphrag=mapping(config.get("graphrag")).get("use_graphrag") is True,
    )


def _is_range(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(end, int) for end in entry)


@dataclass(frozen=True)
class Dataset:
    """A dataset as listed. embedding_model: "" when none was set; parser_config: the server's form."""

    id: str
    name: str
    embedding_model: str
    chunk_method: str
    document_count: int
    chunk_count: int
    parser_config: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""


def list_datasets(api: Api) -> tuple[Dataset, ...]:
    """All datasets, newest first."""
    found: dict[str, Dataset] = {}
    for page in pages():
        query = {"page": page, "page_size": PAGE_SIZE, "orderby": "create_time", "desc": True}
        rows = records(api.call("GET", "/datasets", params=query), "/datasets")
        for row in rows:
            found.setdefault(text(row, "id"), _read(row))
        if len(rows) < PAGE_SIZE:
            break
    return tuple(found.values())


def find_dataset(api: Api, name: str) -> Dataset | None:
    """The dataset with exactly this name or id, else the only one whose name differs in case, else None.

    All are listed and compared here: servers answer an unknown name with an error, or ignore the filter.
    """
    datasets = list_datasets(api)
    wanted = name.strip()
    exact = [one for one in datasets if one.name == wanted or (is_id(wanted) and one.id == wanted)]
    if exact:
        return exact[0]
    alike = [one for one in datasets if one.name.casefold() == wanted.casefold()]
    return alike[0] if len(alike) == 1 else None


def get_dataset(api: Api, name: str) -> Dataset:
    """Like `find_dataset`. Raises UsageError `dataset.unknown`."""
    found = find_dataset(api, name)
    if found is None:
        names = [one.name for one in list_datasets(api)]
        known = ", ".join(names[:20]) or "-"
        raise UsageError("dataset.unknown", name=name, known=known, near=find_near(name, names))
    return found


def create_dataset(
    api: Api,
    name: str,
    *,
    embedding_model: str = "",
    options: ParserOptions | None = None,
) -> tuple[Dataset, bool]:
    """Create a dataset; (dataset, whether it is new). One of that name is kept if it fits the wish.

    embedding_model: a name as `choose_model` takes it, or "" for the account's default. Raises UsageError
    `dataset.name-invalid`, `dataset.option-invalid`, `dataset.other-model`, the errors of `choose_model`.
    """
    name = check_name(name)
    chosen = options or ParserOptions()
    chosen.check()
    existing = find_dataset(api, name)
    model = choose_model(api, "embedding", embedding_model) if existing is None or embedding_model else None
    if existing is not None:
        if model is not None and existing.embedding_model not in (model.full_name, model.id):
            raise UsageError(
                "dataset.other-model",
                name=existing.name,
                model=existing.embedding_model or "-",
                wanted=model.name,
            )
        return existing, False
    assert model is not None
    body: dict[str, Any] = {
        "name": name,
        "embedding_model": model.full_name,
        "permission": "me",
        "chunk_method": chosen.chunk_method,
        "parser_config": chosen.to_config(),
    }
    try:
        made = _read(record(api.call("POST", "/datasets", json=body), "/datasets"))
    except UncertainError:
        found = find_dataset(api, name)
        if found is None:
            raise
        return found, True
    if made.name != name:
        # Somebody else made the name between our two calls, and the server made `name(1)`.
        other = find_dataset(api, name)
        remove_dataset(api, made)
        if other is None:
            raise RfctlError("dataset.renamed", name=name, made=made.name)
        return other, False
    return made, True


def edit_dataset(
    api: Api, dataset: Dataset, *, name: str = "", options: ParserOptions | None = None
) -> tuple[Dataset, bool]:
    """Change name or parser options; (dataset, whether it differed). What is parsed stays so."""
    body: dict[str, Any] = {}
    if name and check_name(name) != dataset.name:
        body["name"] = check_name(name)
    if options is not None:
        options.check()
        if options.chunk_method != dataset.chunk_method:
            body["chunk_method"] = options.chunk_method
        config = options.to_config()
        if dataset.parser_config.get("pages") and not options.pages:
            config["pages"] = None  # the server merges: what is left out stays
        if not _covers(dataset.parser_config, config):
            body["parser_config"] = config
    if not body:
        return dataset, False
    data = api.call("PUT", f"/datasets/{dataset.id}", json=body, repeatable=True)
    if isinstance(data, Mapping) and text(data, "id"):
        return _read(data), True
    return get_dataset(api, dataset.id), True


def remove_dataset(api: Api, dataset: Dataset) -> None:
    """Delete a dataset with its documents. Succeeds when it is gone, whoever removed it."""
    ids = check_ids([dataset.id])
    try:
        api.call("DELETE", "/datasets", json={"ids": ids})
    except (ServerError, UncertainError):
        if any(one.id == dataset.id for one in list_datasets(api)):
            raise
        return
    if any(one.id == dataset.id for one in list_datasets(api)):
        raise RefusedError("dataset.still-there", name=dataset.name)


def check_name(name: str) -> str:
    """The name without surrounding blanks. Raises UsageError `dataset.name-invalid`."""
    name = name.strip()
    size = len(name.encode("utf-8", errors="replace"))
    if not name or size > MAX_NAME_BYTES or not name.isprintable():
        raise UsageError("dataset.name-invalid", name=name[:40], size=size, limit=MAX_NAME_BYTES)
    return name


def _read(row: Mapping[str, Any]) -> Dataset:
    return Dataset(
        id=text(row, "id"),
        name=text(row, "name"),
        embedding_model=text(row, "embedding_model"),
        chunk_method=text(row, "chunk_method"),
        document_count=whole(row, "document_count"),
        chunk_count=whole(row, "chunk_count"),
        parser_config=dict(mapping(row.get("parser_config"))),
        created=text(row, "create_date"),
    )


def _covers(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether every wanted value is stored; the server adds keys of its own."""
    for key, value in wanted.items():
        have = stored.get(key)
        if isinstance(value, Mapping):
            if not _covers(mapping(have), value):
                return False
        elif have != value:
            return False
    return True


def _refuse(option: str, value: object, allowed: str) -> None:
    raise UsageError("dataset.option-invalid", option=option, value=value, allowed=allowed)
