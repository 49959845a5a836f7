"""What another profile lacks of what this one holds: models, knowledge bases with documents, assistants.

Only looks. The same plan after an interruption holds the rest, and none once everything is there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from rfctl.core.error import UsageError
from rfctl.ollama.answer import ModelEntry
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.name import parse_name
from rfctl.ollama.store import ModelStore, StoredModel
from rfctl.ragflow_client.chat import Chat
from rfctl.ragflow_client.connection import Ragflow
from rfctl.ragflow_client.dataset import Dataset, read_options
from rfctl.ragflow_client.document import Document, hash_document
from rfctl.stack.apply_content import Content, ContentMemory, compare

Kind = Literal["model", "kb", "document", "chat"]
KINDS: tuple[Kind, ...] = ("model", "kb", "document", "chat")
# Done by `apply`.
CREATE, PARSE = "create", "parse"
# Left as they are.
KEEP, DIFFERS, MISSING = "keep", "differs", "missing"
PENDING = frozenset({CREATE, PARSE})


@dataclass(frozen=True)
class Side:
    """One profile. store: the folder of its models where this process can read it, else None;
    memory: what its documents hold; reads_content: whether a document whose hash is not remembered is fetched
    and hashed, which costs little on this machine and a transfer elsewhere."""

    profile: str
    ollama: OllamaClient
    ragflow: Ragflow
    store: ModelStore | None = None
    memory: ContentMemory | None = None
    reads_content: bool = False

    def content_hash(self, dataset: Dataset, document: Document, known: Mapping[str, str]) -> str:
        """XXH128 of a document, "" when it is neither remembered nor to be read."""
        if found := known.get(document.id):
            return found
        return hash_document(self.ragflow.api, dataset, document) if self.reads_content else ""

    def known(self, dataset: Dataset) -> dict[str, str]:
        return self.memory.known(dataset.id) if self.memory is not None else {}

    def remember(self, dataset: Dataset, found: Mapping[str, str]) -> None:
        if self.memory is not None:
            self.memory.remember(dataset.id, found)


@dataclass(frozen=True)
class Item:
    """One thing of the source. parent: knowledge base of a document; detail: what differs; size: bytes;
    content: of something that both sides have under one name and size, whether it holds the same."""

    kind: Kind
    name: str
    action: str
    parent: str = ""
    detail: str = ""
    size: int = 0
    content: Content = ""


@dataclass(frozen=True)
class Plan:
    """Items in the order in which they are done, and what the source holds behind them."""

    source: str
    target: str
    items: tuple[Item, ...]
    models: Mapping[str, StoredModel] = field(default_factory=dict, repr=False)
    datasets: Mapping[str, Dataset] = field(default_factory=dict, repr=False)
    documents: Mapping[str, Mapping[str, Document]] = field(default_factory=dict, repr=False)
    chats: Mapping[str, Chat] = field(default_factory=dict, repr=False)

    @property
    def pending(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if item.action in PENDING)


def make_plan(
    source: Side, target: Side, *, kinds: Collection[str] = KINDS, names: Collection[str] = ()
) -> Plan:
    """Compare two profiles. kinds: of KINDS; names: knowledge bases and assistants to take, () for all.

    Raises UsageError `apply.name-unknown`, and what the clients raise.
    """

    def is_wanted(name: str) -> bool:
        return not names or name in names

    all_datasets, all_chats = source.ragflow.datasets(), source.ragflow.chats()
    known = [one.name for one in all_datasets] + [one.name for one in all_chats]
    for name in names:
        if name not in known:
            shown = ", ".join(known[:20]) or "-"
            raise UsageError("apply.name-unknown", name=name, profile=source.profile, known=shown)
    datasets = {one.name: one for one in all_datasets if is_wanted(one.name)}
    chats = {
        one.name: one for one in all_chats if is_wanted(one.name) or set(one.dataset_names) & set(datasets)
    }
    stored: dict[str, StoredModel] = {}
    items: list[Item] = []
    if "model" in kinds and source.ollama.url != target.ollama.url:
        needed = _needed(source, datasets, chats) if names else None
        items += _models(source, target, stored, needed)
    documents: dict[str, Mapping[str, Document]] = {}
    if source.ragflow.url != target.ragflow.url:
        there = {one.name: one for one in target.ragflow.datasets()}
        for name, dataset in datasets.items():
            if "kb" in kinds:
                items.append(_dataset(source, dataset, there.get(name)))
            if "document" in kinds:
                documents[name] = {one.name: one for one in source.ragflow.documents(dataset)}
                items += _documents(source, target, dataset, documents[name], there.get(name))
        if "chat" in kinds:
            items += [_chat(source, chat, target.ragflow.find_chat(name)) for name, chat in chats.items()]
    return Plan(source.profile, target.profile, tuple(items), stored, datasets, documents, chats)


def plain_name(full_name: str) -> str:
    """The provider's name of a model: `qwen3:4b` of `qwen3:4b@local@Ollama`."""
    return full_name.partition("@")[0]


