"""Our calls against what a real RAGFlow 0.27.0 has answered: sent in the recorded form, and understood."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recording import KEY, RecordedServer, fill

from rfctl.core.error import AuthError, RfctlError, UsageError
from rfctl.ragflow_client import answer as answers
from rfctl.ragflow_client.chat import Chat, create_chat, find_chat, list_chats
from rfctl.ragflow_client.dataset import Dataset, create_dataset, list_datasets
from rfctl.ragflow_client.document import Document, fetch_documents, list_documents, remove_documents
from rfctl.ragflow_client.envelope import Reply, check
from rfctl.ragflow_client.failure import ServerError
from rfctl.ragflow_client.model import choose_model, list_models
from rfctl.ragflow_client.parse import Patience, Waiting, judge, start_parsing, wait_parsed
from rfctl.ragflow_client.provider import ModelSpec, ensure_models
from rfctl.ragflow_client.retrieval import search
from rfctl.ragflow_client.server import detect
from rfctl.ragflow_client.transport import Api

Start = Callable[..., RecordedServer]
OLLAMA = "http://127.0.0.1:11434"


def connect(server: RecordedServer) -> Api:
    return Api(server.url, KEY)


def dataset(server: RecordedServer, file: str, number: int = 1) -> Dataset:
    return Dataset(server.id(f"<dataset_{number}>", file), "docs", "m", "naive", 1, 1)


def chat(server: RecordedServer, file: str, number: int = 1) -> Chat:
    return Chat(server.id(f"<chat_{number}>", file), "helper", "m", (), ())


def document(server: RecordedServer, file: str, number: int) -> Document:
    return Document(server.id(f"<document_{number}>", file), "x", 1, "UNSTART")


def test_every_recorded_answer_is_a_success_or_an_error_with_the_servers_words(golden: Path) -> None:
    seen = {"success": 0, "error": 0}
    for path in sorted((golden / "ragflow" / "exchanges").glob("*.json")):
        for one in json.loads(path.read_text(encoding="utf-8"))["exchanges"]:
            response = fill(one["response"], path.stem)
            document = response.get("json")
            if not isinstance(document, dict) or "choices" in document:
                continue
            reply = Reply(
                "u", response["status"], {"Content-Type": "application/json"}, json.dumps(document).encode()
            )
            if response["status"] == 200 and document.get("code", 0) == 0:
                check(reply)
                seen["success"] += 1
                continue
            with pytest.raises(RfctlError) as caught:
                check(reply)
            seen["error"] += 1
            error = caught.value
            if isinstance(error, ServerError):
                assert error.code == document["code"]
                assert error.message[:60] == " ".join(document["message"].split())[:60]
            else:
                assert isinstance(error, AuthError)
                assert document["code"] in (401, 109)
            for language in ("en", "zh"):
                assert "{" not in error.text(language).message.replace(str(error.params.get("message")), "")
    assert seen["success"] > 300
    assert seen["error"] > 150


def test_the_server_is_recognised(recorded: Start) -> None:
    server = recorded("system", "providers")
    found = detect(connect(server))
    assert (found.version, found.text, found.language) == ((0, 27, 0), "v0.27.0", "python")
    assert not found.is_embedded
    assert found.has_providers
    assert server.problems == []


def test_models_are_registered_once(recorded: Start) -> None:
    server = recorded("providers")
    api = connect(server)
    wanted: dict[str, Any] = {
        "ollama_url": OLLAMA,
        "chat": ModelSpec("smollm2:135m", 8192),
        "embedding": ModelSpec("all-minilm", 512),
    }
    made = ensure_models(api, **wanted)
    assert server.problems == []
    assert made.changed
    assert made.chat is not None and made.embedding is not None
    assert made.chat.full_name == "smollm2:135m@local@Ollama"
    assert made.embedding.full_name == "all-minilm:latest@local@Ollama"
    instances = "POST /api/v1/providers/Ollama/instances"
    assert server.lines.count(instances) == 1
    for one in server.exchanges:  # the recording asks twice before there is an instance
        if one.request["path"].endswith("/instances") and one.response["json"].get("data") == []:
            one.used = True
    again = ensure_models(api, **wanted, prove=False)
    assert not again.changed
    # A second POST of the name would make the instance local(1).
    assert server.lines.count(instances) == 1
    assert server.problems == []


def test_an_unreachable_ollama_is_named_before_anything_is_made(recorded: Start) -> None:
    server = recorded("providers")
    with pytest.raises(RfctlError) as caught:
        ensure_models(connect(server), ollama_url="http://127.0.0.1:9", chat=ModelSpec("smollm2:135m", 8192))
    assert caught.value.id == "ragflow.ollama-unreachable"
    with pytest.raises(UsageError) as missing:
        ensure_models(connect(server), ollama_url=OLLAMA, chat=ModelSpec("nope", 1))
    assert missing.value.id == "ragflow.model-not-there"
    assert "POST /api/v1/providers/Ollama/instances" not in server.lines


def test_models_are_found_by_every_form_of_their_name(recorded: Start) -> None:
    api = connect(recorded("providers"))
    # The recording's first list still has a model that is deleted later.
    assert [one.name for one in list_models(api, "chat")][-1] == "smollm2:135m"
    for name in ("smollm2:135m", "SMOLLM2:135M", "smollm2:135m@local@Ollama", ""):
        assert choose_model(api, "chat", name).name == "smollm2:135m"
    assert choose_model(api, "embedding", "all-minilm").name == "all-minilm:latest"
    with pytest.raises(UsageError, match=r"ragflow\.model-unknown"):
        choose_model(api, "embedding", "smollm2:135m")


def test_datasets_are_listed(recorded: Start) -> None:
    server = recorded("datasets-list")
    listed = list_datasets(connect(server))
    assert len(listed) > 1
    assert all(one.id and one.name and one.chunk_method and "raptor" in one.parser_config for one in listed)
    assert server.problems == []


def test_a_document_is_sent_as_recorded(recorded: Start, fixtures: Path) -> None:
    server = recorded("documents-upload")
    api = connect(server)
    path = f"/datasets/{server.id('<dataset_1>', 'documents-upload')}/documents"
    first = api.upload(path, fixtures / "handbook.pdf", "handbook.pdf")
    again = api.upload(path, fixtures / "handbook.pdf", "handbook.pdf")
    assert [first[0]["name"], again[0]["name"]] == ["handbook.pdf", "handbook(1).pdf"]
    with pytest.raises(ServerError) as caught:
        api.upload(path, fixtures / "program.exe", "program.exe")
    assert (caught.value.code, caught.value.data) == (500, None)
    assert "not been supported" in caught.value.message
    assert server.problems == []


def test_what_was_accepted_beside_a_refusal_is_not_lost(recorded: Start) -> None:
    server = recorded("documents-upload")
    for exchange in server.exchanges:
        if exchange.response.get("json", {}).get("code") == 500 and "data" in exchange.response["json"]:
            content = json.dumps(exchange.response["json"]).encode()
            break
    with pytest.raises(ServerError) as caught:
        check(Reply("u", 200, {}, content))
    assert [one["name"] for one in caught.value.data] == ["second.txt"]  # type: ignore[attr-defined]


def test_parsing_is_started_once_and_waited_for(recorded: Start) -> None:
    server = recorded("parse")
    api, target, id = connect(server), dataset(server, "parse"), server.id("<document_1>", "parse")
    start_parsing(api, target, id)
    start_parsing(api, target, id)  # "currently being processed" is what was wanted
    outcome = wait_parsed(api, target, {id: Waiting("handbook.pdf", 2)}, patience=Patience(poll=0.02))[id]
    assert outcome.cause is None
    assert outcome.document is not None
    assert (outcome.document.run, outcome.document.chunk_count) == ("DONE", 3)
    assert server.problems == []


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_document_that_cannot_be_started_is_freed(recorded: Start, number: int) -> None:
    server = recorded("parse-bad-files")
    id = server.id(f"<document_{number}>", "parse-bad-files")
    with pytest.raises(ServerError) as caught:
        start_parsing(connect(server), dataset(server, "parse-bad-files"), id)
    assert caught.value.id == "upload.start-refused"
    assert caught.value.message == "IndexError('list index out of range')"
    assert [line.split()[0] for line in server.lines] == ["POST", "DELETE"]
    assert server.problems == []


def test_done_without_chunks_is_a_failure(recorded: Start) -> None:
    server = recorded("parse-bad-files")
    id = server.id("<document_6>", "parse-bad-files")
    target, waiting = dataset(server, "parse-bad-files"), {id: Waiting("blank.pdf", 1)}
    outcome = wait_parsed(connect(server), target, waiting, patience=Patience(poll=0.02))[id]
    assert outcome.document is not None and outcome.document.run == "DONE"
    assert outcome.cause is not None and outcome.cause.id == "upload.no-chunks"
    assert "--kb " in outcome.cause.text().next and "{dataset}" not in outcome.cause.text().next


def test_a_failing_embedding_model_is_the_cause(recorded: Start) -> None:
    server = recorded("llm-down")
    id = server.id("<document_2>", "llm-down")
    target, waiting = dataset(server, "llm-down"), {id: Waiting("UPPER.PDF")}
    outcome = wait_parsed(connect(server), target, waiting, patience=Patience(poll=0.02))[id]
    assert outcome.cause is not None and outcome.cause.id == "upload.embedding-failed"
    assert "Failed to connect to Ollama" in str(outcome.cause.params["detail"])


def test_documents_are_listed_and_deleted(recorded: Start) -> None:
    server = recorded("documents-list", "documents-delete")
    api = connect(server)
    names = [one.name for one in list_documents(api, dataset(server, "documents-list"))]
    assert "sdk.txt" in names
    target = dataset(server, "documents-delete")
    remove_documents(api, target, [document(server, "documents-delete", 1)])
    with pytest.raises(ValueError, match="not a list of ids"):
        remove_documents(api, target, [])
    with pytest.raises(ValueError, match="not a list of ids"):
        remove_documents(api, target, [Document("", "x", 1, "DONE")])
    assert fetch_documents(api, dataset(server, "documents-list"), ["0" * 32]) == {}
    assert server.lines.count(f"DELETE /api/v1/datasets/{target.id}/documents") == 1


def test_passages_are_found_with_their_scores(recorded: Start) -> None:
    server = recorded("retrieval")
    found = search(connect(server), [dataset(server, "retrieval")], "What is the launch code name?")
    assert (found.total, [one.document for one in found.sources]) == (2, ["handbook.pdf"] * 2)
    first = found.sources[0]
    assert (first.number, round(first.similarity, 4), first.pages) == (1, 0.3887, ())
    assert first.content.startswith("Project Aurora Handbook")
    assert server.problems == []


def test_assistants_are_listed_found_and_removed(recorded: Start) -> None:
    server = recorded("chats")
    api = connect(server)
    listed = list_chats(api)
    assert listed
    assert find_chat(api, listed[0].name.upper()) == listed[0]
    assert find_chat(api, "no such assistant") is None


def test_an_answer_has_numbered_sources(recorded: Start) -> None:
    server = recorded("completions-citations")
    target = chat(server, "completions-citations")
    session = answers.Session("0" * 32, "s", target.id)
    question = "What is the launch code name and who leads the project?"
    given = answers.ask(connect(server), target, question, session)
    assert given.text == "The launch code name is Bluebird, and Marta Keller leads the project. [1]"
    assert [(one.number, one.document, one.cited) for one in given.sources] == [
        (1, "handbook.pdf", True),
        (2, "handbook.pdf", False),
        (3, "note.txt", False),
    ]
    # A text file's position [1, 0, 0, 0, 0] is no page.
    assert given.sources[2].pages == ()
    shown: list[str] = []
    streamed = answers.ask_stream(connect(server), target, question, shown.append, session)
    assert streamed.text == "The launch code name is Bluebird, and Marta Keller leads the project."
    assert "".join(shown) == streamed.text
    assert [one.document for one in streamed.sources] == ["handbook.pdf", "handbook.pdf", "note.txt"]
    assert streamed.cited == ()


def test_the_fixed_answer_comes_once(recorded: Start) -> None:
    server = recorded("completions-empty")
    api, target = connect(server), chat(server, "completions-empty")
    for number in (1, 2):
        session = answers.Session(server.id(f"<session_{number}>", "completions-empty"), "s", target.id)
        shown: list[str] = []
        if number == 1:
            given = answers.ask(api, target, "qqqq zzzz wwww", session)
        else:
            given = answers.ask_stream(api, target, "qqqq zzzz wwww", shown.append, session)
            assert "".join(shown) == "Nothing found."
        assert (given.text, given.sources) == ("Nothing found.", ())
    assert server.problems == []


def test_a_model_that_is_down_is_an_error_in_every_form(recorded: Start) -> None:
    server = recorded("llm-down")
    api = connect(server)
    for number, question in ((1, "What is the launch code name?"), (2, "Say hello.")):
        target = chat(server, "llm-down", number)
        session = answers.Session(server.id(f"<session_{number}>", "llm-down"), "s", target.id)
        for streamed in (False, True):
            with pytest.raises(RfctlError) as caught:
                if streamed:
                    answers.ask_stream(api, target, question, lambda _: None, session)
                else:
                    answers.ask(api, target, question, session)
            assert caught.value.id == "chat.model-failed"
            assert "connect" in str(caught.value.params["detail"])
    assert server.problems == []


def test_errors_before_a_stream_come_as_json(recorded: Start) -> None:
    server = recorded("completions-errors")
    api, target = connect(server), chat(server, "completions-errors")
    session = answers.Session("0" * 32, "s", target.id)
    with pytest.raises(ServerError, match="Session not found"):
        answers.ask_stream(api, target, "What is the launch code name?", lambda _: None, session)
    with pytest.raises(ServerError) as caught:
        foreign = Chat("0" * 32, "x", "m", (), ())
        answers.ask(api, foreign, "What is the launch code name?", session)
    assert caught.value.id == "ragflow.not-yours"


def test_a_refused_key_is_an_authentication_error(recorded: Start) -> None:
    server = recorded("auth-errors")
    with pytest.raises(AuthError) as caught:
        Api(server.url, "ragflow-wrong-key").call("GET", "/datasets")
    # Nobody recorded that key: the server knows no such exchange, or it answers 401.
    assert caught.value.exit_code == 4


def test_a_log_gives_its_most_telling_line() -> None:
    log = "\n10:00:00 Task received.\n10:00:01 Page(1~1): [ERROR]File size exceeds( <= 128Mb )\n10:00:02 x"
    cause = judge(Document("a" * 32, "big.pdf", 1, "FAIL", -1.0, log))
    assert cause is not None and cause.id == "upload.parser-too-large"
    assert cause.params["detail"] == "Page(1~1): [ERROR]File size exceeds( <= 128Mb )"


def test_names_that_the_server_would_refuse_are_refused_here(recorded: Start) -> None:
    server = recorded("datasets-create")
    api = connect(server)
    for name in ("", "   ", "数" * 43, "a\nb"):
        with pytest.raises(UsageError, match=r"dataset\.name-invalid"):
            create_dataset(api, name)
    with pytest.raises(UsageError, match=r"chat\.name-invalid"):
        create_chat(api, "数" * 86, [])
    assert server.lines == []


def test_what_the_engine_says_of_a_document_is_said_in_chinese_too() -> None:
    said = RfctlError("document.corrupt", name="x.pdf", detail="Data format error").text()
    log = f"\n10:00:00 Page(1~2): [ERROR][document.corrupt]: {said.message} ({said.why})"
    cause = judge(Document("1", "a b.pdf", 3, "FAIL", log=log))
    assert cause is not None and cause.id == "document.corrupt"
    assert cause.text("zh").message.startswith("a b.pdf")
    assert cause.text("zh").message != cause.text("en").message
    strange = judge(Document("1", "a.pdf", 3, "FAIL", log="\n10:00:00 [ERROR][document.corrupt]: else"))
    assert strange is not None and strange.id == "upload.parse-failed"
