"""Executes a parsed Go template (`go_template`) on plain data: text, numbers, lists and mappings."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

from rfctl.engine.ollama.go_template import (
    MAX_OUTPUT_CHARACTERS,
    Node,
    Pipe,
    Template,
    TemplateError,
    Term,
    is_true,
)
from rfctl.ollama.manifest import encode_text

# Loops in loops over a long conversation would run for hours; few steps can double a text again and again.
MAX_STEPS = 1_000_000
MAX_SECONDS = 10.0
MAX_MADE_CHARACTERS = 8 * MAX_OUTPUT_CHARACTERS


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


def execute(template: Template, data: Mapping[str, Any]) -> str:
    """The text of the template with `data` as its dot. Raises TemplateError."""
    run = _Run(data)
    run.nodes(template.nodes, data)
    return "".join(run.output)


class _Run:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self.output: list[str] = []
        self.size = 0
        self.steps = 0
        self.made = 0
        self.deadline = time.monotonic() + MAX_SECONDS
        self.scopes: list[dict[str, Any]] = [{"$": root}]

    def nodes(self, nodes: Sequence[Node], dot: Any) -> None:
        for node in nodes:
            self.node(node, dot)

    def node(self, node: Node, dot: Any) -> None:
        self.step()
        if node.kind == "text":
            self.write(node.text)
        elif node.kind == "break":
            raise _Break
        elif node.kind == "continue":
            raise _Continue
        elif node.kind == "action":
            assert node.pipe
            value = self.pipe(node.pipe, dot)
            if not node.pipe.names:
                self.write(to_text(value))
        else:
            self.scopes.append({})
            try:
                self.block(node, dot)
            finally:
                self.scopes.pop()

    def step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS or time.monotonic() > self.deadline:
            raise TemplateError("the template takes too many steps")

    def call(self, name: str, arguments: list[Any]) -> Any:
        value = call(name, arguments)
        if isinstance(value, str):
            self.made += len(value)
            if len(value) > MAX_OUTPUT_CHARACTERS or self.made > MAX_MADE_CHARACTERS:
                raise TemplateError(f"error calling {name}: the text is too long")
        return value

    def block(self, node: Node, dot: Any) -> None:
        assert node.pipe
        if node.kind == "range":
            self.repeat(node, node.pipe, dot)
            return
        value = self.pipe(node.pipe, dot)
        if is_true(value):
            self.nodes(node.body, value if node.kind == "with" else dot)
        else:
            self.nodes(node.other, dot)

    def repeat(self, node: Node, pipe: Pipe, dot: Any) -> None:
        value = self.pipe(Pipe((), pipe.commands), dot)
        items: list[tuple[Any, Any]]
        if isinstance(value, Mapping):
            items = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, str | int | float | bool):
            raise TemplateError(f"range can't iterate over {to_text(value)}")
        else:
            items = list(enumerate(value or ()))
        if not items:
            self.nodes(node.other, dot)
        for key, item in items:
            self.scopes.append({})
            if pipe.names:
                self.scopes[-1][pipe.names[-1]] = item
                if len(pipe.names) > 1:
                    self.scopes[-1][pipe.names[0]] = key
            try:
                self.nodes(node.body, item)
            except _Continue:
                continue
            except _Break:
                return
            finally:
                self.scopes.pop()

    def write(self, text: str) -> None:
        self.size += len(text)
        if self.size > MAX_OUTPUT_CHARACTERS:
            raise TemplateError("the rendered template is too long")
        self.output.append(text)

    def pipe(self, pipe: Pipe, dot: Any) -> Any:
        value: Any = None
        for number, command in enumerate(pipe.commands):
            value = self.command(command, dot, [value] if number else [])
        for name in pipe.names:
            scope = self.scopes[-1]
            if not pipe.declares:
                scope = next((scope for scope in reversed(self.scopes) if name in scope), scope)
            scope[name] = value
        return value

    def command(self, command: Sequence[Term], dot: Any, piped: list[Any]) -> Any:
        self.step()
        first, rest = command[0], command[1:]
        if first.kind == "word":
            name = str(first.value)
            if name in ("and", "or"):
                return self.choose(name, rest, dot, piped)
            arguments = [self.term(term, dot) for term in rest] + piped
            return chain(self.call(name, arguments), first.fields)
        if rest or piped:
            raise TemplateError("can't give argument to non-function")
        return self.term(first, dot)

    def choose(self, name: str, terms: Sequence[Term], dot: Any, piped: list[Any]) -> Any:
        value: Any = None
        for term in terms:
            value = self.term(term, dot)
            if is_true(value) is (name == "or"):
                return value
        return piped[0] if piped else value

    def term(self, term: Term, dot: Any) -> Any:
        match term.kind:
            case "dot":
                value = dot
            case "variable":
                found = [scope for scope in reversed(self.scopes) if term.value in scope]
                if not found:
                    raise TemplateError(f"undefined variable: {term.value}")
                value = found[0][str(term.value)]
            case "pipe":
                assert isinstance(term.value, Pipe)
                value = self.pipe(term.value, dot)
            case "word":
                value = self.call(str(term.value), [])
            case _:
                value = term.value
        return chain(value, term.fields)


def chain(value: Any, fields: Sequence[str]) -> Any:
    """Follow field names; an absent key is nil, a field of something without fields an error."""
    for name in fields:
        if value is None:
            raise TemplateError(f"nil pointer evaluating interface {{}}.{name}")
        if not isinstance(value, Mapping):
            raise TemplateError(f"can't evaluate field {name} in type {type(value).__name__}")
        value = value.get(name)
    return value


def call(name: str, arguments: list[Any]) -> Any:
    """One of the functions a template may use."""
    try:
        return _call(name, arguments)
    except (TypeError, IndexError, KeyError, ValueError) as error:
        if isinstance(error, TemplateError):
            raise
        raise TemplateError(f"error calling {name}: {error}") from None


def _call(name: str, arguments: list[Any]) -> Any:
    match name:
        case "not":
            return not is_true(arguments[0])
        case "eq":
            return any(arguments[0] == other for other in arguments[1:])
        case "ne":
            return arguments[0] != arguments[1]
        case "lt" | "le" | "gt" | "ge":
            left, right = arguments
            return {"lt": left < right, "le": left <= right, "gt": left > right, "ge": left >= right}[name]
        case "len":
            return len(arguments[0].encode() if isinstance(arguments[0], str) else arguments[0])
        case "index":
            value = arguments[0]
            for key in arguments[1:]:
                value = value.get(key) if isinstance(value, Mapping) else value[_natural(key)]
            return value
        case "slice":
            bounds = [_natural(bound) for bound in arguments[1:]]
            return arguments[0][slice(*bounds)] if len(bounds) > 1 else arguments[0][bounds[0] :]
        case "print":
            return "".join(to_text(value) for value in arguments)
        case "println":
            return " ".join(to_text(value) for value in arguments) + "\n"
        case "printf":
            return _format(str(arguments[0]), arguments[1:])
        case "json":
            return encode_text(arguments[0])
        case "html":
            return to_text(arguments[0])
        case "urlquery":
            return quote_plus(to_text(arguments[0]))
        case "currentDate":
            return datetime.now().astimezone().strftime("%Y-%m-%d")
        case "yesterdayDate":
            return (datetime.now().astimezone() - timedelta(days=1)).strftime("%Y-%m-%d")
        case "toTypeScriptType":
            return _typescript(arguments[0])
    raise TemplateError(f'function "{name}" not defined')


def _natural(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"cannot index with {value}")
    return value


def _format(form: str, arguments: list[Any]) -> str:
    pieces, rest = [], list(arguments)
    at = 0
    while at < len(form):
        if form[at] != "%" or at + 1 == len(form):
            pieces.append(form[at])
            at += 1
            continue
        verb = form[at + 1]
        at += 2
        if verb == "%":
            pieces.append("%")
        elif not rest:
            pieces.append(f"%!{verb}(MISSING)")
        else:
            value = rest.pop(0)
            pieces.append(json.dumps(value, ensure_ascii=False) if verb == "q" else to_text(value))
    return "".join(pieces)


def _typescript(kind: Any) -> str:
    names = {"integer": "number", "array": "any[]", "object": "Record<string, any>"}
    kinds = kind if isinstance(kind, list) else [kind]
    return " | ".join(names.get(str(item), str(item)) for item in kinds) or "any"


def to_text(value: Any) -> str:
    """What an action writes: text as it is, lists and mappings as JSON, nil as Go writes it."""
    match value:
        case None:
            return "<no value>"
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer():
            return str(int(value))
        case int() | float():
            return str(value)
    return encode_text(value)
