"""Go's text/template language as far as chat templates use it: parse and execute.

Actions if/else/with/range/break/continue, variables, pipelines, field chains, literals and the functions that
Ollama offers (template/template.go of v0.33.0-rc2). No method calls, no nested definitions: a template cannot
reach anything but the data it is given. Texts of the parse errors are Go's where clients look at them.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MAX_OUTPUT_CHARACTERS = 16 << 20
# Fifty times the longest template that Ollama ships.
MAX_CHARACTERS = 1 << 20
MAX_DEPTH = 100

_TOKEN = re.compile(
    r"""\s+
    |(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    |(?P<number>[+-]?\d+(?:\.\d+)?)
    |(?P<declare>:=|=)
    |(?P<variable>\$[A-Za-z0-9_]*)
    |(?P<field>\.[A-Za-z_][A-Za-z0-9_]*)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>[|(),.])""",
    re.VERBOSE,
)
_COMMENT = re.compile(r"[- \t\n]*/\*")
_FUNCTIONS = (
    *("and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "len", "index", "slice"),
    *("print", "printf", "println", "json", "html", "urlquery"),
    *("currentDate", "yesterdayDate", "toTypeScriptType"),
)
_MAX_DIGITS = 40
_KEYWORDS = ("if", "else", "end", "range", "with", "break", "continue", "define", "template", "block")


class TemplateError(ValueError):
    """The template does not parse or cannot be executed; the text is like Go's."""


@dataclass(frozen=True)
class Term:
    """kind: "dot", "variable", "word", "string", "number" or "pipe"; fields: the chain behind it."""

    kind: str
    value: object
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pipe:
    """names: the variables of a declaration or assignment; commands: terms, joined by `|`."""

    names: tuple[str, ...]
    commands: tuple[tuple[Term, ...], ...]
    declares: bool = True


@dataclass
class Node:
    """kind: "text", "action", "if", "with", "range", "break", "continue"."""

    kind: str
    text: str = ""
    pipe: Pipe | None = None
    body: list[Node] = field(default_factory=list)
    other: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Template:
    """A parsed template; names: the fields it uses anywhere."""

    nodes: Sequence[Node]
    names: frozenset[str]


def parse(text: str) -> Template:
    """Raises TemplateError."""
    if len(text) > MAX_CHARACTERS:
        raise TemplateError(f"template: :1: more than {MAX_CHARACTERS} characters")
    parser = _Parser(text)
    nodes, ending = parser.nodes(0)
    if ending:
        raise TemplateError(f"template: :{parser.line}: unexpected {{{{{ending}}}}}")
    return Template(nodes, frozenset(parser.names))


