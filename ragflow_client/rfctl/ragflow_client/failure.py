"""Errors of a RAGFlow server that keep what the server said, and causes inside reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rfctl.core.catalog import Text, render
from rfctl.core.error import RfctlError, UnreachableError

MAX_MESSAGE = 500


class ServerError(RfctlError):
    """The server answered with an error code inside the envelope.

    code      RAGFlow's code (common/constants.py RetCode, v0.27.0), 0 where the form of the answer is the
    fault
    message   the server's own words, cut to 500 characters
    data      the payload that came with it: with code 500 of an upload the documents that were accepted
    """

    def __init__(
        self, id: str, /, *, code: int = 0, message: str = "", data: object = None, **params: object
    ) -> None:
        self.code = code
        self.message = shorten(message)
        self.data = data
        super().__init__(id, exit_code=None, code=code, message=self.message, **params)


class UncertainError(UnreachableError):
    """The connection broke after the request was sent: the server may or may not have acted."""


@dataclass(frozen=True)
class Cause:
    """Why one item of a report failed, as a catalog id with its values, and the exit code it has alone."""

    id: str
    params: Mapping[str, object] = field(default_factory=dict)
    exit_code: int = 1

    def text(self, language: str = "en") -> Text:
        return render(self.id, language, self.params)

    def to_error(self) -> RfctlError:
        return RfctlError(self.id, exit_code=self.exit_code, **self.params)


def explain(error: RfctlError) -> Cause:
    """The cause that an error stands for."""
    return Cause(error.id, dict(error.params), error.exit_code)


def shorten(text: str) -> str:
    """At most 500 characters on one line."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"
