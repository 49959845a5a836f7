"""Child processes with a deadline, and the text of programs that print UTF-16 or GBK."""

from __future__ import annotations

import codecs
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_OUTPUT = 4 << 20
DONE, MISSING, TIMEOUT = "done", "missing", "timeout"


@dataclass(frozen=True)
class Capture:
    """What a program said. state: "done", "missing" (not found or not startable) or "timeout";
    code: exit status, 0 unless done; out, err: decoded, at most 4 MiB each."""

    state: str
    code: int = 0
    out: str = ""
    err: str = ""

    @property
    def is_ok(self) -> bool:
        return self.state == DONE and self.code == 0

    @property
    def text(self) -> str:
        """Everything it printed, errors first."""
        return (self.err + "\n" + self.out).strip()


def run(
    command: Sequence[str],
    *,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Capture:
    """Run `command` without a shell and without input; never raises for what the program does.

    timeout: seconds, after which the program is killed. WSL_UTF8=1 makes newer `wsl.exe` print UTF-8.
    """
    program = shutil.which(command[0], path=(environment or os.environ).get("PATH"))
    if program is None:
        return Capture(MISSING)
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            cwd=directory,
            env=None if environment is None else dict(environment),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except subprocess.TimeoutExpired as error:
        return Capture(TIMEOUT, 0, decode(error.stdout or b""), decode(error.stderr or b""))
    except OSError as error:
        return Capture(MISSING, 0, "", str(error))
    return Capture(DONE, done.returncode, decode(done.stdout), decode(done.stderr))


def decode(data: bytes) -> str:
    """Text of a console program: UTF-16 (with a mark, or seen by its zero bytes), UTF-8, else GBK.

    `wsl.exe` prints UTF-16LE without a mark (microsoft/WSL#4607); other Windows programs print the code
    page of the console, which is GBK (936) on a Chinese Windows.
    """
    data = data[:MAX_OUTPUT]
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _lines(data.decode("utf-16", errors="replace"))
    # Text in UTF-8 or GBK has no zero bytes; in UTF-16LE every ASCII character has one, line ends too.
    if b"\0" in data:
        return _lines(data.decode("utf-16-le", errors="replace"))
    try:
        return _lines(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return _lines(data.decode("gbk", errors="replace"))


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n")
