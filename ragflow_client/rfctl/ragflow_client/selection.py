"""Which files are meant by the words of a command: files, folders, and patterns that no shell has expanded.

Rules: a file that is named is always taken, and judged later. From a folder (with its sub-folders) and from
a pattern come the document types of `document_type.toml`; hidden files and folders and those that programs
keep for themselves are left out; links to folders are not followed. What was left out is counted.
"""

from __future__ import annotations

import os
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from rfctl.core.error import UsageError

SEPARATOR = " - "  # between folder and file in a document's name: RAGFlow keeps a slash as it is
_MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class Selection:
    """names: the document name of each file; folders: where they come from; skipped: why -> how many.

    Reasons are "hidden", "type" (not a document type) and "link" (a link to a folder, or a broken one).
    """

    names: dict[Path, str]
    folders: tuple[Path, ...]
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self.names)


def select_files(words: Sequence[Path]) -> Selection:
    """The files that `words` mean, each once, in the order of the words and then of the names.

    Raises UsageError `upload.pattern-empty` for a pattern without a file, `upload.folder-empty`,
    `upload.folder-unreadable`.
    """
    found: dict[Path, Path] = {}  # file -> path below its folder
    folders: list[Path] = []
    skipped: Counter[str] = Counter()
    for word in words:
        if word.is_dir():
            folders.append(word.absolute())
            before = len(found)
            for path in walk(word.absolute(), skipped):
                found.setdefault(path, path.relative_to(word.absolute()))
            if len(found) == before:
                raise UsageError("upload.folder-empty", path=word, types=", ".join(document_types()))
        elif _MAGIC & set(str(word)) and not word.exists():
            base = Path(word.anchor)
            matches = sorted(path.absolute() for path in base.glob(str(word.relative_to(base))))
            taken = [path for path in matches if path.is_file() and not _refuse(path, skipped)]
            if not taken:
                raise UsageError("upload.pattern-empty", path=word)
            for path in taken:
                folders.append(path.parent)
                found.setdefault(path, Path(path.name))
        else:
            folders.append(word.absolute().parent)
            found.setdefault(word.absolute(), Path(word.name))
    return Selection(name_files(found), tuple(dict.fromkeys(folders)), skipped)


def walk(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    """The documents below a folder, sorted. Raises UsageError `upload.folder-unreadable`."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(
            "upload.folder-unreadable", path=folder, detail=error.strerror or str(error)
        ) from error
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            if _is_private(entry.name):
                skipped["hidden"] += 1
            else:
                yield from walk(path, skipped)
        elif not entry.is_file():
            skipped["link"] += 1
        elif not _refuse(path, skipped):
            yield path


def name_files(found: dict[Path, Path]) -> dict[Path, str]:
    """Document names: the file's own, and with its folders in front where two files would have the same."""
    count = Counter(path.name.casefold() for path in found)
    return {
        path: path.name if count[path.name.casefold()] == 1 else SEPARATOR.join(below.parts)
        for path, below in found.items()
    }


@cache
def document_types() -> tuple[str, ...]:
    """Extensions, lower case and without a dot, that a folder is searched for."""
    return tuple(_data()["document"])


@cache
def _data() -> dict[str, list[str]]:
    with Path(__file__).with_name("document_type.toml").open("rb") as file:
        return tomllib.load(file)


def _is_private(name: str) -> bool:
    return name.startswith((".", *_data()["private"]))


def _refuse(path: Path, skipped: Counter[str]) -> bool:
    if _is_private(path.name):
        skipped["hidden"] += 1
        return True
    if path.suffix[1:].lower() not in document_types():
        skipped["type"] += 1
        return True
    return False
