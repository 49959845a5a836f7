"""Pages that exist in both languages say the same, and every command in them is one that rfctl knows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from rfctl.cli.app import App
from rfctl.cli.root import root

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(rfctl [^`]+)`")
NAMES = ("windows.md", "scale.md", "stack.md")
PAGES = [(ROOT / "docs/en" / name, ROOT / "docs/zh" / name) for name in NAMES] + [
    (ROOT / "deploy" / name / "README.md", ROOT / "deploy" / name / "README.zh-CN.md")
    for name in ("k8s", "linux", "tunnel")
]
IDS = [str(english.relative_to(ROOT)) for english, _ in PAGES]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def headings(text: str) -> list[tuple[int, str]]:
    """Level and number ("3." of "3. Do the steps") of every heading; the words differ by language."""
    found = re.findall(r"^(#+) (\d+\.)?", BLOCK.sub("", text), re.MULTILINE)
    return [(len(marks), number) for marks, number in found]


def tables(text: str) -> list[int]:
    """Cells of every row of a table."""
    rows = re.findall(r"^\|.*\|$", BLOCK.sub("", text), re.MULTILINE)
    return [row.count("|") for row in rows]


@pytest.mark.parametrize(("english", "chinese"), PAGES, ids=IDS)
def test_both_languages_say_the_same(english: Path, chinese: Path) -> None:
    one, other = read(english), read(chinese)
    assert headings(one) == headings(other)
    assert BLOCK.findall(one) == BLOCK.findall(other)
    assert tables(one) == tables(other)
    assert sorted(INLINE.findall(one)) == sorted(INLINE.findall(other))
    assert len(re.findall(r"^(?:- |\d+\. )", one, re.MULTILINE)) == len(
        re.findall(r"^(?:- |\d+\. )", other, re.MULTILINE)
    )
    assert len(re.findall(r"[\u4e00-\u9fff]", other)) > 300


@pytest.mark.parametrize(("english", "chinese"), PAGES, ids=IDS)
def test_links_lead_somewhere(english: Path, chinese: Path) -> None:
    for page in (english, chinese):
        for target in re.findall(r"\]\(([^)#]+)\)", read(page)):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def commands() -> list[str]:
    found = set()
    for english, _ in PAGES:
        text = read(english)
        lines = [line for _, body in BLOCK.findall(text) for line in body.splitlines()]
        for line in [*lines, *INLINE.findall(BLOCK.sub("", text))]:
            found |= {
                part.strip()
                for part in re.split(r"; |;$|\bdo\b|&&", line)
                if part.strip().startswith("rfctl ")
            }
    return sorted(found)


def test_the_pages_have_commands() -> None:
    assert {"rfctl stack up", "rfctl deploy wsl plan", "rfctl apply -p docker"} <= set(commands())


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_pages_is_one_of_ours(line: str) -> None:
    """Every word is taken apart by click: nouns, verbs, options and their values; nothing is run."""
    context = click.Context(root, info_name="rfctl", obj=App())
    command: click.Command = root
    words = shlex.split(line)[1:]
    while isinstance(command, click.Group):
        place = next(
            index
            for index, word in enumerate(words)
            if not word.startswith("-") and index_is_free(words, index)
        )
        name = words.pop(place)
        found = command.get_command(context, name)
        assert found is not None, f"{line}: no {name}"
        command = found
        context = click.Context(command, info_name=name, parent=context)
    command.make_parser(context).parse_args(args=list(words))


def index_is_free(words: list[str], index: int) -> bool:
    """Whether a word is none of the values of `-p` or `--profile`."""
    return index == 0 or words[index - 1] not in ("-p", "--profile", "--lang")
