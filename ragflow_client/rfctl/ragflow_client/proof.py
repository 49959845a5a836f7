"""The proof that a server works from end to end: a small document is parsed, found, and asked about.

It goes through every part that a set-up can get wrong (storage, executor, search engine, embedding model,
chat model) and leaves nothing behind.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rfctl.core.error import RefusedError, RfctlError
from rfctl.core.progress import SILENT, Reporter
from rfctl.ragflow_client.answer import ask, open_session
from rfctl.ragflow_client.chat import create_chat, find_chat, list_chats, remove_chat
from rfctl.ragflow_client.chat_option import ChatOptions
from rfctl.ragflow_client.dataset import (
    Dataset,
    ParserOptions,
    create_dataset,
    find_dataset,
    get_dataset,
    remove_dataset,
)
from rfctl.ragflow_client.document import list_documents
from rfctl.ragflow_client.model import Model
from rfctl.ragflow_client.parse import Patience
from rfctl.ragflow_client.retrieval import search
from rfctl.ragflow_client.transport import Api
from rfctl.ragflow_client.upload import upload_files

NAME = "rfctl-setup-check"
DOCUMENT = f"{NAME}.txt"
TEXT = "The lighthouse of Heron Bay was built in 1874. Its keeper wrote the weather down every morning.\n"
QUESTION = "When was the lighthouse of Heron Bay built?"
PATIENCE = Patience(poll=1.0, silent=120.0, stall=300.0, offline=60.0, total=900.0)


@dataclass(frozen=True)
class Proof:
    """What the server did. similarity: of the passage found; answer: of the chat model, "" without one;
    on_page: whether it was looked at through the web page's session too."""

    similarity: float
    answer: str
    seconds: float
    on_page: bool = False


def prove(
    api: Api,
    embedding: Model,
    chat: Model | None = None,
    *,
    page: Api | None = None,
    patience: Patience = PATIENCE,
    reporter: Reporter = SILENT,
) -> Proof:
    """Parse and find a small document with `embedding`, and let `chat` answer from it.

    page: with the session token of the account as the web page has it; then the page makes the dataset, the
    key fills it, and the page must show its document and the chat. Raises RfctlError `proof.not-on-page`,
    RefusedError `proof.name-taken`, RfctlError `proof.nothing-found`, the cause of a failed parsing,
    and what a failed answer raises; what was made for the proof is removed in any case.
    """
    began = time.monotonic()
    with reporter.stage("proof.stage", total=3 if chat is not None else 2, unit="items") as stage:
        _remove(api)
        try:
            options = ParserOptions(layout="Plain Text", chunk_tokens=128)
            dataset, _ = create_dataset(
                page or api, NAME, embedding_model=embedding.full_name, options=options
            )
            _upload(api, get_dataset(api, NAME), patience)
            if page is not None:
                _look(DOCUMENT, [one.name for one in list_documents(page, dataset)])
            stage.advance(1)
            found = search(api, [dataset], QUESTION, similarity_threshold=0.0)
            if not found.sources:
                raise RfctlError("proof.nothing-found", name=embedding.name)
            stage.advance(1)
            answer = ""
            if chat is not None:
                dataset = get_dataset(api, NAME)
                # Without a threshold the passage reaches the model whatever the embedding model thinks of it.
                wish = ChatOptions(similarity_threshold=0.0, empty_response="")
                assistant, _ = create_chat(api, NAME, [dataset], model=chat.full_name, options=wish)
                if page is not None:
                    _look(NAME, [one.name for one in list_chats(page)])
                answer = ask(api, assistant, QUESTION, open_session(api, assistant)).text
                stage.advance(1)
        finally:
            _remove(api)
    seconds = round(time.monotonic() - began, 2)
    return Proof(found.sources[0].similarity, answer.strip(), seconds, page is not None)


def _look(name: str, shown: Sequence[str]) -> None:
    if name not in shown:
        raise RfctlError("proof.not-on-page", name=name)


def _upload(api: Api, dataset: Dataset, patience: Patience) -> None:
    with tempfile.TemporaryDirectory(prefix="rfctl-") as folder:
        path = Path(folder) / DOCUMENT
        path.write_text(TEXT, encoding="utf-8")
        upload_files(api, dataset, [path], patience=patience).check()


def _remove(api: Api) -> None:
    """Remove what a proof made, now or when it was cut off. Raises RefusedError for what is not ours."""
    chat = find_chat(api, NAME)
    if chat is not None:
        remove_chat(api, chat)
    dataset = find_dataset(api, NAME)
    if dataset is None:
        return
    others = [one.name for one in list_documents(api, dataset) if not one.name.startswith(NAME)]
    if others:
        raise RefusedError("proof.name-taken", name=NAME)
    remove_dataset(api, dataset)
