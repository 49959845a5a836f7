"""One object for one RAGFlow server: `connect(url, key)` and then datasets, documents, answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rfctl.core.progress import SILENT, Reporter
from rfctl.ragflow_client import chat as chat_room
from rfctl.ragflow_client import dataset as dataset_room
from rfctl.ragflow_client import document as document_room
from rfctl.ragflow_client.answer import (
    SESSION_NAME,
    Answer,
    Message,
    Session,
    ask,
    ask_stream,
    find_session,
    open_session,
    read_messages,
    remove_session,
)
from rfctl.ragflow_client.capability import detect
from rfctl.ragflow_client.chat import Chat
from rfctl.ragflow_client.chat_option import ChatOptions
from rfctl.ragflow_client.dataset import Dataset, ParserOptions
from rfctl.ragflow_client.document import Document
from rfctl.ragflow_client.evaluation import Evaluation, evaluate
from rfctl.ragflow_client.matrix import Matrix, evaluate_models
from rfctl.ragflow_client.model import Kind, Model, list_models
from rfctl.ragflow_client.model_server import ModelServer
from rfctl.ragflow_client.parse import Patience
from rfctl.ragflow_client.provider import ModelSpec, Registration, ensure_models, ensure_served
from rfctl.ragflow_client.question_set import Question
from rfctl.ragflow_client.reparse import parse_documents
from rfctl.ragflow_client.report import UploadReport
from rfctl.ragflow_client.retrieval import Retrieval, search
from rfctl.ragflow_client.server import Server
from rfctl.ragflow_client.sync import SyncReport, sync_folder
from rfctl.ragflow_client.sync_plan import SyncPlan
from rfctl.ragflow_client.transport import Api
from rfctl.ragflow_client.upload import upload_files


def connect(base_url: str, api_key: str, *, memory: Path | None = None) -> Ragflow:
    """A client that has made sure of the server.

    memory: file that keeps what servers can do between commands. Raises UsageError (URL, no RAGFlow, before
    0.25), AuthError (key), UnreachableError.
    """
    client = Ragflow(Api(base_url, api_key), memory)
    try:
        _ = client.server
    except BaseException:
        client.close()
        raise
    return client


class Ragflow:
    """The functions of this package with one connection. Names are resolved exactly; ids are taken too."""

    def __init__(self, api: Api, memory: Path | None = None) -> None:
        self.api = api
        self._memory = memory

    @property
    def url(self) -> str:
        return self.api.url

    @cached_property
    def server(self) -> Server:
        return detect(self.api, self._memory)

    def close(self) -> None:
        self.api.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- models ---------------------------------------------------------------------------------

    def models(self, kind: Kind) -> tuple[Model, ...]:
        return list_models(self.api, kind)

    def ensure_models(
        self,
        *,
        ollama_url: str,
        chat: ModelSpec | None = None,
        embedding: ModelSpec | None = None,
        default: bool | None = True,
        prove: bool = True,
        reporter: Reporter = SILENT,
    ) -> Registration:
        return ensure_models(
            self.api,
            ollama_url=ollama_url,
            chat=chat,
            embedding=embedding,
            default=default,
            prove=prove,
            reporter=reporter,
        )

    def ensure_served(
        self,
        server: ModelServer,
        *,
        chat: ModelSpec | None = None,
        embedding: ModelSpec | None = None,
        default: bool | None = True,
        reporter: Reporter = SILENT,
    ) -> Registration:
        return ensure_served(
            self.api, server, chat=chat, embedding=embedding, default=default, reporter=reporter
        )

    # -- datasets and documents -----------------------------------------------------------------

    def datasets(self) -> tuple[Dataset, ...]:
        return dataset_room.list_datasets(self.api)

    def find_dataset(self, name: str) -> Dataset | None:
        return dataset_room.find_dataset(self.api, name)

    def dataset(self, name: str) -> Dataset:
        return dataset_room.get_dataset(self.api, name)

    def create_dataset(
        self,
        name: str,
        *,
        embedding_model: str = "",
        options: ParserOptions | None = None,
    ) -> tuple[Dataset, bool]:
        return dataset_room.create_dataset(self.api, name, embedding_model=embedding_model, options=options)

    def edit_dataset(
        self, target: Dataset, *, name: str = "", options: ParserOptions | None = None
    ) -> tuple[Dataset, bool]:
        return dataset_room.edit_dataset(self.api, target, name=name, options=options)

    def remove_dataset(self, target: Dataset) -> None:
        dataset_room.remove_dataset(self.api, target)

    def upload(
        self,
        target: Dataset,
        paths: Sequence[Path],
        *,
        replace: bool = False,
        parse: bool = True,
        names: Mapping[Path, str] | None = None,
        patience: Patience | None = None,
        reporter: Reporter = SILENT,
    ) -> UploadReport:
        return upload_files(
            self.api,
            target,
            paths,
            replace=replace,
            parse=parse,
            reads_scans=self.reads_scans(target),
            names=names,
            patience=patience,
            reporter=reporter,
        )

    def sync(
        self,
        target: Dataset,
        folder: Path,
        ledger_folder: Path,
        *,
        prune: bool = False,
        approve: Callable[[SyncPlan], bool] = lambda _: True,
        patience: Patience | None = None,
        reporter: Reporter = SILENT,
    ) -> SyncReport | None:
        return sync_folder(
            self.api,
            target,
            folder,
            ledger_folder,
            prune=prune,
            reads_scans=self.reads_scans(target),
            approve=approve,
            patience=patience,
            reporter=reporter,
        )

    def reads_scans(self, target: Dataset) -> bool:
        """Whether text in images is recognised; the embedded engine and "Plain Text" do not."""
        return not self.server.is_embedded and target.parser_config.get("layout_recognize") != "Plain Text"

    def documents(self, target: Dataset) -> tuple[Document, ...]:
        return document_room.list_documents(self.api, target)

    def parse(
        self,
        target: Dataset,
        names: Sequence[str] = (),
        *,
        options: Mapping[str, Any] | None = None,
        patience: Patience | None = None,
        reporter: Reporter = SILENT,
    ) -> UploadReport:
        return parse_documents(self.api, target, names, options=options, patience=patience, reporter=reporter)

    def find_documents(self, target: Dataset, names: Sequence[str]) -> tuple[Document, ...]:
        return document_room.find_documents(self.api, target, names)

    def remove_documents(self, target: Dataset, names: Sequence[str]) -> tuple[Document, ...]:
        """Delete documents by name or id; returns them. Nothing is deleted when one is unknown."""
        found = document_room.find_documents(self.api, target, names)
        document_room.remove_documents(self.api, target, found)
        return found

    def search(
        self,
        targets: Sequence[Dataset],
        question: str,
        *,
        limit: int = 6,
        similarity_threshold: float = 0.2,
        vector_similarity_weight: float = 0.3,
    ) -> Retrieval:
        return search(
            self.api,
            targets,
            question,
            limit=limit,
            similarity_threshold=similarity_threshold,
            vector_similarity_weight=vector_similarity_weight,
        )

    def evaluate(
        self,
        questions: Sequence[Question],
        targets: Sequence[Dataset],
        chat: Chat | None = None,
        *,
        limit: int = 6,
        similarity_threshold: float = 0.2,
        reporter: Reporter = SILENT,
    ) -> Evaluation:
        return evaluate(
            self.api,
            questions,
            targets,
            chat,
            limit=limit,
            similarity_threshold=similarity_threshold,
            reporter=reporter,
        )

    def evaluate_models(
        self,
        questions: Sequence[Question],
        targets: Sequence[Dataset],
        models: Sequence[str],
        *,
        options: Mapping[str, Any] | None = None,
        conditions: Sequence[bool] = (False, True),
        limit: int = 6,
        similarity_threshold: float = 0.2,
        reporter: Reporter = SILENT,
    ) -> Matrix:
        return evaluate_models(
            self.api,
            questions,
            targets,
            models,
            options=options,
            conditions=conditions,
            limit=limit,
            similarity_threshold=similarity_threshold,
            reporter=reporter,
        )

    # -- assistants -----------------------------------------------------------------------------

    def chats(self) -> tuple[Chat, ...]:
        return chat_room.list_chats(self.api)

    def find_chat(self, name: str) -> Chat | None:
        return chat_room.find_chat(self.api, name)

    def chat(self, name: str) -> Chat:
        return chat_room.get_chat(self.api, name)

    def create_chat(
        self,
        name: str,
        datasets: Sequence[Dataset],
        *,
        model: str = "",
        options: ChatOptions | None = None,
        insist: Sequence[str] = (),
    ) -> tuple[Chat, bool]:
        return chat_room.create_chat(self.api, name, datasets, model=model, options=options, insist=insist)

    def edit_chat(
        self,
        target: Chat,
        *,
        name: str = "",
        datasets: Sequence[Dataset] | None = None,
        model: str = "",
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Chat, tuple[str, ...]]:
        return chat_room.edit_chat(
            self.api, target, name=name, datasets=datasets, model=model, options=options
        )

    def chat_options(self, target: Chat) -> dict[str, Any]:
        return chat_room.describe_options(self.api, target)

    def remove_chat(self, target: Chat) -> None:
        chat_room.remove_chat(self.api, target)

    def open_session(self, target: Chat, name: str = SESSION_NAME) -> Session:
        return open_session(self.api, target, name)

    def find_session(self, target: Chat, id: str) -> Session:
        return find_session(self.api, target, id)

    def messages(self, session: Session) -> tuple[Message, ...]:
        return read_messages(self.api, session)

    def remove_session(self, session: Session) -> None:
        remove_session(self.api, session)

    def ask(self, target: Chat, question: str, session: Session | None = None) -> Answer:
        return ask(self.api, target, question, session)

    def ask_stream(
        self,
        target: Chat,
        question: str,
        show: Callable[[str], None],
        session: Session | None = None,
        *,
        think: Callable[[str], None] = lambda _: None,
    ) -> Answer:
        return ask_stream(self.api, target, question, show, session, think=think)
