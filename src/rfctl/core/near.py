"""The name that was probably meant, for every error about a name that is not there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# Of `library/qwen2.5:0.5b@provider` the part that people remember.
_BASE = re.compile(r"^(?:.*/)?([^/:@]+)")
_CUTOFF = 0.6


def find_near(name: str, known: Iterable[str]) -> str:
    """The most similar of the known names, "" when none is similar.

    The same name under another tag, provider or case comes before one that is only spelled alike.
    """
    names = list(dict.fromkeys(known))
    if not name:
        return ""
    for fold in (str.casefold, _base):
        for one in names:
            if fold(one) == fold(name):
                return one
    by_form: dict[str, str] = {}
    for one in reversed(names):
        by_form |= {one.casefold(): one, _base(one): one}
    for form in (name.casefold(), _base(name)):
        if close := difflib.get_close_matches(form, by_form, n=1, cutoff=_CUTOFF):
            return by_form[close[0]]
    return ""


def _base(name: str) -> str:
    found = _BASE.match(name)
    return (found[1] if found else name).casefold()
