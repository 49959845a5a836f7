"""What a check found: one observation with an id, and one authority's answer."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from rfctl.core.catalog import Text, render


class Severity(enum.StrEnum):
    """How much a finding matters: error = it will not work, warn = it may not do what you expect."""

    ERROR = "error"
    WARN = "warn"
    INFO = "info"


@dataclass(frozen=True)
class Finding:
    """One observation.

    id        key of the catalog text; `rfctl explain ID` prints its page
    params    values for the text; long lists are shortened to a count and the first names
    """

    id: str
    severity: Severity
    params: Mapping[str, object] = field(default_factory=dict)

    def text(self, language: str = "en") -> Text:
        """Message, cause and next step in `language` ("en" or "zh")."""
        return render(self.id, language, self.params)


class Answer(enum.StrEnum):
    """Whether an authority takes the model. UNKNOWN is an answer of its own, never a yes."""

    SUPPORTED = "supported"
    UNSUPPORTED = "unsupported"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Verdict:
    """What one authority says.

    authority  "converter", "llama.cpp", "ollama" or "ollama-importer"
    version    version, build or table that answers
    answer     see Answer
    since      first version known to take the model; "" when none is known
    reason     id of the catalog text of the reason, with `params` as its values
    """

    authority: str
    version: str
    answer: Answer
    since: str
    reason: str
    params: Mapping[str, object] = field(default_factory=dict)

    def text(self, language: str = "en") -> str:
        return render(self.reason, language, self.params).message


def shorten(names: list[str], most: int = 5) -> str:
    """The first names of a list and how many more there are: "a, b and 3 more" without words ("a, b, +3")."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, +{len(names) - most}"
