"""Carries out the steps of a plan, remembers what it did, and takes it back.

The ledger (`wsl-applied.json`) holds the undo of every step that was done, in order.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rfctl.core.error import RfctlError, UsageError
from rfctl.core.file import write_atomic
from rfctl.core.progress import SILENT, Reporter
from rfctl.stack.child import Capture, run
from rfctl.stack.wsl_plan import ADMIN, HAND, Plan, Step

STEP_SECONDS = 3600.0
LEDGER = "wsl-applied.json"
DONE, LEFT = "done", "left"


@dataclass(frozen=True)
class Outcome:
    """state: "done", or "left" for a step that a person has to do (elevated, or by hand)."""

    step: str
    state: str
    detail: str = ""


@dataclass(frozen=True)
class Applied:
    """An entry of the ledger."""

    step: str
    undo: tuple[str, ...]
    is_admin: bool = False


def apply(
    plan: Plan,
    ledger: Path,
    *,
    environment: Mapping[str, str],
    is_elevated: bool,
    agree: Callable[[Step], None],
    reporter: Reporter = SILENT,
) -> list[Outcome]:
    """Do every step of `plan` in order. agree: raises RefusedError for a no.

    Steps that need an administrator are left when this process is none; what comes after them is still done.
    Steps inside the distribution wait for a restart of WSL that is left: without systemd, installers make no
    services. Raises RfctlError `wsl.step-failed` for a command that fails; it and the steps before it are
    remembered.
    """
    outcomes: list[Outcome] = []
    for step in plan.steps:
        waits = "restart" in [one.step for one in outcomes] and "--exec" in step.command
        if waits or step.place == HAND or (step.place == ADMIN and not is_elevated):
            outcomes.append(Outcome(step.id, LEFT, shown(step)))
            continue
        agree(step)
        # First, so that a kill in the middle of the step does not lose its way back.
        _remember(ledger, Applied(step.id, step.undo, step.place == ADMIN))
        with reporter.stage("wsl.stage-step", unit="seconds", step=step.id):
            found = run(step.command, timeout=STEP_SECONDS, environment=environment)
        _require(step.id, step.command, found)
        outcomes.append(Outcome(step.id, DONE, _last_line(found)))
    return outcomes


def undo(
    ledger: Path, *, environment: Mapping[str, str], is_elevated: bool, agree: Callable[[Applied], None]
) -> list[Outcome]:
    """Take back what `apply` did, the last first. Raises RefusedError (from agree), RfctlError."""
    outcomes: list[Outcome] = []
    kept: list[Applied] = []
    entries = applied(ledger)
    while entries:
        entry = entries.pop()
        if not entry.undo:
            continue
        if entry.is_admin and not is_elevated:
            outcomes.append(Outcome(entry.step, LEFT, elevated(entry.undo)))
            kept.insert(0, entry)
            continue
        agree(entry)
        _require(entry.step, entry.undo, run(entry.undo, timeout=STEP_SECONDS, environment=environment))
        _write(ledger, [*entries, *kept])
        outcomes.append(Outcome(entry.step, DONE))
    _write(ledger, kept)
    return outcomes


def applied(ledger: Path) -> list[Applied]:
    """What was done and not taken back. Raises UsageError for a file that rfctl did not write."""
    try:
        document = json.loads(ledger.read_text(encoding="utf-8"))
        return [Applied(one["step"], tuple(one["undo"]), bool(one["is_admin"])) for one in document]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError("wsl.ledger-broken", path=ledger, detail=str(error)) from error


def shown(step: Step) -> str:
    """The command as a person types it: elevated where it must be."""
    return elevated(step.command) if step.place == ADMIN else command_line(step.command)


def command_line(command: tuple[str, ...]) -> str:
    """For PowerShell; quoted as Windows programs split their arguments."""
    line = subprocess.list2cmdline(command)
    # Without the sign PowerShell takes a program in quotes for a text.
    return f"& {line}" if line.startswith('"') else line


def elevated(command: tuple[str, ...]) -> str:
    """A line for an ordinary PowerShell that asks for an administrator; the new window stays to be read."""
    words = [word for word in command[1:] if word != "-NonInteractive"]
    if command[0] == "powershell.exe":
        words.insert(0, "-NoExit")
    arguments = subprocess.list2cmdline(words).replace("'", "''")
    return f"Start-Process {command[0]} -Verb RunAs -Wait -ArgumentList '{arguments}'"


def _require(step: str, command: tuple[str, ...], found: Capture) -> None:
    if not found.is_ok:
        detail = _last_line(found) or found.state
        raise RfctlError("wsl.step-failed", step=step, detail=detail, command=command_line(command))


def _last_line(found: Capture) -> str:
    lines = [line.strip() for line in found.text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _remember(ledger: Path, entry: Applied) -> None:
    """An undo that is known already keeps its place: it leads back to the first state."""
    entries = applied(ledger)
    if entry.undo and entry.undo not in [one.undo for one in entries]:
        _write(ledger, [*entries, entry])


def _write(ledger: Path, entries: list[Applied]) -> None:
    document = [{"step": one.step, "undo": list(one.undo), "is_admin": one.is_admin} for one in entries]
    try:
        write_atomic(ledger, json.dumps(document, ensure_ascii=False, indent=1).encode())
    except OSError as error:
        raise RfctlError("wsl.ledger-unwritable", path=ledger, detail=str(error)) from error
