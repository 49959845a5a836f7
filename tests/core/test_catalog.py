"""The catalogs are complete: every id that the code names exists, in both languages, with the same fields."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest

from rfctl.core.catalog import LANGUAGES, entries, read_back, render
from rfctl.core.error import UsageError, VerdictError

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    *(ROOT / "src").rglob("*.py"),
    *(ROOT / "converter").rglob("*.py"),
    *(ROOT / "ragflow_client").rglob("*.py"),
]
# Methods of an output or a reporter whose first argument is a catalog id.
METHODS = {"note", "warn", "say", "text", "stage"}
SPEAKERS = {"out", "reporter", "_reporter"}


def named_ids() -> set[tuple[str, str]]:
    """(file, id) for every literal id given to an error class or to an output or reporter method."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args or not takes_id(node.func):
                continue
            first = node.args[0]
            literals = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
            for literal in literals:
                value = literal.value if isinstance(literal, ast.Constant) else None
                if isinstance(value, str) and "." in value and " " not in value:
                    found.add((path.name, value))
    return found


def takes_id(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        base = function.value
        speaker = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
        return function.attr in METHODS and speaker in SPEAKERS
    return isinstance(function, ast.Name) and function.id.endswith("Error")


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_the_scan_sees_the_code() -> None:
    ids = {id for _, id in named_ids()}
    assert {"config.profile-unknown", "core.bug", "cli.usage"} <= ids


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_named_id_has_a_text(language: str) -> None:
    missing = sorted(f"{file}: {id}" for file, id in named_ids() if id not in entries(language))
    assert missing == []


def test_every_error_says_what_to_do_next() -> None:
    spoken = {"cli.not-confirmed"}  # the user's own decision
    errors = {
        node.args[0].value
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id.endswith("Error")
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    }
    known = entries("en")
    silent = sorted(id for id in errors - spoken if id in known and not known[id].get("next"))
    assert silent == []


def test_both_languages_have_the_same_ids() -> None:
    assert sorted(entries("en")) == sorted(entries("zh"))


def test_both_languages_use_the_same_fields() -> None:
    different = []
    for id, english in entries("en").items():
        chinese = entries("zh")[id]
        for name in ("message", "why", "next"):
            if bool(english.get(name)) != bool(chinese.get(name)):
                different.append(f"{id}.{name}: only one language has it")
        all_english = set().union(*(fields(text) for text in english.values()))
        all_chinese = set().union(*(fields(text) for text in chinese.values()))
        if all_english != all_chinese:
            different.append(f"{id}: {all_english ^ all_chinese}")
    assert different == []


def test_chinese_texts_are_chinese() -> None:
    latin = [
        id
        for id, entry in entries("zh").items()
        if fields(entry["message"]) == set()
        and not any("\u4e00" <= char <= "\u9fff" for char in entry["message"])
    ]
    assert latin == []


def test_an_error_renders_in_both_languages() -> None:
    error = UsageError("config.profile-unknown", profile="work", known="embedded")
    assert str(error) == "config.profile-unknown: There is no profile called work"
    assert error.text("zh").message == "没有名为 work 的配置档"
    assert error.exit_code == 2
    assert VerdictError("core.bug", exit_code=6, detail="x").exit_code == 6


def test_a_value_cannot_reach_into_objects() -> None:
    text = render("core.bug", "en", {"detail": "{0.__class__} {detail}"})
    assert text.message == "rfctl hit a bug: {0.__class__} {detail}"


def test_a_missing_value_or_id_is_shown_not_raised() -> None:
    assert render("config.profile-unknown", "en", {}).message == "There is no profile called {profile}"
    assert render("no.such-id", "en", {"a": 1}).message == "no.such-id (a=1)"


def test_names_in_a_command_are_quoted_and_in_prose_they_are_not() -> None:
    text = render(
        "upload.stalled", "en", {"name": "a b.pdf", "dataset": "my kb", "seconds": 3, "detail": "x"}
    )
    assert text.message == "Parsing of a b.pdf did not move for 3 s and was stopped"
    assert 'rfctl kb parse --kb "my kb" "a b.pdf"; ' in text.next
    empty = render("kb.empty", "en", {"name": "my {kb}"})
    assert empty.message == 'my {kb} has no documents yet: rfctl kb upload FILE --kb "my {kb}"'
    assert render("kb.empty", "zh", {"name": "手册"}).message.endswith("--kb 手册")


def test_a_rendered_message_gives_its_values_back() -> None:
    values = {"name": "a (1).pdf", "detail": "Data format error"}
    text = render("document.corrupt", "en", values)
    assert read_back("document.corrupt", f"{text.message} ({text.why})") is not None
    assert read_back("document.corrupt", text.message) == values
    assert read_back("document.corrupt", "something else") is None
    assert read_back("no.such-id", text.message) is None
