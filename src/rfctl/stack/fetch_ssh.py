"""A command on a server through ssh: started, read behind whatever its login prints, ended with the block."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Self

from rfctl.core.error import RfctlError, UnreachableError
from rfctl.stack.tunnel import login_error, login_words

# Rented servers greet with a page of text, also where nobody reads it.
MAX_GREETING_BYTES = 256 << 10
_LINE_BYTES = 4096


@dataclass(frozen=True)
class Source:
    """host: for ssh; path: on the server, relative to the home folder there unless it begins with /.

    ssh_port: 0 for ssh's own choice; config: ssh's -F, "" for none.
    """

    host: str
    path: str
    ssh_port: int = 0
    config: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.path}"


class Deadline:
    """Ends a process that says nothing for so many seconds; a context manager around the reading."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self.is_over = False
        self._process, self._seconds = process, seconds
        self._last = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def extend(self) -> None:
        """Count anew."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        while (left := self._last + self._seconds - time.monotonic()) > 0:
            if self._done.wait(left):
                return
        self.is_over = True
        self._process.kill()


@dataclass(frozen=True)
class Session:
    """A command that runs on the server. mark: the line before its own output."""

    source: Source
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    mark: bytes

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None  # opened as a pipe below
        return self.process.stdout

    def skip_greeting(self) -> bool:
        """Read what the login prints; False when the command never began."""
        left = MAX_GREETING_BYTES
        while left > 0 and (line := self.stdout.readline(_LINE_BYTES)):
            if line.rstrip(b"\r\n") == self.mark:
                return True
            left -= len(line)
        return False

    def read(self, seconds: float, limit: int) -> bytes:
        """Everything that the command prints, `limit` + 1 bytes at most, within `seconds` in all.

        Raises RfctlError, AuthError, UnreachableError.
        """
        with Deadline(self.process, seconds) as deadline:
            has_begun = self.skip_greeting()
            data = self.stdout.read(limit + 1) if has_begun else b""
            if len(data) <= limit:
                self.process.wait()
        if deadline.is_over:
            raise UnreachableError("bring.timeout", source=self.source, seconds=round(seconds))
        if len(data) <= limit and self.process.returncode != 0:
            raise self.failure()
        if not has_begun:
            raise RfctlError("bring.answer-odd", source=self.source, detail=self.last_words())
        return data

    def failure(self) -> RfctlError:
        """255 is ssh's own end, 127 a shell that did not find a program, the rest the command's."""
        detail, code = self.last_words(), self.process.returncode
        if code == 255:
            login = login_words(self.source.host, self.source.ssh_port, self.source.config)
            return login_error(self.source.host, login, detail) or UnreachableError(
                "tunnel.failed", host=self.source.host, login=login, detail=detail
            )
        if code == 127 or "-printf" in detail:
            return RfctlError("bring.tools-missing", host=self.source.host, detail=detail)
        return RfctlError("bring.refused", source=self.source, detail=detail)

    def last_words(self) -> str:
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - 2000))
        text = self.errors.read().decode("utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines()]
        said = next((line[:300] for line in reversed(lines) if line), "")
        return said or f"ssh: exit {self.process.returncode}"


@contextlib.contextmanager
def open_ssh(source: Source, script: str) -> Iterator[Session]:
    """A script for sh on the server; it ends with the block, also on Ctrl-C."""
    command = ["ssh", "-T"]
    if source.config:
        command += ["-F", source.config]
    if source.ssh_port:
        command += ["-p", str(source.ssh_port)]
    for option in ("BatchMode=yes", "ServerAliveInterval=15", "ServerAliveCountMax=3", "ConnectTimeout=15"):
        command += ["-o", option]
    mark = f"rfctl-{secrets.token_hex(8)}"
    # sh, because the account's own shell may be another one.
    remote = f"exec sh -c {shlex.quote(f"printf '\\n{mark}\\n'; {script}")}"
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*command, "--", source.host, remote],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        try:
            yield Session(source, process, errors, mark.encode())
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
