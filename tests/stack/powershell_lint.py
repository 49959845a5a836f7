"""Traps of Windows PowerShell 5.1, found in the syntax tree of a script.

No PowerShell runs in CI. Each rule names a way in which a script parses and still goes wrong on 5.1.
Sources: Microsoft's documents about_Operators, about_Redirection, about_Character_Encoding and
about_Try_Catch_Finally (5.1), and the remarks of Start-Process on ArgumentList.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

Node = Any
Rule = Callable[[Node], list[str]]
RULES: dict[str, Rule] = {}

# Cmdlets, parameters and values that came after 5.1.
NEWER = re.compile(
    r"^-(?:Parallel|AsHashtable|AsByteStream|AsArray|AdditionalChildPath|SkipCertificateCheck|NoProfileLoadTime)$"
    r"|^(?:Get-Error|Test-Json|ConvertFrom-Markdown|Remove-Service|Get-Uptime|Join-String)$"
    r"|utf8NoBOM|utf8BOM|^\$(?:IsWindows|IsLinux|IsMacOS|IsCoreCLR|PSStyle)$",
    re.IGNORECASE,
)
WRITERS = frozenset({"set-content", "add-content", "out-file", "tee-object", "export-csv", "export-clixml"})
ELEVATED = re.compile(
    r"^(?:New|Set|Remove|Enable|Disable)-NetFirewall\w+\b|^&\s*netsh\.exe\b.*\b(?:add|delete|set|reset)\b"
    r"|^&\s*wsl\.exe\s+--install\b",
    re.IGNORECASE | re.DOTALL,
)


def rule(function: Rule) -> Rule:
    RULES[function.__name__] = function
    return function


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from walk(child)


def text_of(node: Node) -> str:
    return str(node.text.decode())


def commands(root: Node) -> Iterator[Node]:
    return (node for node in walk(root) if node.type == "command")


def command_name(node: Node) -> str:
    return next((text_of(child) for child in node.children if child.type == "command_name"), "")


def is_native(node: Node) -> bool:
    """`& program ...`; a script block or a dot-sourced file is none."""
    first = node.children[0] if node.children else None
    return (
        first is not None
        and text_of(first).strip() == "&"
        and re.match(r"&\s*(?:\$|[\w.-]+\.exe\b|'|\")", text_of(node)) is not None
    )


def statement(node: Node) -> Node:
    """The statement of a block that `node` is part of."""
    while node.parent is not None and node.parent.type not in ("statement_list", "program"):
        node = node.parent
    return node


def following(node: Node) -> str:
    """The text of the statement after the one of `node`, "" at the end of a block."""
    own = statement(node)
    siblings = [child for child in own.parent.children if child.is_named] if own.parent else []
    place = next((index for index, child in enumerate(siblings) if child == own), len(siblings))
    rest = [child for child in siblings[place + 1 :] if child.type != "comment"]
    return text_of(rest[0]) if rest else ""


def words(node: Node) -> list[Node]:
    """Names, parameters and bare words of a script: no strings and no comments."""
    kinds = ("command_name", "command_parameter", "generic_token", "variable", "simple_name")
    return [one for one in walk(node) if one.type in kinds]


@rule
def parse_errors(root: Node) -> list[str]:
    """`??`, `?.` and `a ? b : c` are errors to this grammar, as they are to 5.1."""
    return [text_of(node)[:60] for node in walk(root) if node.is_error or node.is_missing]


@rule
def chains_of_version_7(root: Node) -> list[str]:
    return [text_of(node) for node in walk(root) if node.type == "pipeline_chain_tail"]


@rule
def words_of_version_7(root: Node) -> list[str]:
    return [text_of(node) for node in words(root) if NEWER.search(text_of(node))]


@rule
def try_alone(root: Node) -> list[str]:
    """A parse error in PowerShell that the grammar lets pass."""
    return [
        text_of(node)[:60]
        for node in walk(root)
        if node.type == "try_statement"
        and not any(one.type in ("catch_clauses", "catch_clause", "finally_clause") for one in node.children)
    ]


@rule
def exit_code_unread(root: Node) -> list[str]:
    """No setting of 5.1 makes a failing program an error."""
    return [
        text_of(node)[:80]
        for node in commands(root)
        if is_native(node) and "$LASTEXITCODE" not in following(node)
    ]


@rule
def redirections(root: Node) -> list[str]:
    """`>` writes UTF-16; what a program says to stderr becomes an error under Stop once it is redirected."""
    return [text_of(node) for node in walk(root) if node.type == "redirection"]


@rule
def unnamed_encodings(root: Node) -> list[str]:
    """5.1 writes UTF-16 or ANSI by itself, and a mark before UTF-8."""
    return [
        text_of(node)[:80]
        for node in commands(root)
        if command_name(node).lower() in WRITERS
        and not re.search(r"-Encoding\s+ascii\b", text_of(node), re.I)
    ]


@rule
def argument_lists(root: Node) -> list[str]:
    """Start-Process joins a list with blanks and quotes nothing."""
    return [
        text_of(node)[:80]
        for node in commands(root)
        if command_name(node).lower() == "start-process"
        and re.search(r"-ArgumentList\s+(@|[^;|]*,)", text_of(node))
    ]


@rule
def third_parts(root: Node) -> list[str]:
    """Join-Path takes two parts; the names of both are given, so that a third one shows."""
    return [
        text_of(node)
        for node in commands(root)
        if command_name(node).lower() == "join-path"
        and not re.fullmatch(r"Join-Path -Path \S+ -ChildPath (?:'[^']*'|\S+)", text_of(node).strip())
    ]


@rule
def silent_changes(root: Node) -> list[str]:
    """Only a look may fail without a word."""
    return [
        text_of(node)[:80]
        for node in commands(root)
        if re.search(r"SilentlyContinue|\bIgnore\b", text_of(node))
        and not re.match(r"(?:Get|Test)-", text_of(node))
    ]


@rule
def vague_success(root: Node) -> list[str]:
    """`$?` is true or false for reasons that differ between versions."""
    return [text_of(node) for node in walk(root) if node.type == "variable" and text_of(node) == "$?"]


@rule
def elevation_unasked(root: Node) -> list[str]:
    """What needs an administrator says so before it starts, not with "access denied" in the middle."""
    found = []
    for node in commands(root):
        if not ELEVATED.match(text_of(node)):
            continue
        around, asked = node, False
        while around.parent is not None and not asked:
            if around.parent.type == "statement_list":
                before = [one for one in around.parent.children if one.start_byte < around.start_byte]
                asked = any(text_of(one).strip() == "Assert-Administrator" for one in before)
            around = around.parent
        if not asked:
            found.append(text_of(node)[:80])
    return found
