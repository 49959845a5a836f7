"""Every page of help, read as an editor reads it: sentences, examples, defaults, both languages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from rfctl.cli.app import App
from rfctl.cli.command import examples
from rfctl.cli.root import root
from rfctl.core.catalog import entries

COMMON = {"json_mode", "output_mode", "quiet", "language", "profile"}
# The way from a model and a folder of documents to an answer, and what people ask about first.
MAIN = {
    "demo",
    "doctor",
    "model.check",
    "model.convert",
    "model.push",
    "model.verify",
    "kb.create",
    "kb.upload",
    "kb.sync",
    "kb.search",
    "chat.create",
    "chat.ask",
    "chat.talk",
    "eval.run",
    "stack.init",
    "profile.add",
}


def walk(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            verb = command.get_command(context, name)
            assert verb is not None
            yield from walk(verb, (*path, name))


TREE = dict(walk(root))


def help_of(key: str, language: str, part: str = "message") -> str:
    return entries(language).get(f"help.{key}", {}).get(part, "")


@pytest.mark.parametrize(("language", "end"), [("en", "."), ("zh", "。")])
def test_options_are_sentences_and_titles_are_not(language: str, end: str) -> None:
    wrong = []
    for path, command in TREE.items():
        key = ".".join(path)
        if path and help_of(key, language).endswith((".", "。")):
            wrong.append(f"{key}: a title has no end")
        about = help_of(key, language, "why")
        if about and not about.endswith(end):
            wrong.append(f"{key}: {about}")
        for option in command.params:
            if not isinstance(option, click.Option):
                continue
            name = "help" if "--help" in option.opts else option.name
            text = help_of(f"{key}.{name}", language) or help_of(f"option.{name}", language)
            if not text.endswith(end) or (language == "en" and text[0].isalpha() and "  " in text):
                wrong.append(f"{key} {option.opts[-1]}: {text!r}")
    assert wrong == []


def test_examples_are_command_lines_that_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed by the command tree itself, up to the point where the command would run."""
    monkeypatch.chdir(tmp_path)
    for folder in ("my-model", "my-lora", "base", "docs", "bge-m3", "usb"):
        (tmp_path / folder).mkdir()
    for name in ("manual.pdf", "mine.gguf", "theirs.gguf", "my-model.gguf", "Modelfile", "questions.toml"):
        (tmp_path / name).write_bytes(b"")
    assert len(examples()) > 25
    for key, lines in examples().items():
        assert tuple(key.split(".")) in TREE, key
        for line in lines:
            program, *words = shlex.split(line)
            assert program == "rfctl"
            context = root.make_context("rfctl", words, obj=App())
            command: click.Command = root
            while isinstance(command, click.Group):
                name, verb, rest = command.resolve_command(context, [*context._protected_args, *context.args])
                assert verb is not None, line
                context = verb.make_context(name, rest, parent=context)
                command = verb
            shown = ".".join(context.command_path.split()[1:])
            assert shown == key, line


def test_the_main_commands_have_examples_and_the_page_shows_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rfctl.cli.root import execute

    assert set(examples()) >= MAIN
    monkeypatch.setenv("COLUMNS", "60")
    for language, heading in (("en", "Examples:"), ("zh", "示例:")):
        assert execute(["--lang", language, "model", "convert", "--help"]) == 0
        page = capsys.readouterr().out
        assert page.endswith(
            f"\n{heading}\n" + "".join(f"  {line}\n" for line in examples()["model.convert"])
        )


def test_every_default_is_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    from rfctl.cli.root import execute

    for path, command in TREE.items():
        wanted = [
            option
            for option in command.params
            if isinstance(option, click.Option)
            and option.name not in COMMON
            and not option.is_flag
            and isinstance(option.default, str | int | float)
            and option.default not in ("", 0)
        ]
        if not wanted:
            continue
        for language, word in (("en", "default"), ("zh", "默认")):
            assert execute(["--lang", language, *path, "--help"]) == 0
            page = re.sub(r"\s+", "", capsys.readouterr().out)
            assert page.count(word) >= len(wanted), (path, language)
    assert execute(["eval", "run", "--help", "--lang", "en"]) == 0
    page = capsys.readouterr().out
    assert "[default: 6]" in page and "[default: 0.2]" in page
    assert "INTEGER" not in page and "RANGE" not in page and "[x>=" not in page
