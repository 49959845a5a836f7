"""`rfctl kb`: whole output and exit code."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ragflow_command import KEY, Bench, Run, serving

PROGRESS = "Looking at the files …\nUploading …\nParsing …\n"


@pytest.fixture
def kb(tmp_path: Path, rfctl: Run, golden: Path) -> Iterator[Run]:
    """`rfctl` in a folder `manuals` beside the recorded files."""
    shutil.copytree(golden / "ragflow" / "fixtures", tmp_path / "manuals")
    for path in (tmp_path / "manuals").iterdir():
        path.chmod(0o644)
    with serving(tmp_path, rfctl) as (_, run):
        yield run


def test_one_file_needs_no_other_word(kb: Run) -> None:
    result = kb("kb", "upload", "manuals/handbook.pdf")
    assert (result.code, result.out) == (
        0,
        "DOCUMENT      RESULT  PAGES  CHUNKS\n"
        "handbook.pdf  parsed  2      2\n"
        "\n"
        "1 of 1 documents are in manuals\n",
    )
    assert result.err == "No knowledge base yet: created manuals\n" + PROGRESS
    again = kb("kb", "upload", "manuals/handbook.pdf", "-q")
    assert (again.code, again.err) == (0, "")
    assert "handbook.pdf  unchanged  2      2" in again.out
    listed = kb("kb", "ls")
    assert listed.out == (
        "NAME     DOCUMENTS  CHUNKS  EMBEDDING MODEL\n"
        "manuals  1          2       all-minilm:latest@local@Ollama\n"
    )


def test_the_same_content_twice_is_kept_and_said(kb: Run, tmp_path: Path) -> None:
    for name, text in (("a.txt", "warranty"), ("b.txt", "warranty"), ("c.txt", "warrants")):
        (tmp_path / "manuals" / name).write_text(text, encoding="utf-8")
    result = kb("kb", "upload", *(f"manuals/{name}.txt" for name in "abc"))
    assert result.code == 0, result.err
    assert "Same content in 2 documents, all were kept: a.txt, b.txt\n" in result.err
    assert "3 of 3 documents are in manuals" in result.out


def test_bad_files_never_stop_the_others(kb: Run) -> None:
    names = ("blank", "corrupt", "encrypted", "handbook", "zero")
    result = kb("kb", "upload", *(f"manuals/{name}.pdf" for name in names), "manuals/program.exe")
    assert result.code == 6
    assert result.out == (
        "DOCUMENT       RESULT  PAGES  CHUNKS\n"
        "blank.pdf      failed  1      -\n"
        "corrupt.pdf    failed  -      -\n"
        "encrypted.pdf  failed  -      -\n"
        "handbook.pdf   parsed  2      2\n"
        "zero.pdf       failed  -      -\n"
        "program.exe    failed  -      -\n"
        "\n"
        "error[upload.blank]: blank.pdf has no text: 1 empty pages\n"
        "  next: Check that it is the right file\n"
        "\n"
        "error[upload.corrupt]: corrupt.pdf is damaged and cannot be opened\n"
        "  why: Failed to load document (PDFium: Data format error).\n"
        "  next: Open it in a PDF viewer; if that works, save a copy there and upload the copy\n"
        "\n"
        "error[upload.encrypted]: encrypted.pdf is protected by a password\n"
        "  why: Its text cannot be read without the password\n"
        "  next: qpdf --decrypt --password-file=FILE encrypted.pdf open.pdf, then upload open.pdf\n"
        "\n"
        "error[upload.empty]: zero.pdf is empty (0 bytes)\n"
        "  why: Often a copy or download that was cut off\n"
        "  next: Get the file again\n"
        "\n"
        "error[upload.type-unsupported]: The server cannot parse .exe files (program.exe)\n"
        "  next: Convert it to PDF or text\n"
        "\n"
        "1 of 6 documents are in manuals\n"
    )
    assert result.err == "No knowledge base yet: created manuals\n" + PROGRESS + (
        "error[upload.partly-failed]: 5 of 6 files could not be added to manuals; 1 are done\n"
        "  why: The causes are above\n"
        "  next: Mend these files and run the same command again: what is done is left alone\n"
        "  rfctl explain upload.partly-failed\n"
    )


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("corrupt.pdf", "upload.corrupt"),
        ("encrypted.pdf", "upload.encrypted"),
        ("zero.pdf", "upload.empty"),
        ("blank.pdf", "upload.blank"),
        ("not-a-pdf.pdf", "upload.not-a-pdf"),
        ("nothing.pdf", "upload.missing"),
    ],
)
def test_a_single_bad_file_is_the_error_itself(kb: Run, name: str, id: str) -> None:
    result = kb("kb", "upload", f"manuals/{name}", "-q")
    assert (result.code, result.out) == (2 if id == "upload.missing" else 1, "")
    assert result.err.startswith(f"error[{id}]: ")
    assert f"rfctl explain {id}" in result.err


def test_json_holds_every_file_and_its_cause(kb: Run) -> None:
    result = kb("kb", "upload", "manuals/handbook.pdf", "manuals/corrupt.pdf", "--json")
    assert result.code == 6
    document = json.loads(result.out)
    assert document["schema_version"] == 1
    assert document["knowledge_base"] == "manuals"
    good, bad = document["documents"]
    assert (good["status"], good["pages"], good["chunks"], good["error"]) == ("parsed", 2, 2, None)
    assert (bad["status"], bad["error"]["id"]) == ("failed", "upload.corrupt")
    assert json.loads(result.err)["error"]["exit_code"] == 6


def test_search_shows_scores_and_pages(kb: Run) -> None:
    kb("kb", "upload", "manuals/handbook.pdf")
    result = kb("kb", "search", "What is the launch code name?", "--limit", "1")
    assert result.code == 0
    head, passage = result.out.splitlines()
    assert head.startswith("[1] handbook.pdf, page 1  0.")
    assert passage.startswith("    Project Aurora Handbook 1. Overview")
    document = json.loads(kb("kb", "search", "launch", "--json").out)
    assert document["sources"][0]["pages"] == [1]
    assert document["sources"][0]["box"]["page"] == 1
    chinese = kb("kb", "search", "launch", "--lang", "zh")
    assert "[1] handbook.pdf, 第 1 页" in chinese.out


def test_create_show_docs_and_rm(kb: Run) -> None:
    created = kb("kb", "create", "docs", "--chunk-tokens", "64", "--layout", "Plain Text")
    assert (created.code, created.out) == (
        0,
        "Created the knowledge base docs (embedding model all-minilm:latest@local@Ollama)\n",
    )
    for options in ((), ("--chunk-tokens", "64")):
        assert kb("kb", "create", "docs", *options).out.startswith("The knowledge base docs is there already")
    other = kb("kb", "create", "docs", "--chunk-tokens", "128", "--layout", "Plain Text")
    assert (other.code, other.err) == (
        2,
        "error[kb.other-settings]: "
        "The knowledge base docs is there already with other settings: --chunk-tokens\n"
        "  next: rfctl kb edit docs --chunk-tokens ...\n"
        "  rfctl explain kb.other-settings\n",
    )
    assert kb("kb", "docs").err == "docs has no documents yet: rfctl kb upload FILE --kb docs\n"
    kb("kb", "upload", "manuals/note.txt", "--kb", "docs")
    (line,) = kb("kb", "docs", "docs").out.splitlines()[1:]
    assert line.split()[:5] == ["note.txt", "DONE", "101", "B", "1"]
    shown = kb("kb", "show", "docs").out
    assert "CHUNK TOKENS     64\n" in shown
    assert "LAYOUT           Plain Text\n" in shown
    refused = kb("kb", "rm", "docs")
    assert (refused.code, refused.err.splitlines()[0][:24]) == (7, "error[cli.needs-yes]: Th")
    assert kb("kb", "rm", "docs", "--yes").out == "Removed the knowledge base docs\n"
    assert json.loads(kb("kb", "ls", "--json").out) == []
    missing = kb("kb", "rm", "docs", "--yes")
    assert missing.code == 2
    assert missing.err.startswith("error[dataset.unknown]: There is no knowledge base called docs\n")


def test_several_knowledge_bases_need_a_choice(kb: Run) -> None:
    kb("kb", "create", "one")
    kb("kb", "create", "two")
    result = kb("kb", "upload", "manuals/note.txt")
    assert result.code == 2
    assert result.err == (
        "error[kb.not-chosen]: There are several knowledge bases\n"
        "  why: two, one\n"
        "  next: Name one with --kb, or set a default: rfctl config set kb.default NAME\n"
        "  rfctl explain kb.not-chosen\n"
    )
    assert kb("kb", "upload", "manuals/note.txt", env={"RFCTL_KB": "two"}).code == 0


def test_a_changed_file_is_replaced_only_on_wish(kb: Run, tmp_path: Path) -> None:
    path = tmp_path / "manuals" / "note.txt"
    kb("kb", "upload", str(path))
    path.write_text("Something else.")
    refused = kb("kb", "upload", str(path), "-q")
    assert (refused.code, refused.err.splitlines()[0]) == (
        1,
        "error[upload.name-taken]: manuals has a document note.txt with other content",
    )
    assert f"next: rfctl kb upload --replace {path} --kb manuals" in refused.err
    replaced = kb("kb", "upload", str(path), "--replace", "-q")
    assert "note.txt  replaced" in replaced.out


def test_servers_that_cannot_be_used(rfctl: Run, tmp_path: Path) -> None:
    def run(**env: str) -> Any:
        return rfctl("kb", "ls", env={"OLLAMA_HOST": "127.0.0.1:9", **env})

    away = run(RAGFLOW_BASE_URL="http://127.0.0.1:9", RAGFLOW_API_KEY="ragflow-x")
    assert (away.code, away.err.splitlines()[0]) == (
        3,
        "error[ragflow.unreachable]: The RAGFlow server does not answer: http://127.0.0.1:9/api/v1/system/version",
    )
    keyless = run(RAGFLOW_BASE_URL="http://127.0.0.1:9")
    assert (keyless.code, keyless.err.split(":")[0]) == (2, "error[config.key-missing]")
    with serving(tmp_path, rfctl) as (engine, _):
        wrong = run(RAGFLOW_BASE_URL=engine.url, RAGFLOW_API_KEY="ragflow-" + "w" * 43)
        assert (wrong.code, wrong.err.split(":")[0]) == (4, "error[ragflow.key-refused]")
        assert "www" not in wrong.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_upload_goes_on(
    tmp_path: Path, rfctl: Run, environment: dict[str, str], golden: Path, kind: signal.Signals
) -> None:
    path = golden / "ragflow" / "fixtures" / "handbook.pdf"
    with serving(tmp_path, rfctl) as (engine, run):
        run("kb", "create", "docs")
        engine.double.gate.clear()
        process = subprocess.Popen(
            [sys.executable, "-m", "rfctl.cli.main", "kb", "upload", str(path)],
            env=environment | {"RAGFLOW_BASE_URL": engine.url, "RAGFLOW_API_KEY": KEY},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        deadline = time.monotonic() + 20
        while not any(one["run"] == "RUNNING" for one in _documents(engine)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(kind)
        _, errors = process.communicate(timeout=10)
        if kind == signal.SIGINT:
            assert process.returncode == 130
            assert errors.splitlines()[-3].startswith("error[core.interrupted]: ")
        engine.double.gate.set()
        result = run("kb", "upload", str(path), "-q")
        assert result.code == 0
        assert [(one["name"], one["run"]) for one in _documents(engine)] == [("handbook.pdf", "DONE")]


def _documents(engine: Bench) -> list[dict[str, Any]]:
    (dataset,) = engine.call("GET", "/datasets")
    found = engine.call("GET", f"/datasets/{dataset['id']}/documents")
    docs: list[dict[str, Any]] = found["docs"]
    return docs


def test_a_folder_a_pattern_and_standard_input(kb: Run, tmp_path: Path) -> None:
    folder = tmp_path / "papers"
    (folder / "old").mkdir(parents=True)
    for name in ("one.txt", "two.md", "old/one.txt", ".secret.txt", "picture.png"):
        (folder / name).write_text(f"The heron of {name} is grey.")
    result = kb("kb", "upload", "papers")
    assert (result.code, result.out) == (
        0,
        "DOCUMENT       RESULT  PAGES  CHUNKS\n"
        "old - one.txt  parsed  -      1\n"
        "one.txt        parsed  -      1\n"
        "two.md         parsed  -      1\n"
        "\n"
        "3 of 3 documents are in papers\n",
    )
    assert result.err.startswith(
        "Left out: 1 hidden files or folders\n"
        "Left out: 1 files that are no documents; name them to upload them all the same\n"
        "No knowledge base yet: created papers\n"
    )
    again = kb("kb", "upload", "papers/*.md", "-q")
    assert "two.md    unchanged" in again.out
    piped = kb("kb", "upload", "-", "--name", "note.txt", "-q", "--json", stdin="The heron eats fish.")
    (document,) = json.loads(piped.out)["documents"]
    assert (document["path"], document["name"], document["status"]) == ("-", "note.txt", "parsed")
    for arguments in (("-",), ("-", "--name", "a/b.txt"), ("papers/one.txt", "--name", "x.txt")):
        assert kb("kb", "upload", *arguments, stdin="x").code == 2


def test_edit_changes_only_what_is_given(kb: Run) -> None:
    made = kb("kb", "create", "docs", "--chunk-tokens", "64", "--pages", "1-3,5", "--auto-keywords", "2")
    assert made.code == 0
    assert kb("kb", "upload", "manuals/note.txt", "-q").code == 0

    def config() -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(kb("kb", "show", "--json").out)["knowledge_base"]
        return shown

    assert config()["parser_config"]["pages"] == [[1, 4], [5, 6]]
    result = kb("kb", "edit", "docs", "--layout", "Plain Text", "--name", "papers", "--pages", "all")
    assert (result.code, result.out) == (0, "Changed the knowledge base papers\n")
    assert result.err == (
        "1 documents keep what they were cut into; rfctl kb sync DIR parses its documents anew\n"
    )
    stored = config()
    assert stored["name"] == "papers"
    assert (stored["parser_config"]["layout_recognize"], stored["parser_config"]["pages"]) == (
        "Plain Text",
        None,
    )
    assert (stored["parser_config"]["chunk_token_num"], stored["parser_config"]["auto_keywords"]) == (64, 2)
    again = kb("kb", "edit", "papers", "--layout", "Plain Text", "--no-raptor")
    assert again.out == "The knowledge base papers is so already\n"
    for wrong in ((), ("--pages", "3-"), ("--pages", "5-2"), ("--chunk-method", "x"), ("--layout", " ")):
        assert kb("kb", "edit", "papers", *wrong).code == 2


def test_documents_are_parsed_again_with_other_settings(kb: Run, golden: Path) -> None:
    fixtures = golden / "ragflow" / "fixtures"
    kb("kb", "create", "docs")
    files = [str(fixtures / name) for name in ("handbook.pdf", "note.txt")]
    assert kb("kb", "upload", *files, "--no-parse", "-q").code == 0
    assert kb("kb", "search", "launch code name", "-q").out == ""
    first = kb("kb", "parse", "-q")
    assert first.code == 0
    rows = [line.split() for line in first.out.splitlines()[1:3]]
    assert sorted(row[:2] for row in rows) == [["handbook.pdf", "parsed"], ["note.txt", "parsed"]]
    assert kb("kb", "parse").out == "Every document of docs can be searched already\n"
    many = json.loads(kb("kb", "parse", "handbook.pdf", "--chunk-tokens", "32", "--json").out)
    (item,) = many["documents"]
    assert (item["name"], item["status"]) == ("handbook.pdf", "parsed")
    whole = json.loads(kb("kb", "parse", "handbook.pdf", "--chunk-tokens", "1024", "--json").out)
    assert item["chunks"] > whole["documents"][0]["chunks"] >= 1
    missing = kb("kb", "parse", "nothing.pdf")
    assert (missing.code, missing.err.split(":")[0]) == (2, "error[upload.document-unknown]")


def test_single_documents_are_removed(kb: Run, golden: Path) -> None:
    fixtures = golden / "ragflow" / "fixtures"
    kb("kb", "create", "docs")
    kb("kb", "upload", str(fixtures / "handbook.pdf"), str(fixtures / "note.txt"), "--no-parse", "-q")
    refused = kb("kb", "rm", "docs", "note.txt")
    assert refused.code == 7
    assert "Remove from docs: note.txt" in refused.err
    assert kb("kb", "rm", "docs", "note.txt", "gone.txt", "--yes").code == 2
    done = kb("kb", "rm", "docs", "note.txt", "--yes")
    assert (done.code, done.out) == (0, "Removed 1 documents from docs\n")
    names = [one["name"] for one in json.loads(kb("kb", "docs", "--json").out)]
    assert names == ["handbook.pdf"]
