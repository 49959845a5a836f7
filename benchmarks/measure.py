"""Run a command as a whole process and say what it cost."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """wall, cpu: seconds (cpu = user + system of the process tree); rss: peak resident bytes."""

    wall: float
    cpu: float
    rss: int


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Cost:
    """Run `command`; raises RuntimeError with the end of its output when it fails."""
    return read(command, env, errors=True)[0]


def read(
    command: Sequence[str], env: Mapping[str, str] | None = None, *, errors: bool = False
) -> tuple[Cost, str]:
    """The same with what it printed on stdout (errors: and on stderr)."""
    start = time.perf_counter()
    with subprocess.Popen(
        list(command),
        env=dict(env) if env else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if errors else subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(
            f"{command[0]} failed ({process.returncode}): {output[-1500:].decode(errors='replace')}"
        )
    cost = Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
    return cost, output.decode("utf-8", errors="replace")
