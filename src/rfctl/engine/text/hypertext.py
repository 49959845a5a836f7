"""The visible text of an HTML page, in time that grows with the page and no faster.

`html.parser` of some Python 3.13 needs time that grows with the square of the page where marks are never
closed, which stops the engine for hours; so the few marks that matter here are found by searches that are
never begun twice for the same end. Rules of the HTML living standard (13.2.5, tokenization): what opens a tag
or a comment and is never closed swallows the rest.
"""

from __future__ import annotations

import html
import re

_BLOCKS = frozenset(
    {
        *(
            "p",
            "div",
            "br",
            "li",
            "ul",
            "ol",
            "dt",
            "dd",
            "tr",
            "table",
            "caption",
            "pre",
            "blockquote",
            "hr",
        ),
        *("h1", "h2", "h3", "h4", "h5", "h6", "title", "section", "article", "header", "footer", "option"),
    }
)
_CELLS = frozenset({"td", "th"})
# Their content is no markup: it ends with their own closing tag only.
_RAW = frozenset({"script", "style", "textarea", "title"})
_HIDDEN = frozenset({"script", "style"})
_NESTED_HIDDEN = frozenset({"template", "noscript"})
_NAME = re.compile(r"<(/?)([a-zA-Z][^\s/>]{0,63})")
_REST = re.compile(r"""(?:[^>"'=]++|=\s*+(?:"[^"]*+"|'[^']*+')|["'=])*+>""")
# Where a quote is never closed, the search for its end goes on to the end of the page.
_MAX_FAILURES = 50
# Longer numbers are no character, and thousands of digits are no number that Python takes.
_NUMBER = re.compile(r"&#(?:[0-9]{8,}|[xX][0-9a-fA-F]{8,});?")


def strip_html(text: str) -> str:
    """The visible text of an HTML page, a line per block element. Never fails on bad markup."""
    lines = (" ".join(line.split()) for line in "".join(_Stripper(text).run()).splitlines())
    return "\n".join(line for line in lines if line)


class _Stripper:
    def __init__(self, text: str) -> None:
        self.text = text
        self.pieces: list[str] = []
        self.hidden = 0
        self.failures = 0

    def run(self) -> list[str]:
        at = 0
        while at >= 0:
            begin = self.text.find("<", at)
            self.say(self.text[at : begin if begin >= 0 else len(self.text)])
            at = self.mark(begin) if begin >= 0 else -1
        return self.pieces

    def mark(self, begin: int) -> int:
        """What stands at `begin` after a `<`; the place behind it, or -1 when it swallows the rest."""
        text = self.text
        if text.startswith("<!--", begin):
            return self.behind("-->", begin + 4)
        is_bogus = text.startswith("</", begin) and not text[begin + 2 : begin + 3].isalpha()
        if is_bogus or text.startswith(("<!", "<?"), begin):
            return self.behind(">", begin + 2)
        match = _NAME.match(text, begin)
        if match is None:
            self.say("<")
            return begin + 1
        closes, name = bool(match[1]), match[2].lower()
        end = self.end_of_tag(match.end())
        if end < 0:
            return -1
        self.tag(name, closes)
        if name in _RAW and not closes:
            return self.raw(name, end)
        return end

    def end_of_tag(self, at: int) -> int:
        if self.failures < _MAX_FAILURES:
            if (match := _REST.match(self.text, at)) is not None:
                return match.end()
            self.failures += 1
        return self.behind(">", at)

    def behind(self, mark: str, at: int) -> int:
        found = self.text.find(mark, at)
        return found + len(mark) if found >= 0 else -1

    def raw(self, name: str, at: int) -> int:
        """The content of an element without markup; the place of its closing tag, or -1."""
        found = re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE).search(self.text, at)
        if name not in _HIDDEN:
            self.say(self.text[at : found.start() if found else len(self.text)])
        return found.start() if found else -1

    def tag(self, name: str, closes: bool) -> None:
        if name in _NESTED_HIDDEN:
            self.hidden = max(0, self.hidden + (-1 if closes else 1))
        elif name in _BLOCKS:
            self.pieces.append("\n")
        elif name in _CELLS and not closes:
            self.pieces.append(" ")

    def say(self, text: str) -> None:
        if text and not self.hidden:
            self.pieces.append(html.unescape(_NUMBER.sub("\ufffd", text)).replace("\n", " "))
