"""What a failing conversion leaves behind: the old file, or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import make_model, poke

from rfctl.converter.convert import convert, make_plan
from rfctl.converter.layout import lay_out
from rfctl.core.error import RefusedError, RfctlError, UsageError
from rfctl.core.file import sha256_file
from rfctl.core.progress import Stage

OLD = b"the old file"
RUN = """
import sys
from pathlib import Path
from rfctl.converter.convert import convert
convert(Path(sys.argv[1]), Path(sys.argv[2]), outtype=sys.argv[3], overwrite=True, threads=2)
"""


@pytest.fixture
def model(golden: Path, tmp_path: Path) -> Path:
    return make_model(tmp_path / "Tiny-7M", golden / "converter" / "tokenizers" / "gpt2")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "model.gguf"
    path.parent.mkdir()
    path.write_bytes(OLD)
    return path


def list_names(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_result_describes_the_file(model: Path, target: Path) -> None:
    done = convert(model, target, outtype="F16", overwrite=True)
    assert done.size == target.stat().st_size
    assert done.sha256 == sha256_file(target)
    assert (done.architecture, done.outtype, done.file_type) == ("llama", "F16", 1)
    assert done.tensor_count == 20
    assert done.parameter_count == 50257 * 64 + 64 + 2 * (2 * 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96)
    assert done.context_length == 128
    assert list_names(target) == ["model.gguf"]


def test_plan_knows_the_size_before_writing(model: Path, target: Path) -> None:
    layout = lay_out(make_plan(model, "Q4_K_M"))
    assert layout.size == convert(model, target, outtype="q4_k_m", overwrite=True).size


def test_existing_target_is_refused(model: Path, target: Path) -> None:
    with pytest.raises(RefusedError, match=r"model\.target-exists"):
        convert(model, target)
    assert target.read_bytes() == OLD


@pytest.mark.parametrize("outtype", ["f16", "q8_0", "Q4_K_M"])
def test_the_same_bytes_are_unchanged(model: Path, target: Path, outtype: str) -> None:
    first = convert(model, target, outtype=outtype, overwrite=True)
    before = target.stat()
    again = convert(model, target, outtype=outtype, threads=3)
    assert (first.unchanged, again.unchanged, again.sha256) == (False, True, first.sha256)
    after = target.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list_names(target) == ["model.gguf"]


def test_every_byte_is_compared(model: Path, target: Path) -> None:
    """One changed byte anywhere, padding between tensors included, is a file that is not ours to keep."""
    convert(model, target, outtype="q8_0", overwrite=True)
    whole = target.read_bytes()
    layout = lay_out(make_plan(model, "q8_0"))
    ends = [place.offset + place.size for place in layout.places]
    padded = next(end for end in ends if end % 32)
    for position in (4, len(layout.head) - 1, len(layout.head), padded, len(whole) // 2, len(whole) - 1):
        other = bytearray(whole)
        other[position] ^= 1
        target.write_bytes(other)
        with pytest.raises(RefusedError, match=r"model\.target-exists"):
            convert(model, target, outtype="q8_0")
        assert target.read_bytes() == other
    for other in (whole[:-1], whole + b"\0", b""):
        target.write_bytes(other)
        with pytest.raises(RefusedError, match=r"model\.target-exists"):
            convert(model, target, outtype="q8_0")
    target.unlink()
    target.mkdir()
    with pytest.raises(RefusedError, match=r"model\.target-exists"):
        convert(model, target, outtype="q8_0")


def test_unknown_outtype(model: Path, target: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.outtype-unknown"):
        convert(model, target, outtype="q9_z", overwrite=True)


@pytest.mark.parametrize(
    ("value", "word"), [(float("nan"), "NaN"), (float("inf"), "inf"), (float("-inf"), "inf")]
)
@pytest.mark.parametrize("outtype", ["f16", "f32", "q8_0", "Q4_K_M"])
def test_row_that_is_not_finite(model: Path, target: Path, outtype: str, value: float, word: str) -> None:
    poke(model, "model.layers.1.mlp.down_proj.weight", 5, 17, value)
    with pytest.raises(RfctlError) as caught:
        convert(model, target, outtype=outtype, overwrite=True)
    assert caught.value.id == "model.not-finite"
    assert caught.value.params == {"tensor": "blk.1.ffn_down.weight", "row": 5, "column": 17, "value": word}
    assert target.read_bytes() == OLD
    assert list_names(target) == ["model.gguf"]


def test_permuted_row_is_named_as_in_the_file(model: Path, target: Path) -> None:
    poke(model, "model.layers.0.self_attn.q_proj.weight", 1, 0, float("nan"))
    with pytest.raises(RfctlError) as caught:
        convert(model, target, outtype="f16", overwrite=True)
    assert (caught.value.params["tensor"], caught.value.params["row"]) == ("blk.0.attn_q.weight", 2)


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_disk_full(model: Path, target: Path) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    code = RUN.replace("convert(Path", "from rfctl.core.error import RfctlError\ntry:\n    convert(Path")
    code += "\nexcept RfctlError as error:\n    print(error.id)\n"
    done = subprocess.run(
        [sys.executable, "-c", code, model, target, "f16"],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=limit,
        check=False,
    )
    assert done.stdout.strip() == "model.target-full", done.stderr
    assert target.read_bytes() == OLD
    assert list_names(target) == ["model.gguf"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_read_only_folder(model: Path, target: Path) -> None:
    target.parent.chmod(0o500)
    try:
        with pytest.raises(RfctlError, match=r"model\.target-unwritable"):
            convert(model, target, overwrite=True)
    finally:
        target.parent.chmod(0o700)
    assert target.read_bytes() == OLD


@pytest.mark.parametrize("kind", ["folder missing", "folder is a file", "partial is a folder"])
def test_unwritable_target(model: Path, target: Path, kind: str) -> None:
    path = target
    if kind == "folder missing":
        path = target.parent / "none" / "model.gguf"
    elif kind == "folder is a file":
        path = target / "model.gguf"
    else:
        (target.parent / "model.gguf.partial").mkdir()
    with pytest.raises(RfctlError) as caught:
        convert(model, path, overwrite=True)
    assert caught.value.id == (
        "model.target-unwritable" if kind == "partial is a folder" else "model.target-folder"
    )
    assert target.read_bytes() == OLD


class Interrupt:
    """A reporter whose stage raises what Ctrl-C raises, in the middle of the data."""

    def __init__(self) -> None:
        self.advanced = 0

    def stage(self, id: str, /, *, total: int | None = None, unit: str = "bytes", **params: object) -> Stage:
        return self

    def note(self, id: str, /, **params: object) -> None: ...

    def warn(self, id: str, /, **params: object) -> None: ...

    def advance(self, amount: int) -> None:
        self.advanced += 1
        if self.advanced == 5:
            raise KeyboardInterrupt

    def update(self, *, done: int | None = None, total: int | None = None, detail: str = "") -> None: ...

    def __enter__(self) -> Interrupt:
        return self

    def __exit__(self, *error: object) -> None: ...


def test_interrupt(model: Path, target: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert(model, target, overwrite=True, reporter=Interrupt())
    assert target.read_bytes() == OLD
    assert list_names(target) == ["model.gguf"]


class Count(Interrupt):
    def __init__(self) -> None:
        super().__init__()
        self.total, self.sum = 0, 0

    def stage(self, id: str, /, *, total: int | None = None, unit: str = "bytes", **params: object) -> Stage:
        self.total = total or 0
        return self

    def advance(self, amount: int) -> None:
        self.sum += amount


def test_progress_adds_up(model: Path, target: Path) -> None:
    count = Count()
    size = convert(model, target, outtype="q8_0", overwrite=True, reporter=count).size
    assert count.sum == count.total == size


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_killed_in_the_middle_then_again(golden: Path, target: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "Tiny-k", golden / "converter" / "tokenizers" / "gpt2", layers=40)
    partial = target.with_name("model.gguf.partial")
    process = subprocess.Popen([sys.executable, "-c", RUN, model, target, "Q6_K"])
    deadline = time.monotonic() + 60
    while not partial.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert target.read_bytes() == OLD
    assert partial.exists()
    # What a killed run left is taken over by the next one.
    done = convert(model, target, outtype="Q6_K", overwrite=True)
    assert sha256_file(target) == done.sha256
    assert list_names(target) == ["model.gguf"]


@pytest.mark.skipif(os.name == "nt", reason="locks")
def test_two_writers_of_one_target(model: Path, target: Path) -> None:
    import fcntl

    partial = target.with_name("model.gguf.partial")
    with partial.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RfctlError, match=r"model\.target-busy"):
            convert(model, target, overwrite=True)
        assert partial.exists()
    assert target.read_bytes() == OLD


def test_source_that_shrinks_after_planning(model: Path, target: Path) -> None:
    from rfctl.converter.writer import write_plan

    plan = make_plan(model, "f16")
    os.truncate(model / "model.safetensors", 100_000)
    with pytest.raises(RfctlError, match=r"model\.shard-truncated"):
        write_plan(plan, target, overwrite=True)
    assert target.read_bytes() == OLD
    assert list_names(target) == ["model.gguf"]


def test_writing_without_positional_calls(
    model: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows has neither pread nor pwrite nor fallocate."""
    wanted = convert(model, target, outtype="q8_0", overwrite=True).sha256
    for name in ("preadv", "pwrite", "posix_fallocate"):
        monkeypatch.delattr(os, name, raising=False)
    other = tmp_path / "other.gguf"
    assert convert(model, other, outtype="q8_0", threads=3).sha256 == wanted == sha256_file(other)
