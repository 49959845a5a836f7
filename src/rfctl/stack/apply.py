"""Rebuilds on one profile what another one holds, item by item, as `apply_plan` has found it missing."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfctl.core.error import AuthError, RfctlError, UnreachableError
from rfctl.core.progress import SILENT, Reporter
from rfctl.ollama.blob import Content, upload_blob
from rfctl.ollama.creation import create_model
from rfctl.ollama.manifest import (
    MEDIA_ADAPTER,
    MEDIA_LICENSE,
    MEDIA_MESSAGES,
    MEDIA_MODEL,
    MEDIA_PARAMS,
    MEDIA_PROJECTOR,
    MEDIA_SYSTEM,
    MEDIA_TEMPLATE,
)
from rfctl.ollama.store import ModelStore, StoredModel
from rfctl.ragflow_client.chat_option import OPTIONS, ChatOptions
from rfctl.ragflow_client.dataset import Dataset, read_options
from rfctl.ragflow_client.document import hash_file, list_meta, set_meta
from rfctl.ragflow_client.document_file import save_document
from rfctl.stack.apply_plan import Item, Plan, Side, chat_model, plain_name

# So much of a knowledge base is here on disk at once.
BATCH_BYTES = 256 << 20
BATCH_FILES = 32
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,12}")
_FILES = {MEDIA_MODEL: ("files", "model.gguf"), MEDIA_PROJECTOR: ("files", "projector.gguf")}
_TEXTS = {MEDIA_TEMPLATE: "template", MEDIA_SYSTEM: "system"}
_CONFIG_TEXTS = ("renderer", "parser", "requires")


@dataclass(frozen=True)
class Outcome:
    """What became of an item; cause: None when it is there now."""

    item: Item
    cause: RfctlError | None = None


def apply(
    plan: Plan,
    source: Side,
    target: Side,
    *,
    register: Callable[[str], object] = lambda _: None,
    reporter: Reporter = SILENT,
) -> list[Outcome]:
    """Do what is pending, in order; a failure of one item is its outcome, and the others go on.

    register: makes a model of the target's Ollama usable in the target's RAGFlow; called for every model that
    was brought, or that a knowledge base or an assistant needs, and that the RAGFlow does not know.
    Raised are only AuthError and UnreachableError (a server is gone), and interruption; done again, it goes
    on where it was.
    """
    worker = _Worker(plan, source, target, register, reporter)
    outcomes: list[Outcome] = []
    for kind, act in (("model", worker.push), ("kb", worker.make_dataset)):
        outcomes += [_attempt(item, act) for item in plan.pending if item.kind == kind]
    for name in plan.datasets:
        wanted = [item for item in plan.pending if item.kind == "document" and item.parent == name]
        if wanted:
            outcomes += worker.bring_documents(name, wanted)
    # Assistants come last: RAGFlow takes no knowledge base without a passage.
    return outcomes + [_attempt(item, worker.make_chat) for item in plan.pending if item.kind == "chat"]


def _attempt(item: Item, act: Callable[[Item], None]) -> Outcome:
    try:
        act(item)
    except (AuthError, UnreachableError):
        raise
    except RfctlError as error:
        return Outcome(item, error)
    return Outcome(item)


class _Worker:
    def __init__(
        self,
        plan: Plan,
        source: Side,
        target: Side,
        register: Callable[[str], object],
        reporter: Reporter,
    ) -> None:
        self._plan, self._source, self._target = plan, source, target
        self._register, self._reporter = register, reporter
        self._made: dict[str, Dataset] = {}

    # -- models ---------------------------------------------------------------------------------

    def push(self, item: Item) -> None:
        store, model = self._source.store, self._plan.models[item.name]
        assert store is not None  # a model to create was read from it
        body, digests = create_request(store, model)
        for digest in digests:
            content = Content.of_file(store.blob_path(digest))
            upload_blob(self._target.ollama, content, digest, self._reporter)
        create_model(self._target.ollama, {"model": item.name, **body}, self._reporter)
        made = self._target.ollama.find(item.name)
        if made is None:
            raise RfctlError("ollama.model-missing", model=item.name, url=self._target.ollama.url)
        self._know("embedding" if "embedding" in made.capabilities else "chat", item.name)

    def _know(self, kind: str, name: str) -> None:
        """Register a model with the target's RAGFlow where it is not known there."""
        tagged = name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"
        known = self._target.ragflow.models("embedding" if kind == "embedding" else "chat")
        if name and not {name.lower(), tagged.lower()} & {model.name.lower() for model in known}:
            self._register(name)

    # -- knowledge bases ------------------------------------------------------------------------

    def make_dataset(self, item: Item) -> None:
        dataset = self._plan.datasets[item.name]
        model = plain_name(dataset.embedding_model)
        self._know("embedding", model)
        self._made[dataset.name], _ = self._target.ragflow.create_dataset(
            dataset.name, embedding_model=model, options=read_options(dataset)
        )

    def _dataset_there(self, name: str) -> Dataset:
        return self._made.get(name) or self._target.ragflow.dataset(name)

    def bring_documents(self, name: str, items: Sequence[Item]) -> Iterator[Outcome]:
        try:
            there = self._dataset_there(name)
        except (AuthError, UnreachableError):
            raise
        except RfctlError as error:
            yield from (Outcome(item, error) for item in items)
            return
        # Where it came from (`kb upload URL`), and what its owner has written beside it.
        meta = list_meta(self._source.ragflow.api, self._plan.datasets[name])
        for batch in _batches(items):
            with tempfile.TemporaryDirectory(prefix="rfctl-apply-") as folder:
                yield from self._bring(there, name, batch, Path(folder), meta)

    def _bring(
        self,
        there: Dataset,
        name: str,
        items: Sequence[Item],
        folder: Path,
        meta: Mapping[str, Mapping[str, Any]],
    ) -> Iterator[Outcome]:
        dataset, paths = self._plan.datasets[name], dict[Path, Item]()
        total = sum(item.size for item in items)
        with self._reporter.stage("apply.stage-documents", total=total, count=len(items), kb=name) as stage:
            for number, item in enumerate(items):
                suffix = Path(item.name).suffix
                # The server's names never become paths here.
                path = folder / f"{number}{suffix if _SUFFIX.fullmatch(suffix) else '.bin'}"
                document = self._plan.documents[name][item.name]
                try:
                    save_document(self._source.ragflow.api, dataset, document, path, stage.advance)
                except (AuthError, UnreachableError):
                    raise
                except RfctlError as error:
                    yield Outcome(item, error)
                except OSError as error:
                    detail = error.strerror or str(error)
                    yield Outcome(item, RfctlError("apply.unwritable", path=folder, detail=detail))
                else:
                    paths[path.absolute()] = item
        if not paths:
            return
        names = {path: item.name for path, item in paths.items()}
        digests = {path: hash_file(path) for path in paths}
        self._source.remember(
            dataset, {self._plan.documents[name][item.name].id: digests[path] for path, item in paths.items()}
        )
        report = self._target.ragflow.upload(there, list(paths), names=names, reporter=self._reporter)
        self._target.remember(
            there,
            {one.document_id: digests[one.path] for one in report.items if one.document_id and not one.cause},
        )
        for result in report.items:
            item = paths[result.path]
            cause = result.cause.to_error() if result.cause is not None else None
            fields = meta.get(self._plan.documents[name][item.name].id)
            if cause is None and fields and result.document_id:
                try:
                    set_meta(self._target.ragflow.api, there, result.document_id, fields)
                except (AuthError, UnreachableError):
                    raise
                except RfctlError as error:
                    cause = error
            yield Outcome(item, cause)

    # -- assistants -----------------------------------------------------------------------------

    def make_chat(self, item: Item) -> None:
        chat = self._plan.chats[item.name]
        model = chat_model(self._source, chat)
        self._know("chat", model)
        found = self._source.ragflow.chat_options(chat)
        options = dataclasses.replace(
            ChatOptions(), **{key: value for key, value in found.items() if key in OPTIONS}
        )
        # Listed anew: the number of passages has changed since they were made.
        datasets = [self._target.ragflow.dataset(name) for name in chat.dataset_names]
        self._target.ragflow.create_chat(chat.name, datasets, model=model, options=options)


