"""How long work reports on itself without knowing who listens.

Library functions take a `Reporter`; the command line passes one that draws bars or plain lines,
tests and `--quiet` pass `SILENT`.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self


class Stage(Protocol):
    """One measured piece of work; a context manager that ends the piece."""

    def advance(self, amount: int) -> None:
        """Add `amount` of the stage's unit (thread-safe)."""

    def update(self, *, done: int | None = None, total: int | None = None, detail: str = "") -> None:
        """Set the absolute state; `detail` is a short free text such as a queue position."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Reporter(Protocol):
    """Receives stages and one-line notes, both named by catalog ids."""

    def stage(self, id: str, /, *, total: int | None = None, unit: str = "bytes", **params: object) -> Stage:
        """Begin a stage. unit: "bytes", "pages", "items" or "seconds"; total None = unknown."""

    def note(self, id: str, /, **params: object) -> None:
        """A line of information (not an error)."""

    def warn(self, id: str, /, **params: object) -> None:
        """A line that the user should act on although the work goes on."""


class _SilentStage:
    def advance(self, amount: int) -> None:
        pass

    def update(self, *, done: int | None = None, total: int | None = None, detail: str = "") -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _SilentReporter:
    def stage(self, id: str, /, *, total: int | None = None, unit: str = "bytes", **params: object) -> Stage:
        return _SilentStage()

    def note(self, id: str, /, **params: object) -> None:
        pass

    def warn(self, id: str, /, **params: object) -> None:
        pass


SILENT: Reporter = _SilentReporter()
