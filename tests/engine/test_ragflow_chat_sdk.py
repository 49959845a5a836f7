"""The official ragflow-sdk asks the engine: retrieval, assistants, sessions, answers, chunks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ragflow_bench import KEY, Bench, bench
from ragflow_sdk import Chat, DataSet, RAGFlow


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("data"), preset=True) as made:
        made.double.answer = "The battery must be stored below thirty degrees."
        yield made


@pytest.fixture(scope="module")
def sdk(engine: Bench) -> RAGFlow:
    return RAGFlow(api_key=KEY, base_url=engine.url)


@pytest.fixture(scope="module")
def dataset(sdk: RAGFlow, golden: Path) -> DataSet:
    made = sdk.create_dataset(
        name="handbook",
        embedding_model="all-minilm:latest@local@Ollama",
        parser_config=DataSet.ParserConfig(sdk, {"chunk_token_num": 64}),
    )
    content = (golden / "ragflow" / "fixtures" / "handbook.pdf").read_bytes()
    [document] = made.upload_documents([{"display_name": "handbook.pdf", "blob": content}])
    [(_, state, _, _)] = made.parse_documents([document.id])
    assert state == "DONE"
    return made


@pytest.fixture
def chat(engine: Bench, sdk: RAGFlow, dataset: DataSet) -> Iterator[Chat]:
    yield sdk.create_chat("assistant", dataset_ids=[dataset.id], llm_id="smollm2:135m@local@Ollama")
    engine.call("DELETE", "/chats", json={"delete_all": True})


def test_retrieval_names_the_page(sdk: RAGFlow, dataset: DataSet) -> None:
    asked = "How must the battery be stored, and who leads the project?"
    chunks = sdk.retrieve(dataset_ids=[dataset.id], question=asked, page_size=2)
    assert "below thirty degrees" in chunks[0].content
    assert chunks[0].document_keyword == "handbook.pdf"
    assert {position[0] for position in chunks[0].positions} == {2}
    assert chunks[0].similarity >= chunks[1].similarity


def test_an_answer_with_its_sources(engine: Bench, chat: Chat) -> None:
    session = chat.create_session("s")
    [message] = session.ask("How must the battery be stored?", stream=False)
    assert message.content == "The battery must be stored below thirty degrees. [ID:0]"
    assert message.reference[0]["document_name"] == "handbook.pdf"
    assert message.reference[0]["positions"][0][0] == 2
    [kept] = chat.list_sessions(id=session.id)
    assert [one["role"] for one in kept.messages] == ["assistant", "user", "assistant"]


def test_a_streamed_answer(chat: Chat) -> None:
    session = chat.create_session("s")
    pieces = list(session.ask("How must the battery be stored?", stream=True))
    assert "".join(piece.content for piece in pieces) == "The battery must be stored below thirty degrees."
    assert pieces[-1].reference[0]["document_name"] == "handbook.pdf"


def test_assistants_and_sessions_change_and_go(sdk: RAGFlow, chat: Chat) -> None:
    chat.update({"name": "renamed", "prompt_config": {"empty_response": "none"}})
    [found] = sdk.list_chats(name="renamed")
    assert found.id == chat.id
    assert sdk.get_chat(chat.id).prompt_config.empty_response == "none"
    session = chat.create_session("one")
    session.update({"name": "two"})
    assert [one.name for one in chat.list_sessions()] == ["two"]
    chat.delete_sessions(ids=[session.id])
    assert chat.list_sessions() == []
    sdk.delete_chats(ids=[chat.id])
    assert sdk.list_chats() == []


def test_a_chunk_by_hand_is_found(sdk: RAGFlow, dataset: DataSet) -> None:
    [document] = dataset.list_documents()
    chunk = document.add_chunk("The mascot of the project is a grey heron.", important_keywords=["bird"])
    assert sdk.retrieve(dataset_ids=[dataset.id], question="Which mascot is it?")[0].id == chunk.id
    chunk.update({"content": "The mascot of the project is a white owl."})
    assert "owl" in sdk.retrieve(dataset_ids=[dataset.id], question="Which mascot is it?")[0].content
    document.delete_chunks([chunk.id])
    assert sdk.retrieve(dataset_ids=[dataset.id], question="Which mascot is it?") == []
