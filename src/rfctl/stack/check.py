"""The checks of `rfctl doctor`: a registry of pure functions from evidence to a verdict.

The words of a check are the catalog entry `doctor.<id>` (or `doctor.<id>.<variant>`): its message says what
was found and fits every verdict, `why` says what follows from a bad one, `next` is the fix. Where another one
helps on a platform, it is the message of `doctor.on-windows.<id>` or `doctor.on-wsl.<id>`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from rfctl.core.catalog import entries
from rfctl.core.error import UsageError
from rfctl.stack.evidence import Evidence, MissingEvidenceError

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


_CHECKS: dict[str, Check] = {}


def check(
    id: str, *, after: tuple[str, ...] = (), fixable: bool = False
) -> Callable[[Callable[[Evidence], Result]], Callable[[Evidence], Result]]:
    """Register a function as the check `id` ("group.name")."""

    def decorate(function: Callable[[Evidence], Result]) -> Callable[[Evidence], Result]:
        if id in _CHECKS:
            raise ValueError(f"{id} is registered twice")
        _CHECKS[id] = Check(id, function, after, fixable)
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


def checks() -> dict[str, Check]:
    """All checks by id, in the order of their groups."""
    # Imported for their registrations.
    from rfctl.stack import (  # noqa: F401
        check_docker,
        check_engine,
        check_host,
        check_kb,
        check_network,
        check_ollama,
        check_ragflow,
        check_stack,
        check_wsl,
    )

    # Whichever module was imported first, the order is the same.
    return dict(
        sorted(_CHECKS.items(), key=lambda item: (GROUPS.index(item[1].group), item[1].function.__module__))
    )


def examine(evidence: Evidence, only: Iterable[str] = ()) -> list[Finding]:
    """The findings of all checks, or of the groups and check ids in `only`, in the order of the groups.

    Raises UsageError `doctor.group-unknown`.
    """
    wanted = require_known(only)
    table = checks()
    done: dict[str, Finding] = {}
    for entry in table.values():
        _find(entry, evidence, table, done)
    return [done[entry.id] for entry in table.values() if not wanted or wanted & {entry.group, entry.id}]


def require_known(only: Iterable[str]) -> set[str]:
    """`only` as a set. Raises UsageError `doctor.group-unknown`."""
    wanted = set(only)
    if strange := wanted - set(GROUPS) - set(checks()):
        raise UsageError("doctor.group-unknown", wanted=min(strange), known=", ".join(GROUPS))
    return wanted


def needs_docker(entry: Check, table: Mapping[str, Check]) -> bool:
    """Whether a check has nothing to look at where Docker is not used."""
    return entry.group in ("docker", "wsl") or any(needs_docker(table[name], table) for name in entry.after)


def _find(entry: Check, evidence: Evidence, table: Mapping[str, Check], done: dict[str, Finding]) -> Finding:
    if entry.id in done:
        return done[entry.id]
    blocking = [
        name
        for name in entry.after
        if _find(table[name], evidence, table, done).verdict not in (Verdict.OK, Verdict.WARN)
    ]
    unneeded = evidence.has(UNNEEDED)
    if unneeded and needs_docker(entry, table):
        result = skip("embedded")
    elif blocking:
        result = Result(Verdict.SKIP, {"check": blocking[0]}, text="doctor.skip.after")
    else:
        result = _apply(entry, evidence)
        if unneeded and entry.group == "host" and result.verdict is Verdict.FAIL:
            # Requirements of RAGFlow: worth knowing before it is wanted, no fault while it is not.
            result = Result(Verdict.WARN, result.params, result.variant, result.text)
    text = result.text or ".".join(part for part in ("doctor", entry.id, result.variant) if part)
    bad = result.verdict in (Verdict.WARN, Verdict.FAIL)
    fix = _platform_fix(text, evidence) if bad else ""
    finding = Finding(entry.id, entry.group, result.verdict, text, result.params, entry.fixable and bad, fix)
    done[entry.id] = finding
    return finding


def _platform_fix(text: str, evidence: Evidence) -> str:
    """`doctor.on-<platform>.<rest of text>` where the catalog has it."""
    platform = evidence.text("platform") if evidence.has("platform") else ""
    id = f"doctor.on-{platform}.{text.removeprefix('doctor.')}"
    return id if id in entries("en") else ""


def _apply(entry: Check, evidence: Evidence) -> Result:
    try:
        return entry.function(evidence)
    except MissingEvidenceError as error:
        return unknown(str(error))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        # What other programs print is input: a form that the check does not know is not a verdict.
        return unknown(f"{type(error).__name__}: {error}")
