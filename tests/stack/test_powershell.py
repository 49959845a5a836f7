"""The Windows scripts under deploy/: they parse, and they keep the promises of `-WhatIf` and `-Undo`.

No PowerShell runs here: the grammar is tree-sitter's, the rules are ours.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rfctl.core.data import data_folder

tree_sitter = pytest.importorskip("tree_sitter", reason="the package tree-sitter is for development only")
grammar = pytest.importorskip(
    "tree_sitter_powershell", reason="the package tree-sitter-powershell is missing"
)

FOLDER = data_folder("deploy") / "windows"
SCRIPTS = sorted(FOLDER.glob("*.ps1"))
READ_ONLY = {"inspect.ps1"}
# Names that PowerShell gives to other commands: a script writes the command itself (5.1, Get-Alias).
ALIASES = frozenset(
    re.findall(
        r"\S+",
        """% ? ac asnp cat cd chdir clc clear cls copy cp curl del diff dir echo epcsv erase fc fl foreach ft
        gal gc gci gcm gl gm gp gps gsv gu gv gwmi h history iex ii ipal ipcsv iwr kill ls man md measure mi
        mount move mp
        mv ni nv ogv popd ps pushd pwd r rd ren ri rm rmdir rnp rp rv sal sc select set sleep sort sp
        spps sv tee type wget where write""",
    )
)
# Verbs of cmdlets that change something, and the cmdlets with such a verb that only make an object in memory.
CHANGING = re.compile(
    r"^(Add|Clear|Copy|Disable|Enable|Install|Invoke|Move|New|Out-File|Register|Remove|Rename|Restart|Set|Start"
    r"|Stop|Uninstall|Unregister|Update)(-|$)",
    re.IGNORECASE,
)
HARMLESS = {
    "set-strictmode",
    "new-scheduledtaskaction",
    "new-scheduledtasktrigger",
    "new-scheduledtasksettingsset",
}
NATIVE_CHANGES = re.compile(
    r"^&\s*(wsl\.exe\s+--(install|unregister|update|shutdown|set-version|manage)|winget\.exe\s+(un)?install"
    r"|netsh\.exe\b.*\b(add|delete|set|reset)\b|\$Python\s+@arguments\s*$)",
    re.IGNORECASE | re.DOTALL,
)


def parse(text: str) -> tree_sitter.Node:
    language = tree_sitter.Language(grammar.language())
    return tree_sitter.Parser(language).parse(text.encode()).root_node


def walk(node: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
    yield node
    for child in node.children:
        yield from walk(child)


def text_of(node: tree_sitter.Node) -> str:
    return node.text.decode()


def read(path: Path) -> str:
    return path.read_bytes().decode("ascii").replace("\r\n", "\n")


def command_name(node: tree_sitter.Node) -> str:
    return next((text_of(child) for child in node.children if child.type == "command_name"), "")


def is_guarded(node: tree_sitter.Node) -> bool:
    """Whether a block around `node` runs only when ShouldProcess said yes."""
    block, parent = node, node.parent
    while parent is not None:
        if parent.type in ("if_statement", "elseif_clause") and block.type == "statement_block":
            condition = next(child for child in parent.children if child.type == "pipeline")
            if "$PSCmdlet.ShouldProcess(" in text_of(condition):
                return True
        block, parent = parent, parent.parent
    return False


def changes(root: tree_sitter.Node) -> list[tree_sitter.Node]:
    found = []
    for node in walk(root):
        if node.type == "command":
            name = command_name(node)
            is_cmdlet = CHANGING.match(name) is not None and name.lower() not in HARMLESS
            if is_cmdlet or NATIVE_CHANGES.match(text_of(node)):
                found.append(node)
        elif node.type == "invokation_expression" and "::Set" in text_of(node):
            found.append(node)
    return found


def test_the_parser_finds_what_is_broken() -> None:
    """The checks below could not fail otherwise."""
    assert not parse("if ($a) { & wsl.exe --update }").has_error
    for broken in ("if ($a) { Write-Output 1", "$a = 'x", "param([string] $x"):
        assert parse(broken).has_error
    assert len(changes(parse("& winget.exe uninstall --id X"))) == 1
    naked = parse("if ($Undo) { Remove-NetFirewallRule -DisplayName $name }\n& wsl.exe --install -d X\n")
    assert [is_guarded(node) for node in changes(naked)] == [False, False]
    held = parse(
        "if ($a -and $PSCmdlet.ShouldProcess($n, 'x')) { [Environment]::SetEnvironmentVariable('A', 'b') }"
    )
    assert [is_guarded(node) for node in changes(held)] == [True]
    other = parse("if ($PSCmdlet.ShouldProcess($n, 'x')) { } else { Remove-Item -Path $x }")
    assert [is_guarded(node) for node in changes(other)] == [False]


def test_every_script_of_the_page_is_there() -> None:
    assert [path.name[:2] for path in SCRIPTS if path.name[0].isdigit()] == [
        "01",
        "02",
        "03",
        "04",
        "05",
        "06",
    ]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses(path: Path) -> None:
    root = parse(read(path))
    assert [text_of(node) for node in walk(root) if node.is_error or node.is_missing] == []
    kinds = [node.type for node in walk(root)]
    # The grammar takes a try without a catch.
    assert kinds.count("try_statement") <= kinds.count("catch_clause") + kinds.count("finally_clause")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_has_the_form(path: Path) -> None:
    text = read(path)
    assert text.startswith("#Requires -Version 5.1\n<#\n.SYNOPSIS\n")
    assert "\t" not in text
    assert text.endswith("\n")
    assert "Set-StrictMode -Version Latest\n$ErrorActionPreference = 'Stop'\n" in text
    for operator in ("&&", "||", "??", "-Parallel"):
        assert operator not in text, f"{operator} is not in PowerShell 5.1"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_uses_no_alias_and_runs_no_text(path: Path) -> None:
    names = [command_name(node) for node in walk(parse(read(path))) if node.type == "command"]
    assert names
    for name in names:
        assert name.lower() not in ALIASES
        assert name.lower() not in ("invoke-expression", "invoke-webrequest", "add-type")
    for parameter in re.findall(r"\[Parameter[^\]]*\]|-EncodedCommand", read(path)):
        assert parameter != "-EncodedCommand"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_change_asks_first_and_has_an_undo(path: Path) -> None:
    text = read(path)
    found = changes(parse(text))
    if path.name in READ_ONLY:
        assert found == []
        return
    assert "[CmdletBinding(SupportsShouldProcess = $true)]" in text
    assert "[switch] $Undo" in text
    assert "-WhatIf" in text[: text.index("#>")]
    assert found
    for node in found:
        assert is_guarded(node), text_of(node)
    # What a way of the script makes, its -Undo removes.
    for make, remove in (
        ("New-NetFirewallRule", "Remove-NetFirewallRule"),
        ("New-NetFirewallHyperVRule", "Remove-NetFirewallHyperVRule"),
        ("Register-ScheduledTask", "Unregister-ScheduledTask"),
        ("winget.exe install", "winget.exe uninstall"),
        ("portproxy add", "portproxy delete"),
        ("wsl.exe --install", "wsl.exe --unregister"),
        ("'OLLAMA_HOST', '0.0.0.0'", "'OLLAMA_HOST', $null"),
    ):
        assert (make in text) <= (remove in text), make


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_native_program_is_asked_how_it_ended(path: Path) -> None:
    lines = [line.strip() for line in read(path).splitlines()]
    for number, line in enumerate(lines):
        if re.search(r"(^|= )& ", line):
            assert lines[number + 1].startswith("if ($LASTEXITCODE"), line


def test_line_ends_are_windows_own(tmp_path: Path) -> None:
    """A checkout anywhere has CRLF in the scripts of PowerShell and LF in those of sh."""
    root = FOLDER.parents[1]
    names = [str(path.relative_to(root)) for path in [*SCRIPTS, *FOLDER.glob("*.sh")]]
    done = subprocess.run(
        ["git", "check-attr", "eol", "--", *names],
        cwd=root,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    for line in done.stdout.splitlines():
        name, _, value = line.split(": ")
        assert value == ("crlf" if name.endswith(".ps1") else "lf"), name
