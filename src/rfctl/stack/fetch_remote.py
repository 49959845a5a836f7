"""The server's side of a fetch: what is there, its hashes and its bytes, through ssh and a shell.

The server needs GNU find, tail and sha256sum (every Linux has them), nothing of ours.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rfctl.core.error import RfctlError, UnreachableError, UsageError
from rfctl.stack.fetch_ssh import Session, Source, open_ssh
from rfctl.stack.tunnel import check_host

MAX_FILES = 2000
MAX_LIST_BYTES = 4 << 20
LIST_SECONDS = 60.0
# Hashing reads the file on the server: 30 MB/s is a slow disk.
SLOW_BYTES_PER_SECOND = 30e6
_HASH_BATCH = 50
_BIG_BYTES = 64 << 20


@dataclass(frozen=True)
class Remote:
    """A file of the server. name: relative to the source's path, "" when that is the file itself;
    size: bytes; modified: seconds as the server prints them."""

    name: str
    size: int
    modified: str


def parse_source(text: str, *, ssh_port: int = 0, config: str = "") -> Source:
    """`user@host:path`. Raises UsageError."""
    host, colon, path = text.partition("]:") if "[" in text else text.partition(":")
    host += "]" if colon == "]:" else ""
    path = path.removeprefix("~/").rstrip("/") or ("/" if path.startswith("/") else "")
    if not colon or not path or "\0" in path or "\n" in path:
        raise UsageError("bring.source-invalid", source=text)
    return Source(check_host(host), path, ssh_port, config)


def list_remote(source: Source) -> list[Remote]:
    """The files behind the path, largest last. Raises RfctlError, AuthError, UnreachableError."""
    place = shlex.quote(_argument(source.path))
    # A server without these would be found out after the last byte.
    tools = (
        "for one in tail sha256sum; do command -v $one >/dev/null || { echo no $one >&2; exit 127; }; done"
    )
    data = _capture(source, f"{tools}; find -L {place} -type f -printf '%s\\t%T@\\t%P\\0'", LIST_SECONDS)
    files = []
    for record in data.split(b"\0")[:-1]:
        size, _, rest = record.decode("utf-8", errors="replace").partition("\t")
        modified, _, name = rest.partition("\t")
        if not size.isdigit():
            raise RfctlError("bring.answer-odd", source=source, detail=record[:80].decode(errors="replace"))
        files.append(Remote(name, int(size), modified))
    if not files:
        raise RfctlError("bring.nothing", source=source)
    if len(files) > MAX_FILES:
        raise RfctlError("bring.too-many", source=source, count=len(files), limit=MAX_FILES)
    return sorted(files, key=lambda one: (one.size, one.name))


def quoted(source: Source, file: Remote) -> str:
    """The file as a word for a shell of the server."""
    return shlex.quote(_argument(source.path if not file.name else f"{source.path}/{file.name}"))


def _argument(path: str) -> str:
    """Never an option, however it begins."""
    return path if path.startswith("/") else f"./{path}"


class Hashes:
    """sha256 as the server computes them; a context manager that ends what it began there."""

    def __init__(self, source: Source, files: Sequence[Remote]) -> None:
        self._source = source
        self._files = list(files)
        self._known: dict[str, str] = {}
        self._stack = contextlib.ExitStack()
        self._begun: tuple[Remote, Session] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def begin(self, file: Remote) -> None:
        """Let the server hash a big file while its bytes are on their way."""
        if file.size >= _BIG_BYTES and file.name not in self._known:
            self._stack.close()
            self._begun = (file, self._stack.enter_context(open_ssh(self._source, self._command([file]))))

    def get(self, file: Remote) -> str:
        """Raises RfctlError, AuthError, UnreachableError."""
        if self._begun is not None and self._begun[0] == file:
            _, session = self._begun
            self._begun = None
            # A connection that broke in the meantime is no answer: the question is asked again below.
            with contextlib.suppress(UnreachableError):
                self._learn([file], _read(session, self._seconds([file])))
            self._stack.close()
        if file.name not in self._known:
            self._ask(self._batch(file))
        return self._known[file.name]

    def _batch(self, file: Remote) -> list[Remote]:
        """Small files together. A big one alone: its time limit is its own, and `begin` asks in its turn."""
        if file.size >= _BIG_BYTES:
            return [file]
        index = self._files.index(file)
        return [one for one in self._files[index : index + _HASH_BATCH] if one.size < _BIG_BYTES]

    def _ask(self, files: Sequence[Remote]) -> None:
        self._learn(files, _capture(self._source, self._command(files), self._seconds(files)))

    def _command(self, files: Sequence[Remote]) -> str:
        return "sha256sum -z -- " + " ".join(quoted(self._source, one) for one in files)

    @staticmethod
    def _seconds(files: Sequence[Remote]) -> float:
        return LIST_SECONDS + sum(one.size for one in files) / SLOW_BYTES_PER_SECOND

    def _learn(self, files: Sequence[Remote], data: bytes) -> None:
        answers = data.split(b"\0")
        if len(answers) != len(files) + 1:
            detail = f"{len(answers) - 1} hashes for {len(files)} files"
            raise RfctlError("bring.answer-odd", source=self._source, detail=detail)
        for one, answer in zip(files, answers, strict=False):
            digest = answer[:64].decode("ascii", errors="replace")
            if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
                raise RfctlError("bring.answer-odd", source=self._source, detail=digest[:80])
            self._known[one.name] = digest


def _capture(source: Source, script: str, seconds: float) -> bytes:
    """What a script on the server prints. Raises RfctlError, AuthError, UnreachableError."""
    with open_ssh(source, script) as session:
        return _read(session, seconds)


def _read(session: Session, seconds: float) -> bytes:
    data = session.read(seconds, MAX_LIST_BYTES)
    if len(data) > MAX_LIST_BYTES:
        raise RfctlError("bring.too-many", source=session.source, count=MAX_FILES, limit=MAX_FILES)
    return data
