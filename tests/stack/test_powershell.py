"""The Windows scripts under deploy/: they parse, and they keep the promises of `-WhatIf` and `-Undo`.

No PowerShell runs here: the grammar is tree-sitter's, the rules are ours.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from powershell_lint import RULES, command_name, text_of, walk

from rfctl.core.data import data_folder

tree_sitter = pytest.importorskip("tree_sitter", reason="the package tree-sitter is for development only")
grammar = pytest.importorskip(
    "tree_sitter_powershell", reason="the package tree-sitter-powershell is missing"
)

FOLDER = data_folder("deploy") / "windows"
SCRIPTS = sorted(FOLDER.glob("*.ps1"))
READ_ONLY = {"inspect.ps1"}
# Loaded by the others, which have the parameters.
SHARED = {"common.ps1"}
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
    "new-object",
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


def read(path: Path) -> str:
    return path.read_bytes().decode("ascii").replace("\r\n", "\n")


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


# What each rule must find, one line each; and the same done right, which it must not.
TRAPS = {
    "parse_errors": ("$a = $b ?? 'x'", "$a = $b"),
    "chains_of_version_7": ("& wsl.exe -l && Write-Output 1", "& wsl.exe -l"),
    "words_of_version_7": ("1..3 | ForEach-Object -Parallel { $_ }", "1..3 | ForEach-Object { $_ }"),
    "try_alone": ("try { Get-Item -Path x }", "try { Get-Item -Path x } catch { throw }"),
    "exit_code_unread": (
        "& wsl.exe --shutdown\nWrite-Output 'done'",
        "& wsl.exe --shutdown\nif ($LASTEXITCODE -ne 0) { throw 'x' }",
    ),
    "redirections": ("& wsl.exe -l 2>&1 | Out-Null", "& wsl.exe -l | Out-Null"),
    "unnamed_encodings": (
        "Set-Content -Path $path -Value $text -Encoding UTF8",
        "Set-Content -Path $path -Value $text -Encoding ascii",
    ),
    "argument_lists": (
        "Start-Process -FilePath a.exe -ArgumentList 'C:\\a b', 'c'",
        "Start-Process -FilePath a.exe -ArgumentList '\"C:\\a b\" c'",
    ),
    "third_parts": ("Join-Path $a 'b' 'c'", "Join-Path -Path $a -ChildPath 'b'"),
    "silent_changes": (
        "Remove-NetFirewallRule -DisplayName x -ErrorAction SilentlyContinue",
        "Get-NetFirewallRule -DisplayName x -ErrorAction SilentlyContinue",
    ),
    "vague_success": ("if (-not $?) { throw 'x' }", "if ($LASTEXITCODE) { throw 'x' }"),
    "elevation_unasked": (
        "if ($x) { New-NetFirewallRule @values | Out-Null }",
        "if ($x) { Assert-Administrator\nNew-NetFirewallRule @values | Out-Null }",
    ),
}
MORE_TRAPS = [
    ("parse_errors", "$x = $a ? 1 : 2"),
    ("parse_errors", "$a?.Name"),
    ("words_of_version_7", "$x = Get-Content -Path x | ConvertFrom-Json -AsHashtable"),
    ("words_of_version_7", "$x = Get-Content -Path x -AsByteStream"),
    ("words_of_version_7", "if ($IsWindows) { Write-Output 1 }"),
    ("words_of_version_7", "Set-Content -Path x -Value y -Encoding utf8NoBOM"),
    ("exit_code_unread", "$x = & uv.exe tool dir\nWrite-Output $x"),
    ("exit_code_unread", "if ($a) { & $Python @arguments }\nif ($LASTEXITCODE) { throw 'x' }"),
    ("redirections", "Get-Item -Path x > $file"),
    ("unnamed_encodings", "'x' | Out-File -FilePath $path"),
    ("argument_lists", "Start-Process -FilePath a.exe -ArgumentList @('a', 'b')"),
    ("third_parts", "Join-Path $a 'b'"),
    ("elevation_unasked", "& netsh.exe interface portproxy delete v4tov4 listenport=1"),
    ("elevation_unasked", "if ($a) { Assert-Administrator }\n& wsl.exe --install -d X"),
]


def test_every_rule_finds_its_trap_and_only_that() -> None:
    assert set(TRAPS) == set(RULES)
    for name, (bad, good) in TRAPS.items():
        assert RULES[name](parse(bad)), name
        assert RULES[name](parse(good)) == [], name


@pytest.mark.parametrize(("name", "text"), MORE_TRAPS)
def test_a_rule_finds_the_other_forms_too(name: str, text: str) -> None:
    assert RULES[name](parse(text))


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_keeps_the_rules_of_5_1(path: Path, name: str) -> None:
    assert RULES[name](parse(read(path))) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_what_a_script_loads_is_there(path: Path) -> None:
    text = read(path)
    loaded = re.findall(r"^\. \(Join-Path -Path \$PSScriptRoot -ChildPath '([^']+)'\)$", text, re.MULTILINE)
    assert text.count("$PSScriptRoot") == len(loaded)
    defined = set()
    for name in loaded:
        defined |= set(re.findall(r"^function ([\w-]+)", read(path.with_name(name)), re.MULTILINE))
    own = set(re.findall(r"^function ([\w-]+)", text, re.MULTILINE))
    ours = {"Assert-Administrator", "Test-WingetPackage", "Install-WingetPackage", "Uninstall-WingetPackage"}
    used = {command_name(node) for node in walk(parse(text)) if node.type == "command"} & ours
    assert used <= defined | own


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_has_the_form(path: Path) -> None:
    text = read(path)
    assert text.startswith("#Requires -Version 5.1\n<#\n.SYNOPSIS\n")
    assert "\t" not in text
    assert text.endswith("\n")
    assert "Set-StrictMode -Version Latest\n$ErrorActionPreference = 'Stop'\n" in text


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
    assert "-WhatIf" in text[: text.index("#>")]
    assert found
    for node in found:
        assert is_guarded(node), text_of(node)
    if path.name in SHARED:
        return
    assert "[switch] $Undo" in text
    # What a way of the script makes, its -Undo removes.
    for make, remove in (
        ("New-NetFirewallRule", "Remove-NetFirewallRule"),
        ("New-NetFirewallHyperVRule", "Remove-NetFirewallHyperVRule"),
        ("Register-ScheduledTask", "Unregister-ScheduledTask"),
        ("Install-WingetPackage", "Uninstall-WingetPackage"),
        ("portproxy add", "portproxy delete"),
        ("wsl.exe --install", "wsl.exe --unregister"),
        ("'OLLAMA_HOST', $open", "'OLLAMA_HOST', $before"),
    ):
        assert (make in text) <= (remove in text), make


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
