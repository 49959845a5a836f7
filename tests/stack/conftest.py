"""A Docker engine for each test file that asks for one, and `rfctl stack` on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker_engine
import pytest
from docker_engine import Engine, Stack


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if reason := docker_engine.missing_tool():
        pytest.skip(reason)
    try:
        engine = docker_engine.start()
    except (RuntimeError, OSError) as error:
        pytest.skip(f"no Docker engine can run here: {error}")
    yield engine
    engine.stop()


@pytest.fixture
def stack(
    rfctl: Callable[..., Any], engine: Engine, environment: dict[str, str], tmp_path: Path
) -> Iterator[Stack]:
    """A stack that is set up and not started; everything it made is removed afterwards."""
    stack = Stack(rfctl, engine, tmp_path, environment["RFCTL_HOME"])
    assert stack("stack", "init", "--size", "small").code == 0
    yield stack
    engine.clear()
