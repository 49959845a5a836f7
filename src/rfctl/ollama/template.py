"""Rendering a model's own chat template as Hugging Face and llama.cpp do.

The template comes out of a file from the net: it is sandboxed (no attribute tricks, nothing mutable), its
size and its output are bounded, and `render_isolated` runs it in a child process with a deadline and a memory
limit, because a sandbox does not stop a loop.

Environment as in transformers 4.57 (utils/chat_template_utils.py): trim_blocks, lstrip_blocks, loop controls,
`raise_exception`, `strftime_now`, `tojson` without HTML escapes, and the `generation` tag.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
from jinja2.parser import Parser

from rfctl.core.error import VerdictError

type Message = Mapping[str, str]

MAX_TEMPLATE = 1 << 20
MAX_OUTPUT = 4 << 20
MAX_PRODUCT = 1 << 22
DEADLINE_SECONDS = 20.0
MEMORY_BYTES = 1 << 30


class TemplateError(VerdictError):
    """A chat template that does not parse, refuses the messages or leaves its bounds; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__("ollama.template-broken", detail=reason[:400])
        self.reason = reason


@dataclass(frozen=True)
class Template:
    """A chat template with the tokens it may mention."""

    text: str
    bos_token: str = ""
    eos_token: str = ""


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Also refuses products and powers that would fill the memory in one step."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise jinja2.exceptions.SecurityError("powers are not available")
        for one, other in ((left, right), (right, left)):
            if isinstance(one, str | list | tuple) and isinstance(other, int):
                if len(one) * other > MAX_PRODUCT:
                    raise jinja2.exceptions.SecurityError("the repetition is too long")
            elif isinstance(one, int) and abs(one) > MAX_PRODUCT**2:
                raise jinja2.exceptions.SecurityError("the number is too large")
        return super().call_binop(context, operator, left, right)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks what is trained on; it changes no text."""

    tags = {"generation"}  # noqa: RUF012  (declared by the base class)

    def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render(
    template: Template,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, object]] = (),
    add_generation_prompt: bool = True,
    variables: Mapping[str, object] | None = None,
) -> str:
    """The prompt of one conversation, in this process. Raises TemplateError.

    Only for templates that are trusted to end; see `render_isolated`.
    """
    if len(template.text) > MAX_TEMPLATE:
        raise TemplateError(f"the template has more than {MAX_TEMPLATE} characters")
    try:
        compiled = _environment().from_string(template.text)
        pieces: list[str] = []
        size = 0
        for piece in compiled.generate(
            messages=[dict(message) for message in messages],
            tools=list(tools) or None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            bos_token=template.bos_token,
            eos_token=template.eos_token,
            **(variables or {}),
        ):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise TemplateError(f"the prompt has more than {MAX_OUTPUT} characters")
            pieces.append(piece)
    except (
        jinja2.TemplateError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise TemplateError(f"{type(error).__name__}: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise TemplateError(type(error).__name__) from error
    return "".join(pieces)


def render_isolated(
    template: Template,
    conversations: Sequence[Sequence[Message]],
    *,
    tools: Sequence[Mapping[str, object]] = (),
    add_generation_prompt: bool = True,
    deadline_seconds: float = DEADLINE_SECONDS,
) -> tuple[str | TemplateError, ...]:
    """The prompt, or what went wrong, of each conversation; made in one child process.

    Raises TemplateError when the whole process ran out of time or memory.
    """
    order = {
        "text": template.text,
        "bos_token": template.bos_token,
        "eos_token": template.eos_token,
        "add_generation_prompt": add_generation_prompt,
        "tools": list(tools),
        "conversations": [[dict(message) for message in messages] for messages in conversations],
    }
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-X", "utf8", "-m", "rfctl.ollama.template"],
            input=json.dumps(order).encode(),
            capture_output=True,
            timeout=deadline_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TemplateError(f"the template did not end within {deadline_seconds:g} seconds") from error
    try:
        answers = json.loads(done.stdout)
    except ValueError as error:
        raise TemplateError(f"the rendering process ended with code {done.returncode}") from error
    return tuple(
        answer["text"] if "text" in answer else TemplateError(str(answer["error"])) for answer in answers
    )


def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return dt.datetime.now().astimezone().strftime(pattern)


def _serve(data: bytes) -> bytes:
    """The child's work: one order in, one list of answers out."""
    order = json.loads(data)
    template = Template(order["text"], order["bos_token"], order["eos_token"])
    answers = []
    for messages in order["conversations"]:
        try:
            text = render(
                template,
                messages,
                tools=order["tools"],
                add_generation_prompt=order["add_generation_prompt"],
            )
        except TemplateError as error:
            answers.append({"error": error.reason})
        else:
            answers.append({"text": text})
    return json.dumps(answers).encode()


def _limit() -> None:
    """Bound memory and processor time of this process where the platform can."""
    if sys.platform != "win32":
        import resource

        set_limit: Callable[[int, tuple[int, int]], None] = resource.setrlimit
        seconds = int(DEADLINE_SECONDS)
        # macOS takes no limit of memory, and nobody may raise one that is lower already.
        for kind, limit in (
            (resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES)),
            (resource.RLIMIT_CPU, (seconds, seconds + 1)),
        ):
            with contextlib.suppress(OSError, ValueError):
                set_limit(kind, limit)


if __name__ == "__main__":
    _limit()
    sys.stdout.buffer.write(_serve(sys.stdin.buffer.read()))
