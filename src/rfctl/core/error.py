"""The one error type that a user of rfctl meets.

An error carries an id and the values for its text. The words live in the catalogs
(`core/message/<language>/*.toml`), so the library never formats prose itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from rfctl.core.catalog import Text, render


class RfctlError(Exception):
    """An operation that failed for a reason the user can act on.

    id          stable identifier such as `model.architecture-unknown`; `rfctl explain ID` prints its page
    params      values for the placeholders of the catalog text (str, int, float or Path); `near`, if it is
                not empty, is the name that was probably meant, and is asked for in front of the cause
    exit_code   process exit code; the subclass gives the default (conventions: 1 operation failed)
    """

    default_exit_code: ClassVar[int] = 1

    def __init__(self, id: str, /, *, exit_code: int | None = None, **params: object) -> None:
        self.id = id
        self.params = params
        self.exit_code = self.default_exit_code if exit_code is None else exit_code
        super().__init__(id)

    def text(self, language: str = "en") -> Text:
        """The catalog text in `language` ("en" or "zh") with the parameters filled in."""
        text = render(self.id, language, self.params)
        if near := self.params.get("near"):
            asked = render("core.near", language, {"near": near}).message
            text = replace(text, why=f"{asked}{'' if language == 'zh' else ' '}{text.why}".rstrip())
        return text

    def __str__(self) -> str:
        text = self.text("en")
        return f"{self.id}: {text.message}"


class UsageError(RfctlError):
    """Wrong arguments or configuration (exit 2)."""

    default_exit_code = 2


class UnreachableError(RfctlError):
    """A service cannot be reached or did not answer in time (exit 3)."""

    default_exit_code = 3


class AuthError(RfctlError):
    """A service refused the credentials (exit 4)."""

    default_exit_code = 4


class VerdictError(RfctlError):
    """A check came to a negative verdict (exit 5)."""

    default_exit_code = 5


class PartlyDoneError(RfctlError):
    """Some of the items were done, others failed (exit 6)."""

    default_exit_code = 6


class RefusedError(RfctlError):
    """Destructive without consent, or not ours to change (exit 7)."""

    default_exit_code = 7
