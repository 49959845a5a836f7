"""Running the checks of `rfctl doctor` over evidence: which apply, in which order, with which words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rfctl.core.catalog import entries
from rfctl.core.error import UsageError

# The modules of the checks are imported for their registrations.
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
from rfctl.stack.check import GROUPS, REGISTERED, UNNEEDED, Check, Finding, Result, Verdict, skip, unknown
from rfctl.stack.evidence import Evidence, MissingEvidenceError


def checks() -> dict[str, Check]:
    """All checks by id, in the order of their groups."""
    # Whichever module was imported first, the order is the same.
    return dict(
        sorted(
            REGISTERED.items(), key=lambda item: (GROUPS.index(item[1].group), item[1].function.__module__)
        )
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
        return Result(Verdict.UNKNOWN, {"detail": str(error)}, text="doctor.not-collected")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        # What other programs print is input: a form that the check does not know is not a verdict.
        return unknown(f"{type(error).__name__}: {error}")