def chat_model(side: Side, chat: Chat) -> str:
    """The provider's name of an assistant's model, which is listed by name or by id."""
    by_id = {model.id: model.name for model in side.ragflow.models("chat") if model.id}
    return by_id.get(chat.model) or plain_name(chat.model)


def _needed(source: Side, datasets: Mapping[str, Dataset], chats: Mapping[str, Chat]) -> set[str]:
    names = {plain_name(one.embedding_model) for one in datasets.values()}
    names |= {chat_model(source, one) for one in chats.values()}
    return {str(parse_name(name)).lower() for name in names if name}


def _models(
    source: Side, target: Side, stored: dict[str, StoredModel], needed: set[str] | None
) -> Iterator[Item]:
    known = {entry.name.lower(): entry for entry in target.ollama.models()}
    rewrites = target.ollama.version().rewrites_files
    # The oldest first: it was there before what was made of it.
    for entry in reversed(source.ollama.models()):
        if needed is not None and entry.name.lower() not in needed:
            continue
        other = known.get(entry.name.lower())
        if other is not None:
            yield _compare_models(source, target, entry, other, rewrites)
            continue
        model = source.store.read(parse_name(entry.name)) if source.store is not None else None
        if model is None:
            yield Item("model", entry.name, MISSING, size=entry.size)
            continue
        stored[entry.name] = model
        yield Item("model", entry.name, CREATE, detail=entry.quantization, size=entry.size)


def _compare_models(source: Side, target: Side, entry: ModelEntry, other: ModelEntry, rewrites: bool) -> Item:
    """The same file, or (where the server writes the file anew) the same kind and size of model."""
    if entry.digest == other.digest:
        return Item("model", entry.name, KEEP, content="same")
    mine, theirs = source.ollama.show(entry.name), target.ollama.show(other.name)
    if mine.blob_digest and mine.blob_digest == theirs.blob_digest:
        return Item("model", entry.name, KEEP, content="same")
    form = (other.parameter_size, other.quantization)
    if rewrites and form == (entry.parameter_size, entry.quantization):
        return Item("model", entry.name, KEEP, content="unknown")
    return Item("model", entry.name, DIFFERS, detail=" ".join(form), content="other")


def _dataset(source: Side, dataset: Dataset, other: Dataset | None) -> Item:
    if other is None:
        return Item("kb", dataset.name, CREATE, detail=plain_name(dataset.embedding_model))
    if not _same_embedding(dataset, other):
        return Item("kb", dataset.name, DIFFERS, detail=plain_name(other.embedding_model) or "-")
    if read_options(dataset) != read_options(other):
        return Item("kb", dataset.name, DIFFERS, detail=other.chunk_method)
    return Item("kb", dataset.name, KEEP)


def _same_embedding(dataset: Dataset, other: Dataset) -> bool:
    return plain_name(dataset.embedding_model).lower() == plain_name(other.embedding_model).lower()


def _documents(
    source: Side, target: Side, dataset: Dataset, documents: Mapping[str, Document], other: Dataset | None
) -> Iterator[Item]:
    there = {one.name.casefold(): one for one in target.ragflow.documents(other)} if other is not None else {}
    is_closed = other is not None and not _same_embedding(dataset, other)
    mine, theirs = source.known(dataset), target.known(other) if other is not None else {}
    read: dict[str, str] = {}
    read_there: dict[str, str] = {}
    for name, document in documents.items():
        found = there.get(name.casefold())
        content: Content = ""
        if other is None or found is None:
            # Passages of two embedding models in one knowledge base could not be compared.
            action = DIFFERS if is_closed else CREATE
        elif found.size != document.size:
            action, content = DIFFERS, "other"
        else:
            # Theirs first: where that is not known, ours need not be read.
            digest = read_there[found.id] = target.content_hash(other, found, theirs)
            if digest:
                read[document.id] = source.content_hash(dataset, document, mine)
            content = compare(read.get(document.id, ""), digest)
            if content == "other":
                action = DIFFERS
            elif found.is_searchable or not document.is_searchable:
                action = KEEP
            else:
                action = PARSE
        yield Item("document", name, action, dataset.name, size=document.size, content=content)
    source.remember(dataset, {id: digest for id, digest in read.items() if digest and id not in mine})
    if other is not None:
        target.remember(other, {id: one for id, one in read_there.items() if one and id not in theirs})


def _chat(source: Side, chat: Chat, other: Chat | None) -> Item:
    model = chat_model(source, chat)
    if other is None:
        return Item("chat", chat.name, CREATE, detail=model)
    if set(chat.dataset_names) != set(other.dataset_names):
        return Item("chat", chat.name, DIFFERS, detail=", ".join(other.dataset_names) or "-")
    return Item("chat", chat.name, KEEP)
