"""The command while it writes: interrupted, without room, without rights. The old file or none remains, and
it says so.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import pytest
from made_model import make_llama

from rfctl.core.catalog import entries

OLD = b"the old file"
COMMAND = [sys.executable, "-m", "rfctl.cli.main", "--lang", "en", "model", "convert"]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals, limits and mounts of POSIX")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 million weights: long enough to be met while it is written."""
    made = make_llama()
    made.tensors["model.embed_tokens.weight"] = ("BF16", [400_000, 64])
    made.config["vocab_size"] = 400_000
    return made.write(tmp_path_factory.mktemp("fault") / "Made-1B")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return dict(os.environ) | {"RFCTL_HOME": str(tmp_path / "home"), "NO_COLOR": "1", "COLUMNS": "100"}


def command(model: Path, target: Path) -> list[str]:
    return [*COMMAND, str(model), "-o", str(target), "--outtype", "q8_0", "--threads", "1", "--force"]


def start(line: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


@pytest.mark.parametrize("old", [OLD, None])
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle(
    signal_number: signal.Signals, old: bytes | None, model: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "made.gguf"
    if old is not None:
        target.write_bytes(old)
    process = start(command(model, target), environment)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.partial")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)
    # Held while the signal is sent, so that it cannot come to its end in between.
    for number in (signal.SIGSTOP, signal_number, signal.SIGCONT):
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (target.read_bytes() if target.exists() else None) == old
    if signal_number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        # Nobody could clean up; the next run takes the rest over.
        again = start(command(model, target), environment)
        again.communicate(timeout=60)
        assert again.returncode == 0
        assert [path.name for path in folder.iterdir()] == ["made.gguf"]
        return
    assert process.returncode == 130, err
    assert entries("en")["core.interrupted"]["message"] in err
    assert [path.name for path in folder.iterdir()] == ([target.name] if old is not None else [])


@pytest.mark.parametrize(
    ("options", "then", "id"),
    [
        ("size=4m", "true", "model.target-full"),
        ("size=200m", "mount -o remount,ro", "model.target-unwritable"),
    ],
)
def test_a_disk_without_room_or_rights(
    options: str, then: str, id: str, model: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """A small or read-only file system, mounted where only the command sees it; it binds root as well."""
    unshare = shutil.which("unshare")
    folder = tmp_path / "disk"
    folder.mkdir()
    script = f"mount -t tmpfs -o {options} none '{folder}' && printf 'the old file' > '{folder}/made.gguf'"
    script += f" && {then} '{folder}' && \"$@\"; code=$?; ls '{folder}'; cat '{folder}'/*; exit $code"
    line = [unshare or "", "--mount", "sh", "-c", script, "sh"]
    if unshare is None or subprocess.run([*line, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system")
    process = start([*line, *command(model, folder / "made.gguf")], environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert id in err and entries("en")[id]["why"] in err
    assert out == "made.gguf\nthe old file"


def test_an_interruption_at_every_step_of_the_file(tmp_path: Path) -> None:
    """Ctrl-C before each line that opens, fills and renames the file: the old one or the new one is left."""
    from rfctl.converter import storage
    from rfctl.converter.convert import make_plan
    from rfctl.converter.writer import write_plan

    plan = make_plan(make_llama().write(tmp_path / "small"), "q8_0")
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "made.gguf"
    whole = target.read_bytes() if write_plan(plan, target, threads=1) else b""
    interrupted = 0
    for step in range(400):
        target.write_bytes(OLD)
        left = step

        def trace(frame: FrameType, event: str, argument: object) -> object:
            nonlocal left
            if frame.f_code.co_filename != storage.__file__:
                return trace if event == "call" else None
            if event == "line":
                left -= 1
                if left == -1:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            write_plan(plan, target, threads=1, overwrite=True)
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(None)
        assert [path.name for path in folder.iterdir()] == ["made.gguf"], step
        assert target.read_bytes() in (OLD, whole), step
        if left >= 0:
            break
    assert interrupted > 20
