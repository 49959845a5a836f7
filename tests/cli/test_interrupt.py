"""Ctrl-C at any import of a command: exit 130, no traceback, whatever was being loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a console event, not a signal, interrupts there")

# Interrupts itself at the given import after the entry point is there; prints how many there were.
PROGRAM = """
import os, sys, signal
from rfctl.cli.main import run
at, count = int(sys.argv.pop(1)), 0
def hook(event, arguments):
    global count
    if event == "import":
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
try:
    run()
finally:
    print("IMPORTS", count, file=sys.stderr)
"""


def interrupt(environment: dict[str, str], folder: Path, at: int, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(at), *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--help",), 0), (("model", "check", "empty"), 5), (("engine", "status"), 0)],
    ids=["help", "check", "status"],
)
def test_at_any_import(
    environment: dict[str, str], tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    (tmp_path / "empty").mkdir()
    whole = interrupt(environment, tmp_path, 0, *arguments)
    assert whole[0] == code, whole
    count = int(whole[2].rsplit("IMPORTS", 1)[1])
    assert count > 60
    # Every early one, where the entry point itself could be caught, and a sample of the rest.
    places = [*range(1, 8), *range(8, count, max(1, count // 10))]
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda at: (at, interrupt(environment, tmp_path, at, *arguments)), places)
        for at, (ended, _, error) in results:
            said = error.partition("IMPORTS")[0].strip()
            assert ended == 130, (at, error)
            assert "Traceback" not in error
            assert said == "" or said.startswith("error[core.interrupted]: "), (at, error)
