"""What a check of `rfctl doctor` is: a pure function from evidence to a verdict, under an id.

The words of a check are the catalog entry `doctor.<id>` (or `doctor.<id>.<variant>`): its message says what
was found and fits every verdict, `why` says what follows from a bad one, `next` is the fix. Where another one
helps on a platform, it is the message of `doctor.on-windows.<id>` or `doctor.on-wsl.<id>`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rfctl.stack.evidence import Evidence

# Evidence that is there when only the embedded engine is used, which needs no Docker.
UNNEEDED = "docker.is-unneeded"
GROUPS = ("host", "docker", "wsl", "net", "engine", "ollama", "model", "rag", "kb")


class Verdict(enum.Enum):
    """`skip`: does not apply here; `unknown`: applies, but could not be looked at."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Result:
    """What a check function returns. variant: suffix of the catalog id; text: a whole id instead."""

    verdict: Verdict
    params: Mapping[str, object] = field(default_factory=dict)
    variant: str = ""
    text: str = ""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check. text: catalog id of its words, filled with `params`; fix: catalog id of what
    helps on this platform, "" where the `next` of `text` holds."""

    id: str
    group: str
    verdict: Verdict
    text: str
    params: Mapping[str, object]
    fixable: bool = False
    fix: str = ""


@dataclass(frozen=True)
class Check:
    """after: ids of checks without whose success this one has nothing to look at."""

    id: str
    function: Callable[[Evidence], Result]
    after: tuple[str, ...]
    fixable: bool

    @property
    def group(self) -> str:
        return self.id.partition(".")[0]


# Filled by `check` when the modules of the checks are imported.
REGISTERED: dict[str, Check] = {}


def check(
    id: str, *, after: tuple[str, ...] = (), fixable: bool = False
) -> Callable[[Callable[[Evidence], Result]], Callable[[Evidence], Result]]:
    """Register a function as the check `id` ("group.name")."""

    def decorate(function: Callable[[Evidence], Result]) -> Callable[[Evidence], Result]:
        if id in REGISTERED:
            raise ValueError(f"{id} is registered twice")
        REGISTERED[id] = Check(id, function, after, fixable)
        return function

    return decorate


def ok(variant: str = "", /, **params: object) -> Result:
    return Result(Verdict.OK, params, variant)


def warn(variant: str = "", /, **params: object) -> Result:
    return Result(Verdict.WARN, params, variant)


def fail(variant: str = "", /, **params: object) -> Result:
    return Result(Verdict.FAIL, params, variant)


def skip(reason: str) -> Result:
    """reason: last part of a catalog id `doctor.skip.<reason>`."""
    return Result(Verdict.SKIP, text=f"doctor.skip.{reason}")


def unknown(detail: str) -> Result:
    return Result(Verdict.UNKNOWN, {"detail": detail}, text="doctor.unknown")


def judge(
    condition: bool, /, *, otherwise: Verdict = Verdict.FAIL, variant: str = "", **params: object
) -> Result:
    """ok when `condition` holds, else `otherwise`, with the same words."""
    return Result(Verdict.OK if condition else otherwise, params, variant)
