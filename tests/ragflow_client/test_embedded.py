"""The client against the embedded engine: from an empty server to a cited answer and back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from ragflow_bench import KEY, Bench

from rfctl.core.error import RfctlError, UsageError
from rfctl.ragflow_client.chat_option import SYSTEM, ChatOptions, escape_braces
from rfctl.ragflow_client.connection import Ragflow, connect
from rfctl.ragflow_client.dataset import CHUNK_METHODS, ParserOptions
from rfctl.ragflow_client.parse import Patience
from rfctl.ragflow_client.provider import ModelSpec

QUICK = Patience(poll=0.2)


def test_from_an_empty_server_to_a_cited_answer(engine: Bench, ragflow: Ragflow, fixtures: Path) -> None:
    assert ragflow.server.is_embedded
    wanted = {"chat": ModelSpec("smollm2:135m", 8192), "embedding": ModelSpec("all-minilm", 512)}
    made = ragflow.ensure_models(ollama_url=engine.double_url, **wanted)
    assert made.chat is not None and made.chat.is_default
    assert not ragflow.ensure_models(ollama_url=engine.double_url, **wanted, prove=False).changed

    dataset, is_new = ragflow.create_dataset("Handbücher")
    assert (is_new, ragflow.create_dataset("Handbücher")) == (True, (dataset, False))
    assert dataset.embedding_model == "all-minilm:latest@local@Ollama"
    assert dataset.parser_config["raptor"]["use_raptor"] is False
    assert dataset.parser_config["graphrag"]["use_graphrag"] is False

    with pytest.raises(UsageError, match=r"dataset\.not-parsed"):
        ragflow.create_chat("early", [dataset])
    files = sorted(fixtures.iterdir())
    report = ragflow.upload(dataset, files, patience=QUICK)
    assert {one.name: one.cause.id if one.cause else one.status for one in report.items} == {
        "blank.pdf": "upload.blank",
        "corpus.txt": "parsed",
        "corrupt.pdf": "upload.corrupt",
        "encrypted.pdf": "upload.encrypted",
        "handbook.pdf": "parsed",
        "not-a-pdf.pdf": "upload.not-a-pdf",
        "note.txt": "parsed",
        "pasta.pdf": "parsed",
        "program.exe": "upload.type-unsupported",
        "zero.pdf": "upload.empty",
        "zh.pdf": "parsed",
    }
    with pytest.raises(RfctlError) as caught:
        report.check()
    assert (caught.value.id, caught.value.exit_code) == ("upload.partly-failed", 6)
    again = ragflow.upload(dataset, files, patience=QUICK)
    assert {one.status for one in again.items} == {"unchanged", "failed"}
    assert len(ragflow.documents(dataset)) == 5

    found = ragflow.search([dataset], "What is the launch code name?")
    assert (found.sources[0].document, found.sources[0].pages) == ("handbook.pdf", (1,))
    assert found.sources[0].box is not None
    assert [one.similarity for one in found.sources] == sorted(
        (one.similarity for one in found.sources), reverse=True
    )

    dataset = ragflow.dataset("Handbücher")
    chat, _ = ragflow.create_chat("helper", [dataset])
    assert ragflow.create_chat("HELPER", [dataset])[1] is False
    answer = ragflow.ask(chat, "What is the launch code name?")
    assert answer.text == "The launch code name is Heron. [1]"
    assert (answer.cited[0].document, answer.cited[0].pages) == ("handbook.pdf", (1,))
    shown: list[str] = []
    streamed = ragflow.ask_stream(chat, "What is the launch code name?", shown.append)
    assert "".join(shown) == streamed.text == answer.text
    sent = [body for kind, body in engine.double.requests if kind == "chat"][-1]
    assert "frequency_penalty" not in str(sent)

    ragflow.remove_documents(dataset, ["note.txt", "zh.pdf"])
    assert len(ragflow.documents(dataset)) == 3
    with pytest.raises(UsageError, match=r"upload\.document-unknown"):
        ragflow.remove_documents(dataset, ["pasta.pdf", "note.txt"])
    assert len(ragflow.documents(dataset)) == 3
    ragflow.remove_chat(chat)
    ragflow.remove_chat(chat)
    ragflow.remove_dataset(dataset)
    ragflow.remove_dataset(dataset)
    assert (ragflow.chats(), ragflow.datasets()) == ((), ())


def test_a_replaced_document_is_never_missing_and_keeps_its_name(
    engine: Bench, ragflow: Ragflow, tmp_path: Path
) -> None:
    dataset, _ = ragflow.create_dataset("notes")
    path = tmp_path / "note.txt"
    path.write_text("The heron is grey.")
    assert ragflow.upload(dataset, [path], patience=QUICK).items[0].status == "parsed"
    path.write_text("The heron is white and larger than before.")
    taken = ragflow.upload(dataset, [path], patience=QUICK).items[0]
    assert taken.cause is not None and taken.cause.id == "upload.name-taken"
    first = ragflow.documents(dataset)[0].id
    assert ragflow.upload(dataset, [path], replace=True, patience=QUICK).items[0].status == "replaced"
    (document,) = ragflow.documents(dataset)
    assert (document.name, document.id != first, document.is_searchable) == ("note.txt", True, True)
    assert "white" in ragflow.search([dataset], "heron").sources[0].content
    assert ragflow.upload(dataset, [path], replace=True, patience=QUICK).items[0].status == "unchanged"


def test_same_size_is_not_same_content(ragflow: Ragflow, tmp_path: Path) -> None:
    dataset, _ = ragflow.create_dataset("notes")
    path = tmp_path / "note.txt"
    path.write_text("aaaa")
    ragflow.upload(dataset, [path], patience=QUICK)
    path.write_text("bbbb")
    item = ragflow.upload(dataset, [path], patience=QUICK).items[0]
    assert item.cause is not None and item.cause.id == "upload.name-taken"


def test_two_files_of_one_name_are_not_mixed_up(ragflow: Ragflow, tmp_path: Path) -> None:
    dataset, _ = ragflow.create_dataset("notes")
    paths = [tmp_path / folder / "Note.txt" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_text(f"In folder {path.parent.name}")
    report = ragflow.upload(dataset, [paths[0], paths[0], paths[1]], patience=QUICK)
    assert [one.cause.id if one.cause else one.status for one in report.items] == [
        "parsed",
        "upload.name-twice",
    ]
    assert len(ragflow.documents(dataset)) == 1


def test_without_parsing_and_later_with(ragflow: Ragflow, fixtures: Path) -> None:
    dataset, _ = ragflow.create_dataset("notes")
    path = fixtures / "note.txt"
    assert ragflow.upload(dataset, [path], parse=False).items[0].status == "uploaded"
    assert ragflow.documents(dataset)[0].run == "UNSTART"
    assert ragflow.upload(dataset, [path], patience=QUICK).items[0].status == "parsed"
    assert len(ragflow.documents(dataset)) == 1


def test_names_are_exact(engine: Bench, ragflow: Ragflow) -> None:
    first, _ = ragflow.create_dataset("kb1")
    engine.create_dataset("kb1")  # another client: the server makes kb1(1) of it
    assert sorted(one.name for one in ragflow.datasets()) == ["kb1", "kb1(1)"]
    assert ragflow.dataset("kb1").id == first.id
    assert ragflow.dataset("KB1").id == first.id
    assert ragflow.dataset(first.id).name == "kb1"
    with pytest.raises(UsageError, match=r"dataset\.unknown"):
        ragflow.dataset("kb")
    assert ragflow.create_dataset("KB1")[1] is False
    with pytest.raises(UsageError, match=r"dataset\.other-model"):
        ragflow.create_dataset("kb1", embedding_model="multilingual-e5-small")


def test_parser_options_are_checked_before_the_call(engine: Bench, ragflow: Ragflow) -> None:
    for wrong in (
        ParserOptions(chunk_method="naif"),
        ParserOptions(chunk_tokens=0),
        ParserOptions(chunk_tokens=2049),
        ParserOptions(delimiter=""),
        ParserOptions(layout=" "),
        ParserOptions(auto_keywords=33),
        ParserOptions(auto_questions=11),
        ParserOptions(pages=((3, 2),)),
    ):
        with pytest.raises(UsageError, match=r"dataset\.option-invalid"):
            ragflow.create_dataset("x", options=wrong)
    for method in CHUNK_METHODS:
        ragflow.create_dataset(method, options=ParserOptions(chunk_method=method, pages=((1, 2), (5, 5))))
    stored = ragflow.dataset("naive").parser_config
    assert stored["pages"] == [[1, 3], [5, 6]]
    smaller = ParserOptions(chunk_tokens=64)
    dataset, changed = ragflow.edit_dataset(ragflow.dataset("naive"), name="new", options=smaller)
    assert (changed, dataset.name, dataset.parser_config["chunk_token_num"]) == (True, "new", 64)
    assert ragflow.edit_dataset(dataset, name="new", options=smaller)[1] is False


def test_a_system_text_may_hold_braces(engine: Bench, ragflow: Ragflow, fixtures: Path) -> None:
    assert escape_braces('{"a": 1} {knowledge}') == '{{"a": 1}} {knowledge}'
    dataset, _ = ragflow.create_dataset("notes")
    ragflow.upload(dataset, [fixtures / "note.txt"], patience=QUICK)
    options = ChatOptions(system='Answer as {"answer": "..."}.', empty_response="")
    chat, _ = ragflow.create_chat("json", [ragflow.dataset("notes")], options=options)
    ragflow.ask(chat, "What is the mascot?")
    sent = [body for kind, body in engine.double.requests if kind == "chat"][-1]
    assert "grey heron" in sent["messages"][0]["content"]
    # RAGFlow formats the text (str.format), so braces must be stored doubled.
    stored = engine.call("GET", f"/chats/{chat.id}")["prompt_config"]["system"]
    assert stored == 'Answer as {{"answer": "..."}}.\n{knowledge}'
    assert "{knowledge}" in SYSTEM


def test_the_official_objects_work_over_our_transport(ragflow: Ragflow, fixtures: Path) -> None:
    dataset = ragflow.api.create_dataset(name="official")
    documents = dataset.upload_documents(
        [{"display_name": "note.txt", "blob": (fixtures / "note.txt").read_bytes()}]
    )
    assert dataset.parse_documents([documents[0].id])[0][1] == "DONE"
    assert ragflow.api.list_datasets(name="official")[0].id == dataset.id
    chat = ragflow.api.create_chat(name="official", dataset_ids=[dataset.id])
    session = chat.create_session()
    answers = list(session.ask("What is the mascot?", stream=True))
    assert "".join(one.content for one in answers).startswith("The launch code name")
    with pytest.raises(RfctlError, match="lacks permission"):
        ragflow.api.list_datasets(name="nothing of that name")


def test_a_wrong_key_and_a_wrong_server_are_told_apart(engine: Bench) -> None:
    with pytest.raises(RfctlError) as caught:
        connect(engine.url, "ragflow-wrong")
    assert (caught.value.id, caught.value.exit_code) == ("ragflow.key-refused", 4)
    with pytest.raises(RfctlError) as caught:
        connect(engine.double_url, "ragflow-wrong")
    assert (caught.value.id, caught.value.exit_code) == ("ragflow.not-ragflow", 2)


def test_uploads_of_one_file_at_once_leave_one_document(engine: Bench, tmp_path: Path) -> None:
    """The server takes them all and makes a(1).txt: who came later sees it and gives way."""
    path = tmp_path / "race.txt"
    path.write_text("The launch code name is Heron.", "utf-8")
    count = 4
    start = threading.Barrier(count)
    seen: list[str] = []

    def upload() -> None:
        with connect(engine.url, KEY) as mine:
            target = mine.dataset("Race")
            start.wait(30)
            seen.extend(one.status for one in mine.upload(target, [path], patience=QUICK).items)

    with connect(engine.url, KEY) as ragflow:
        ragflow.ensure_models(ollama_url=engine.double_url, embedding=ModelSpec("all-minilm", 512))
        dataset, _ = ragflow.create_dataset("Race")
        threads = [threading.Thread(target=upload) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [(one.name, one.run) for one in ragflow.documents(dataset)] == [("race.txt", "DONE")]
        assert len(seen) == count and set(seen) <= {"parsed", "unchanged"}
        ragflow.remove_dataset(ragflow.dataset("Race"))
