"""Progress on standard error: a bar on a terminal, at most one plain line every ten seconds in a pipe."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rfctl.core.catalog import render
from rfctl.core.progress import Stage

PLAIN_INTERVAL_SECONDS = 10.0


class ConsoleReporter:
    """Implements `rfctl.core.progress.Reporter` for people."""

    def __init__(self, language: str, write: Callable[[str], None]) -> None:
        self._language = language
        self._write = write

    def stage(self, id: str, /, *, total: int | None = None, unit: str = "bytes", **params: object) -> Stage:
        label = self._text(id, params)
        if sys.stderr.isatty():
            return _BarStage(label, total, unit)
        shown = unit if unit == "bytes" else self._text(f"progress.{unit}", {})
        return _PlainStage(label, total, shown, self._write)

    def note(self, id: str, /, **params: object) -> None:
        self._write(self._text(id, params))

    def warn(self, id: str, /, **params: object) -> None:
        text = render(id, self._language, params)
        self._write(f"{self._text('cli.warning', {})}: {text.message}")
        if text.next:
            self._write(f"  {self._text('cli.next', {})}: {text.next}")

    def _text(self, id: str, params: dict[str, object]) -> str:
        return render(id, self._language, params).message


class _PlainStage:
    def __init__(self, label: str, total: int | None, unit: str, write: Callable[[str], None]) -> None:
        self._label, self._total, self._unit, self._write = label, total, unit, write
        self._done = 0
        self._detail = ""
        self._lock = threading.Lock()
        self._started = self._last = time.monotonic()

    def advance(self, amount: int) -> None:
        with self._lock:
            self._done += amount
            self._maybe_write()

    def update(self, *, done: int | None = None, total: int | None = None, detail: str = "") -> None:
        with self._lock:
            self._done = self._done if done is None else done
            self._total = self._total if total is None else total
            self._detail = detail or self._detail
            self._maybe_write()

    def _maybe_write(self) -> None:
        now = time.monotonic()
        if now - self._last >= PLAIN_INTERVAL_SECONDS:
            self._last = now
            self._write(self._line())

    def _line(self) -> str:
        if self._unit == "bytes":
            amount = _bytes(self._done) + (f" / {_bytes(self._total)}" if self._total else "")
        else:
            amount = f"{self._done}" + (f" / {self._total}" if self._total else "") + f" {self._unit}"
        return "  ".join(part for part in (self._label, amount, self._detail) if part)

    def __enter__(self) -> Self:
        self._write(f"{self._label} …")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _BarStage:
    def __init__(self, label: str, total: int | None, unit: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns: list[Any] = [TextColumn("{task.description}", markup=False), BarColumn(bar_width=None)]
        if unit == "bytes":
            columns += [DownloadColumn(), TransferSpeedColumn()]
        elif unit != "seconds":
            columns += [MofNCompleteColumn()]
        columns += [TimeElapsedColumn() if total is None else TimeRemainingColumn()]
        columns += [TextColumn("{task.fields[detail]}", markup=False)]
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(label, total=total, detail="")

    def advance(self, amount: int) -> None:
        self._progress.advance(self._task, amount)

    def update(self, *, done: int | None = None, total: int | None = None, detail: str = "") -> None:
        known: dict[str, Any] = {"detail": detail}
        if done is not None:
            known["completed"] = done
        if total is not None:
            known["total"] = total
        self._progress.update(self._task, **known)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def _bytes(value: int) -> str:
    size = float(value)
    for name in ("B", "kB", "MB", "GB"):
        if size < 1000 or name == "GB":
            return f"{size:.0f} {name}" if name == "B" else f"{size:.1f} {name}"
        size /= 1000
    raise AssertionError("unreachable")
