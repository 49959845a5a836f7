"""What a chat template writes first. Templates are programs of strangers: sandboxed, with a budget of steps,
time and memory."""

from __future__ import annotations

import contextlib
import re
import sys
import time
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from rfctl.converter.source import read_text
from rfctl.core.error import RfctlError

_STEPS = 200_000
_LENGTH = 1_000_000
_SECONDS = 2.0
_MEMORY = 256 << 20
_WIDE = re.compile(r"\d{5}")
_DATA = Path(__file__).parent / "data" / "training-template.toml"
_RECORDS = ("training_args.yaml", "llamaboard_config.yaml")
_NAMED = re.compile(r"^(?:top\.)?template:[ \t]*[\"']?([A-Za-z0-9_.-]{1,60})", re.MULTILINE)


class _SpentError(Exception):
    """The template used up its budget."""


def starts_with(template: str, bos: str) -> bool | None:
    """Whether a rendered conversation of one question begins with the text `bos`.

    None when the template cannot be rendered within its budget.
    """
    from jinja2 import TemplateError

    try:
        with _limit_memory():  # constant expressions are worked out while a template is compiled
            compiled = _compile(template)
        with _limit_memory(), _Budget(_STEPS):
            pieces = compiled.generate(
                messages=[{"role": "user", "content": "a"}],
                bos_token=bos,
                eos_token="",
                add_generation_prompt=True,
            )
            text = ""
            for piece in pieces:
                text += piece
                if len(text) >= _LENGTH:
                    raise _SpentError
    except (TemplateError, _SpentError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError):
        return None
    except (RecursionError, MemoryError):
        return None
    return text.startswith(bos)


def find_training_template(path: Path) -> tuple[str, str] | None:
    """(name, text that every turn of it has) of the prompt format that LLaMA-Factory recorded in `path`.

    None when there is no record or its name is not in the table.
    """
    for record in _RECORDS:
        try:
            text = read_text(path / record, 1 << 20)
        except RfctlError:
            continue
        match = _NAMED.search(text or "")
        if match and match[1] in _marks():
            return match[1], _marks()[match[1]]
    return None


@cache
def _marks() -> dict[str, str]:
    with _DATA.open("rb") as file:
        table: dict[str, str] = tomllib.load(file)["mark"]
    return table


def _compile(template: str) -> Any:
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        # Operators that make much out of little.
        intercepted_binops = frozenset({"*", "**", "%"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            is_number = isinstance(left, int | float) and isinstance(right, int | float)
            if operator == "**" and not (is_number and abs(left) < 1 << 20 and abs(right) < 16):
                raise _SpentError
            if operator == "*" and not is_number:
                sizes = [side if isinstance(side, int) else len(side) for side in (left, right)]
                if sizes[0] * sizes[1] > _LENGTH:
                    raise _SpentError
            if operator == "%" and isinstance(left, str) and _WIDE.search(left):
                raise _SpentError
            return super().call_binop(context, operator, left, right)

    def refuse(message: str) -> str:
        raise TemplateError(message)

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda pattern: ""
    return environment.from_string(template)


@contextlib.contextmanager
def _limit_memory() -> Iterator[None]:
    """Let the process grow by no more than _MEMORY inside, where the system can hold it to that (Linux).

    One operation can make gigabytes out of a line (`'a'|center(10 ** 10)`, `x + x` in a loop): it then raises
    MemoryError, and no step of a budget would come in between.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = pages * resource.getpagesize() + _MEMORY
        is_lower = soft == resource.RLIM_INFINITY or wanted < soft
        if is_lower:
            resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    except (ImportError, OSError, ValueError, IndexError):
        yield  # Windows and macOS have no such limit
        return
    try:
        yield
    finally:
        if is_lower:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class _Budget:
    """Raises _SpentError after `steps` lines of Python or _SECONDS; jinja compiles a template to Python."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        self._end = time.monotonic() + _SECONDS
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._count)

    def __exit__(self, *error: object) -> None:
        sys.settrace(self._before)

    def _count(self, frame: FrameType, event: str, argument: Any) -> Any:
        self._left -= 1
        if self._left < 0 or (self._left % 16 == 0 and time.monotonic() > self._end):
            raise _SpentError
        return self._count