class _Parser:
    def __init__(self, text: str) -> None:
        self.items = list(_split(text))
        self.position = 0
        self.line = 1
        self.names: set[str] = set()

    def nodes(self, depth: int, loops: int = 0) -> tuple[list[Node], str]:
        """Nodes up to `end` or `else` (returned with its condition) or the end of the text ("")."""
        if depth > MAX_DEPTH:
            raise TemplateError(f"template: :{self.line}: too deeply nested")
        found: list[Node] = []
        while self.position < len(self.items):
            is_action, text, self.line = self.items[self.position]
            self.position += 1
            if not is_action:
                found.append(Node("text", text))
                continue
            word = (re.match(r"[A-Za-z]*", text) or [""])[0]
            rest = text[len(word) :].strip()
            if word in ("end", "else"):
                return found, text
            if word in ("if", "with", "range"):
                found.append(self._block(word, rest, depth, loops + (word == "range")))
            elif word in ("break", "continue"):
                if not loops:
                    raise TemplateError(f"template: :{self.line}: {{{{{word}}}}} outside {{{{range}}}}")
                found.append(Node(word))
            elif word in ("define", "template", "block"):
                raise TemplateError(f"template: :{self.line}: {word} is not supported here")
            else:
                found.append(Node("action", pipe=self._pipe(text, "command")))
        return found, ""

    def _block(self, word: str, rest: str, depth: int, loops: int) -> Node:
        node = Node(word, pipe=self._pipe(rest, word))
        node.body, ending = self.nodes(depth + 1, loops)
        if ending.startswith("else"):
            chained = ending[4:].strip()
            if chained:
                inner = (re.match(r"[A-Za-z]*", chained) or [""])[0]
                if inner not in ("if", "with"):
                    raise TemplateError(f"template: :{self.line}: unexpected <{inner}> in else")
                node.other = [self._block(inner, chained[len(inner) :].strip(), depth + 1, loops)]
                return node
            node.other, ending = self.nodes(depth + 1, loops)
        if ending != "end":
            text = "unexpected EOF" if not ending else f"unexpected {{{{{ending}}}}}"
            raise TemplateError(f"template: :{self.line}: {text}")
        return node

    def _pipe(self, text: str, context: str) -> Pipe:
        tokens = self._tokens(text, context)
        names: list[str] = []
        declares = True
        kinds = [kind for kind, _ in tokens]
        if "declare" in kinds[:4]:
            at = kinds.index("declare")
            names = [value for kind, value in tokens[:at] if kind == "variable"]
            declares = tokens[at][1] == ":="
            if [kind for kind, value in tokens[:at] if value != ","] != ["variable"] * len(
                names
            ) or not names:
                raise TemplateError(f"template: :{self.line}: unexpected {tokens[at][1]!r} in {context}")
            tokens = tokens[at + 1 :]
        rest = deque(tokens)
        commands = self._commands(rest, context, 0)
        if rest:
            raise TemplateError(f'template: :{self.line}: unexpected "{rest[0][1]}" in {context}')
        return Pipe(tuple(names), commands, declares)

    def _tokens(self, text: str, context: str) -> list[tuple[str, str]]:
        tokens, at = [], 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise TemplateError(f'template: :{self.line}: unexpected "{text[at]}" in {context}')
            at = match.end()
            if match.lastgroup:
                # A field that follows without a blank belongs to the chain before it.
                glued = (
                    match.lastgroup == "field" and match.start() > 0 and not text[match.start() - 1].isspace()
                )
                kind = "chain" if glued and text[match.start() - 1] not in "(|,=" else match.lastgroup
                tokens.append((kind, match[0]))
        return tokens

    def _commands(
        self, tokens: deque[tuple[str, str]], context: str, depth: int
    ) -> tuple[tuple[Term, ...], ...]:
        """The commands up to the closing parenthesis, which stays in `tokens`, or to the end."""
        if depth > MAX_DEPTH:
            raise TemplateError(f"template: :{self.line}: too deeply nested")
        commands: list[tuple[Term, ...]] = []
        current: list[Term] = []
        while tokens and tokens[0][1] != ")":
            kind, value = tokens.popleft()
            if kind == "sign" and value == "|":
                if not current:
                    raise TemplateError(f"template: :{self.line}: missing value for {context}")
                commands.append(tuple(current))
                current = []
            elif kind == "sign" and value == "(":
                inner = self._commands(tokens, context, depth + 1)
                if not tokens:
                    raise TemplateError(f"template: :{self.line}: unclosed left paren")
                current.append(Term("pipe", Pipe((), inner)))
                tokens.popleft()
            elif kind == "chain":
                if not current:
                    raise TemplateError(f'template: :{self.line}: unexpected "{value}" in {context}')
                last = current.pop()
                if len(last.fields) >= MAX_DEPTH:
                    raise TemplateError(f"template: :{self.line}: too deeply nested")
                self.names.add(value[1:])
                current.append(Term(last.kind, last.value, (*last.fields, value[1:])))
            else:
                current.append(self._term(kind, value, context))
        if not current:
            raise TemplateError(f"template: :{self.line}: missing value for {context}")
        return (*commands, tuple(current))

    def _term(self, kind: str, value: str, context: str) -> Term:
        if kind == "field":
            self.names.add(value[1:])
            return Term("dot", None, (value[1:],))
        if kind == "variable":
            return Term("variable", value)
        if kind == "string":
            return Term("string", value[1:-1] if value[0] == "`" else _unescape(value[1:-1]))
        if kind == "number":
            if len(value) > _MAX_DIGITS:
                raise TemplateError(f"template: :{self.line}: bad number syntax: {value[:20]!r}")
            return Term("number", float(value) if "." in value else int(value))
        if kind == "word":
            if value in ("true", "false", "nil"):
                return Term("string", {"true": True, "false": False, "nil": None}[value])
            if value not in _FUNCTIONS:
                wrong = (
                    f"unexpected <{value}> in {context}"
                    if value in _KEYWORDS
                    else (f'function "{value}" not defined')
                )
                raise TemplateError(f"template: :{self.line}: {wrong}")
            return Term("word", value)
        if value == ".":
            return Term("dot", None)
        raise TemplateError(f'template: :{self.line}: unexpected "{value}" in {context}')


def _split(text: str) -> list[tuple[bool, str, int]]:
    """(is an action, content, line) of each piece, with `{{-` and `-}}` applied and comments dropped."""
    pieces: list[tuple[bool, str, int]] = []
    at, trim = 0, False
    line, counted = 1, 0
    while at < len(text):
        begin = text.find("{{", at)
        plain = text[at : begin if begin >= 0 else len(text)]
        if begin >= 0:
            line += text.count("\n", counted, begin)
            counted = begin
        trim_right = (
            begin >= 0 and text[begin + 2 : begin + 3] == "-" and text[begin + 3 : begin + 4].isspace()
        )
        plain = plain.lstrip() if trim else plain
        plain = plain.rstrip() if trim_right else plain
        if plain:
            pieces.append((False, plain, line))
        if begin < 0:
            break
        end = _end_of_action(text, begin + 2)
        if end < 0:
            raise _unclosed(text[begin + 2 :], line)
        content = text[begin + 2 + trim_right : end]
        trim = content.endswith("-") and content[-2:-1].isspace()
        content = (content[:-1] if trim else content).strip()
        if not (content.startswith("/*") and content.endswith("*/")):
            pieces.append((True, content, line))
        at = end + 2
    return pieces


def _unclosed(rest: str, line: int) -> TemplateError:
    if "}" in rest:
        word = (re.match(r"-?\s*([a-z]*)", rest) or ["", ""])[1]
        return TemplateError(f'template: :{line}: unexpected "}}" in {word or "command"}')
    return TemplateError(f"template: :{line}: unclosed action")


def _end_of_action(text: str, at: int) -> int:
    if _COMMENT.match(text, at):
        closed = text.find("*/", at)
        return text.find("}}", closed) if closed >= 0 else -1
    while at < len(text):
        if text.startswith("}}", at):
            return at
        if text[at] in '"`':
            quote = text[at]
            at += 1
            while at < len(text) and text[at] != quote:
                at += 2 if text[at] == "\\" and quote == '"' else 1
        at += 1
    return -1


def _unescape(text: str) -> str:
    escapes = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(r"\\(.)", lambda match: escapes.get(match[1], match[1]), text)


def is_true(value: object) -> bool:
    """Go's truth: empty text, list, map, zero, false and nil are false."""
    return bool(value) if not isinstance(value, Mapping | Sequence) else len(value) > 0