def create_request(store: ModelStore, model: StoredModel) -> tuple[dict[str, Any], list[str]]:
    """The fields of /api/create that make this model again, and the digests of the files that it needs.

    Raises RfctlError `apply.model-broken` for layers that cannot be read.
    """
    body: dict[str, Any] = {}
    digests = []
    try:
        for layer in model.manifest.layers:
            if layer.media_type in _FILES or layer.media_type == MEDIA_ADAPTER:
                group, name = _FILES.get(layer.media_type, ("adapters", "adapter.gguf"))
                body.setdefault(group, {})[name] = layer.digest
                digests.append(layer.digest)
                if not store.has_blob(layer.digest):
                    raise FileNotFoundError(layer.digest)
            elif layer.media_type in _TEXTS:
                body[_TEXTS[layer.media_type]] = store.read_blob(layer).decode()
            elif layer.media_type == MEDIA_LICENSE:
                body.setdefault("license", []).append(store.read_blob(layer).decode())
            elif layer.media_type == MEDIA_PARAMS:
                body["parameters"] = json.loads(store.read_blob(layer))
            elif layer.media_type == MEDIA_MESSAGES:
                body["messages"] = json.loads(store.read_blob(layer))
        config = json.loads(store.read_blob(model.manifest.config))
    except (OSError, ValueError) as error:
        raise RfctlError("apply.model-broken", model=str(model.name), detail=str(error)) from error
    if isinstance(config, dict):
        body |= {
            name: config[name] for name in _CONFIG_TEXTS if isinstance(config.get(name), str) and config[name]
        }
    return body, digests


def _batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        if batch and (len(batch) >= BATCH_FILES or size + item.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item.size
    if batch:
        yield batch
