"""`rfctl chat`: whole output and exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ragflow_command import Run, serving

from rfctl.core.redact import MASK


@pytest.fixture
def chat(tmp_path: Path, rfctl: Run, golden: Path) -> Iterator[Run]:
    """`rfctl` with a knowledge base `docs` that holds the recorded handbook and note."""
    fixtures = golden / "ragflow" / "fixtures"
    with serving(tmp_path, rfctl) as (engine, run):
        run("kb", "create", "docs")
        done = run("kb", "upload", str(fixtures / "handbook.pdf"), str(fixtures / "note.txt"))
        assert done.code == 0, done.err
        run.__dict__["engine"] = engine
        yield run


def test_a_question_needs_no_other_word(chat: Run) -> None:
    result = chat("chat", "ask", "What is the launch code name?")
    assert result.code == 0
    assert result.err == "No assistant yet: created docs over docs\ndocs is thinking …\n"
    answer, empty, heading, source, passage, *others = result.out.splitlines()
    assert (answer, empty, heading) == ("The launch code name is Heron. [1]", "", "Sources:")
    assert others == []
    assert source.startswith("  [1] handbook.pdf, page 1  (0.")
    assert passage.startswith("      Project Aurora Handbook 1. Overview Project Aurora")
    assert len(passage) <= 96
    streamed = chat("chat", "ask", "What is the launch code name?", "--stream")
    assert streamed.out == result.out


def test_json_holds_the_sources(chat: Run) -> None:
    result = chat("chat", "ask", "What is the launch code name?", "--json")
    assert (result.code, result.err) == (0, "")
    document = json.loads(result.out)
    assert (document["chat"], document["answer"]) == ("docs", "The launch code name is Heron. [1]")
    first = document["sources"][0]
    assert (first["number"], first["document"], first["pages"], first["cited"]) == (
        1,
        "handbook.pdf",
        [1],
        True,
    )
    assert first["similarity"] > 0.5
    assert MASK not in document["session_id"]


def test_an_answer_without_marks_shows_what_the_model_was_given(chat: Run) -> None:
    chat.__dict__["engine"].double.answer = "Heron, surely; see [ID:77]."
    result = chat("chat", "ask", "What is the launch code name?", "-q")
    assert result.code == 0
    assert "[ID" not in result.out
    assert "  [1] handbook.pdf, page 1" in result.out


def test_create_ls_and_rm(chat: Run) -> None:
    created = chat("chat", "create", "helper", "--kb", "docs", "--model", "smollm2:135m")
    assert (created.code, created.out) == (
        0,
        "Created the assistant helper (smollm2:135m@local@Ollama) over docs\n",
    )
    assert chat("chat", "create", "helper", "--kb", "docs").out.startswith(
        "The assistant helper is there already"
    )
    assert chat("chat", "ls").out == (
        "NAME    MODEL                      KNOWLEDGE BASES\nhelper  smollm2:135m@local@Ollama  docs\n"
    )
    other = chat("chat", "create", "helper", "--kb", "docs", "--model", "qwen2.5-coder:1.5b")
    assert (other.code, other.err.split(":")[0]) == (2, "error[chat.other-model]")
    assert chat("chat", "ask", "helper", "Who?", "-q").code == 0
    assert chat("chat", "rm", "helper").code == 7
    assert chat("chat", "rm", "helper", "--yes").out == "Removed the assistant helper\n"
    assert chat("chat", "ls").out == ""


def test_what_is_not_there_is_named(chat: Run) -> None:
    result = chat("chat", "ask", "nobody", "Who?")
    assert result.code == 2
    assert result.err == (
        "error[chat.unknown]: There is no assistant called nobody\n"
        "  why: There are: -\n"
        "  next: rfctl chat create nobody --kb NAME\n"
        "  rfctl explain chat.unknown\n"
    )
    unquoted = chat("chat", "ask", "how", "long", "is", "it")
    assert unquoted.err.startswith("error[chat.too-many-words]: 4 arguments, but a question is one\n")
    model = chat("chat", "create", "x", "--kb", "docs", "--model", "nope")
    assert (model.code, model.err.split(":")[0]) == (2, "error[ragflow.model-unknown]")


def test_a_model_that_fails_is_an_error(chat: Run) -> None:
    chat("chat", "create", "helper", "--kb", "docs", "--model", "smollm2:135m")
    models = chat.__dict__["engine"].double
    models.models = {name: entry for name, entry in models.models.items() if name != "smollm2:135m"}
    result = chat("chat", "ask", "helper", "What is the launch code name?", "-q")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error[chat.model-failed]: helper could not answer: a model failed\n")
    assert result.err.splitlines()[1].startswith("  why: ")


def test_nothing_found_is_said_by_nobody_but_us(chat: Run) -> None:
    question = "zzzz qqqq xxxx"
    engine = chat.__dict__["engine"]
    chat("chat", "create", "fixed", "--kb", "docs")
    asked = len([kind for kind, _ in engine.double.requests if kind == "chat"])
    result = chat("chat", "ask", "fixed", question, "-q")
    assert result.out == (
        "Nothing about this was found in the knowledge base.\n\nNo passage was found for this question\n"
    )
    assert len([kind for kind, _ in engine.double.requests if kind == "chat"]) == asked
    chat("chat", "create", "zh", "--kb", "docs", "--lang", "zh")
    assert chat("chat", "ask", "zh", question, "-q").out.startswith("知识库中没有找到相关内容。\n")
    chat("chat", "create", "free", "--kb", "docs", "--empty-response", "")
    engine.double.answer = "I guess."
    assert chat("chat", "ask", "free", question, "-q").out.startswith("I guess.\n")


def test_talk_goes_on_in_one_session(chat: Run) -> None:
    lines = "What is the launch code name?\n\n/history\n/nonsense\n/help\n/quit\nnever asked\n"
    result = chat("chat", "talk", stdin=lines)
    assert result.code == 0
    answer = "The launch code name is Heron. [1]"
    printed = result.out.splitlines()
    assert printed[:2] == [answer, "Sources:"]
    assert printed[2].startswith("  [1] handbook.pdf, page 1  (0.")
    assert printed[-3:] == [
        "> What is the launch code name?",
        "The launch code name is Heron. [1]",
        "/history shows what was said, /new begins a new conversation, /quit ends",
    ]
    assert "never asked" not in result.out
    notes = result.err.splitlines()
    assert notes[0] == "No assistant yet: created docs over docs"
    assert notes[1] == "docs is listening. /help lists the commands, /quit ends."
    assert "warning: There is no command /nonsense; /help lists them" in notes
    session = notes[-1].split()[-1]
    resumed = chat("chat", "talk", "--session", session, "--json", stdin="And its mascot?")
    document = json.loads(resumed.out)
    assert (document["session_id"], len(document["turns"])) == (session, 1)
    assert document["turns"][0]["sources"][0]["document"]
    history = chat("chat", "talk", "--session", session, "-q", stdin="").out
    assert [line for line in history.splitlines() if line.startswith("> ")] == [
        "> What is the launch code name?",
        "> And its mascot?",
    ]
    for wrong in ("nonsense", "0" * 32):
        assert chat("chat", "talk", "--session", wrong, stdin="").code == 2


def test_talk_survives_a_model_that_fails(chat: Run) -> None:
    chat("chat", "create", "helper", "--kb", "docs", "--model", "smollm2:135m")
    models = chat.__dict__["engine"].double
    models.models = {name: entry for name, entry in models.models.items() if name != "smollm2:135m"}
    result = chat("chat", "talk", "helper", "-q", stdin="What is the launch code name?\n/help\n")
    assert result.code == 1
    assert result.out.startswith("/history")
    assert result.err.startswith("error[chat.model-failed]: ")


def test_an_assistant_is_edited_from_flags_and_from_a_file(chat: Run, tmp_path: Path) -> None:
    file = tmp_path / "helper.toml"
    file.write_text(
        'kb = ["docs"]\nmodel = "smollm2:135m"\nsystem = "Use {braces}.\\n{knowledge}"\ntop_n = 4\n',
        encoding="utf-8",
    )
    made = chat("chat", "create", "helper", "--file", str(file), "--opener", "你好")
    assert (made.code, made.out) == (
        0,
        "Created the assistant helper (smollm2:135m@local@Ollama) over docs\n",
    )
    assert chat("chat", "show", "helper").out == (
        "name                      helper\n"
        "kb                        docs\n"
        "model                     smollm2:135m@local@Ollama\n"
        "system                    Use {braces}.\n"
        "                          {knowledge}\n"
        "opener                    你好\n"
        "empty_response            Nothing about this was found in the knowledge base.\n"
        "refine_multiturn          False\n"
        "temperature               0.1\n"
        "top_p                     0.3\n"
        "top_n                     4\n"
        "top_k                     1024\n"
        "similarity_threshold      0.2\n"
        "vector_similarity_weight  0.3\n"
    )
    edited = chat("chat", "edit", "helper", "--file", str(file), "--top-n", "3", "--name", "aide")
    assert (edited.code, edited.out) == (0, "Changed the assistant aide: name, top_n\n")
    again = json.loads(chat("chat", "edit", "aide", "--top-n", "3", "--json").out)
    assert (again["unchanged"], again["changed"]) == (True, [])
    shown = json.loads(chat("chat", "show", "aide", "--json").out)
    assert shown["options"]["system"] == "Use {braces}.\n{knowledge}"
    assert (shown["options"]["top_n"], shown["options"]["opener"]) == (3, "你好")
    assert chat("chat", "edit", "aide", "--model", "qwen2.5-coder:1.5b").out == (
        "Changed the assistant aide: model\n"
    )


def test_settings_that_differ_are_not_passed_over(chat: Run, tmp_path: Path) -> None:
    chat("chat", "create", "helper", "--kb", "docs")
    chat("chat", "create", "other", "--kb", "docs")
    result = chat("chat", "create", "helper", "--kb", "docs", "--top-n", "9", "--temperature", "0.1")
    assert result.code == 2
    assert result.err == (
        "error[chat.other-options]: The assistant helper is there, but with other settings: top_n\n"
        "  why: Creating leaves one that is there as it is\n"
        "  next: rfctl chat edit helper with the same options, or choose another name\n"
        "  rfctl explain chat.other-options\n"
    )
    for arguments, id in (
        (("edit", "helper"), "chat.nothing-to-edit"),
        (("edit", "helper", "--name", "OTHER"), "chat.name-taken"),
        (("edit", "nobody", "--top-n", "3"), "chat.unknown"),
        (("create", "x", "--kb", "docs", "--no-kb"), "chat.kb-and-none"),
        (("show",), "chat.not-chosen"),
        (("create", "x", "--file", str(tmp_path / "none.toml")), "chat.file-unreadable"),
    ):
        refused = chat("chat", *arguments)
        assert (refused.code, refused.err.split(":")[0]) == (2, f"error[{id}]")
    assert "  next: Name one: rfctl chat talk NAME\n" in chat("chat", "talk", stdin="").err
    for text, id in (
        ("temprature = 1", "chat.file-key"),
        ("top_n = 'many'", "dataset.option-invalid"),
        ("top_n = true", "dataset.option-invalid"),
        ("top_n = 1000", "dataset.option-invalid"),
        ("kb = 3", "dataset.option-invalid"),
        ("model = 3", "dataset.option-invalid"),
        ("= 3", "chat.file-broken"),
    ):
        file = tmp_path / "broken.toml"
        file.write_text(text, encoding="utf-8")
        refused = chat("chat", "edit", "helper", "--file", str(file))
        assert (refused.code, refused.err.split(":")[0]) == (2, f"error[{id}]")


def test_an_assistant_without_knowledge_bases_answers_from_the_model(chat: Run) -> None:
    engine = chat.__dict__["engine"]
    made = chat("chat", "create", "bare", "--no-kb", "--system", "Be brief.\n{knowledge}")
    assert (made.code, made.out.split(" over ")[1]) == (0, "-\n")
    engine.double.requests.clear()
    result = chat("chat", "ask", "bare", "What is the launch code name?", "-q")
    assert (result.code, result.err) == (0, "")
    (asked,) = [body for kind, body in engine.double.requests if kind == "chat"]
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert "Aurora" not in json.dumps(asked)
    assert chat("chat", "edit", "bare", "--kb", "docs").out == "Changed the assistant bare: kb\n"
    engine.double.requests.clear()
    assert "Sources:" in chat("chat", "ask", "bare", "What is the launch code name?", "-q").out
    (asked,) = [body for kind, body in engine.double.requests if kind == "chat"]
    assert "Aurora" in json.dumps(asked)
    assert chat("chat", "edit", "bare", "--no-kb").out == "Changed the assistant bare: kb\n"


@pytest.mark.parametrize("options", [(), ("--stream",)])
def test_a_thought_goes_to_standard_error_and_nothing_steers_the_terminal(
    chat: Run, options: tuple[str, ...]
) -> None:
    chat("chat", "create", "helper", "--kb", "docs")
    chat.__dict__[
        "engine"
    ].double.answer = "<think>The \x1b[31mhandbook says it.</think>Her\x1b[2Jon\u202e\x9b1m. [ID:0]"
    result = chat("chat", "ask", "helper", "What is the launch code name?", *options)
    assert result.code == 0
    assert result.out.startswith("Her[2Jon1m. [1]\n\nSources:\n")
    assert "The [31mhandbook says it.\n" in result.err
    document = json.loads(chat("chat", "ask", "helper", "What is the launch code name?", "--json").out)
    assert document["thought"] == "The \x1b[31mhandbook says it."
    assert document["answer"].startswith("Her\x1b[2J")


def test_chat_alone_is_a_conversation(chat: Run) -> None:
    chat("chat", "create", "helper", "--kb", "docs")
    result = chat("chat", stdin="What is the launch code name?\n/quit\n")
    assert result.code == 0
    assert result.out.startswith("The launch code name is Heron. [1]\nSources:\n")
    assert "helper is listening." in result.err
    assert chat("chat", "--help").out.startswith("Usage: rfctl chat [OPTIONS] COMMAND [ARGS]...\n")
