"""What a reasoning model thinks, told apart from what it says, while the text is still coming."""

from __future__ import annotations

import enum
from collections.abc import Iterator


class Mark(enum.Enum):
    """Where a thought begins and ends."""

    OPEN = "<think>"
    CLOSE = "</think>"


class ThoughtSplitter:
    """Splits a text that comes in pieces at the marks of thoughts; a mark may be cut anywhere.

    is_thinking holds while an item is handed over. A mark out of place is text.
    """

    def __init__(self) -> None:
        self._held = ""
        self.is_thinking = False

    def feed(self, piece: str) -> Iterator[str | Mark]:
        """The text as far as it is certain, and the marks."""
        self._held += piece
        while True:
            mark = Mark.CLOSE if self.is_thinking else Mark.OPEN
            before, found, after = self._held.partition(mark.value)
            if not found:
                break
            self._held = after
            if before:
                yield before
            self.is_thinking = not self.is_thinking
            yield mark
        lengths = range(len(mark.value) - 1, 0, -1)
        kept = next((size for size in lengths if self._held.endswith(mark.value[:size])), 0)
        end = len(self._held) - kept
        ready, self._held = self._held[:end], self._held[end:]
        if ready:
            yield ready

    def finish(self) -> Iterator[str]:
        """What was held because it might have become a mark."""
        if self._held:
            yield self._held
        self._held = ""
