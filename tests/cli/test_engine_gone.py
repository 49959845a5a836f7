"""The embedded engine dies in the middle of a command: the hint says how to start it, not Ollama."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "ollama"))
from model_file import write_gguf

Run = Callable[..., Any]


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")
def test_while_a_model_is_uploaded(rfctl: Run, environment: dict[str, str], tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", rows=400_000)
    started = json.loads(rfctl("engine", "start", "--json").out)
    process = subprocess.Popen(
        [sys.executable, "-m", "rfctl.cli.main", "model", "push", "model.gguf", "m", "--via", "http"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "ploading" in line:
            os.kill(started["pid"], signal.SIGKILL)
            break
    out, error = process.communicate(timeout=120)
    assert "error[" in error, error
    said = error[error.index("error[") :].splitlines()
    assert (process.returncode, out) == (3, "")
    assert said[0] == f"error[engine.gone]: The embedded engine at {started['url']} is gone"
    assert said[1].startswith("  why: ")
    assert said[2:] == [
        "  next: rfctl engine start, then the same command again; why it ended: rfctl engine logs",
        "  rfctl explain engine.gone",
    ]
    assert "ollama serve" not in error
