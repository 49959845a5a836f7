"""Output in pieces: the bytes of llama.cpp's converter, what a failure leaves, and what llama.cpp says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small import load_small, make_small
from test_llama_cpp import ask
from tiny import make_model

from rfctl.converter.convert import convert, make_plan
from rfctl.converter.preview import preview_plan
from rfctl.converter.split import SplitRule, find_siblings, name_pieces, parse_size
from rfctl.core.error import RefusedError, RfctlError, UsageError
from rfctl.core.file import sha256_file
from rfctl.core.progress import Stage

RECORD = json.loads((Path(__file__).parent / "data" / "split.json").read_text("utf-8"))
RULE = SplitRule(max_bytes=1_000_000)
RUN = """
import sys
from pathlib import Path
from rfctl.converter.convert import convert
from rfctl.converter.split import SplitRule
from rfctl.core.error import RfctlError
try:
    convert(Path(sys.argv[1]), Path(sys.argv[2]), outtype=sys.argv[3], overwrite=True, threads=2,
            split=SplitRule(max_bytes=1_000_000))
except RfctlError as error:
    print(error.id)
"""


@pytest.fixture
def model(golden: Path, tmp_path: Path) -> Path:
    return make_model(tmp_path / "Tiny-7M", golden / "converter" / "tokenizers" / "gpt2")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "model.gguf"
    path.parent.mkdir()
    return path


def list_names(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


@pytest.mark.parametrize("number", range(len(RECORD["cases"])))
def test_pieces_have_the_bytes_of_the_reference(number: int, golden: Path, tmp_path: Path) -> None:
    case = RECORD["cases"][number]
    folder = make_small(golden, load_small(case["case"]), tmp_path)
    options = case["options"]
    rule = SplitRule(
        parse_size(options["--split-max-size"]) if "--split-max-size" in options else 0,
        int(options.get("--split-max-tensors", 0)),
    )
    target = tmp_path / "out" / "out.gguf"
    target.parent.mkdir()
    done = convert(folder, target, outtype=case["outtype"], split=rule)
    found = [
        {"name": path.name, "size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(target.parent.iterdir())
    ]
    assert found == case["files"]
    reported = [{"name": f.path.name, "size": f.size, "sha256": f.sha256} for f in done.files]
    assert reported == case["files"]
    assert done.size == sum(file["size"] for file in case["files"])


@pytest.mark.parametrize("outtype", ["f16", "q8_0", "Q4_K_M"])
@pytest.mark.parametrize("rule", [SplitRule(), RULE, SplitRule(max_tensors=7)])
def test_preview_is_exact(model: Path, target: Path, outtype: str, rule: SplitRule) -> None:
    wanted = preview_plan(make_plan(model, outtype), target, rule)
    assert list_names(target) == []
    done = convert(model, target, outtype=outtype, split=rule)
    assert [(f.path, f.size) for f in wanted.files] == [(f.path, f.path.stat().st_size) for f in done.files]
    assert wanted.size == done.size == sum(path.stat().st_size for path in target.parent.iterdir())
    assert sum(total.count for total in wanted.totals) == done.tensor_count == len(wanted.tensors)
    assert sum(total.size for total in wanted.totals) == sum(tensor.size for tensor in wanted.tensors)
    assert sum(total.parameter_count for total in wanted.totals) == done.parameter_count


def test_names_and_sizes(tmp_path: Path) -> None:
    pieces = name_pieces(tmp_path / "a.b.gguf", 12)
    assert [path.name for path in pieces[:2]] == ["a.b-00001-of-00012.gguf", "a.b-00002-of-00012.gguf"]
    assert find_siblings(pieces[4], 12) == pieces
    assert find_siblings(tmp_path / "model.gguf", 3) is None
    assert find_siblings(pieces[0], 11) is None
    assert [parse_size(text) for text in ("7", "3k", "500M", "2G")] == [7, 3000, 500_000_000, 2_000_000_000]
    for wrong in ("", "0", "-1", "2T", "1.5G", "0M", "9" * 16):
        with pytest.raises(UsageError, match=r"model\.split-size"):
            parse_size(wrong)


def test_more_pieces_than_the_format_can_number(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rfctl.converter.split._MAX_PIECES", 5)
    with pytest.raises(UsageError, match=r"model\.split-count"):
        preview_plan(make_plan(model, "f16"), None, SplitRule(max_tensors=1))


def test_an_existing_piece_is_refused(model: Path, target: Path) -> None:
    count = len(preview_plan(make_plan(model, "f16"), target, RULE).files)
    name_pieces(target, count)[-1].write_bytes(b"old")
    with pytest.raises(RefusedError, match=r"model\.target-exists"):
        convert(model, target, outtype="f16", split=RULE)
    assert len(list_names(target)) == 1


@dataclass
class Interrupt:
    """A reporter that raises what Ctrl-C raises once `at` bytes were reported."""

    at: int
    done: int = 0

    def stage(self, id: str, /, *, total: int | None = None, unit: str = "bytes", **params: object) -> Stage:
        return self

    def note(self, id: str, /, **params: object) -> None: ...

    def warn(self, id: str, /, **params: object) -> None: ...

    def advance(self, amount: int) -> None:
        self.done += amount
        if self.done > self.at:
            raise KeyboardInterrupt

    def update(self, *, done: int | None = None, total: int | None = None, detail: str = "") -> None: ...

    def __enter__(self) -> Interrupt:
        return self

    def __exit__(self, *error: object) -> None: ...


@pytest.mark.parametrize("share", [0.1, 0.6, 0.99])
def test_interrupt_leaves_the_old_set(model: Path, target: Path, share: float) -> None:
    old = convert(model, target, outtype="f16", split=RULE)
    before = {file.path: file.sha256 for file in old.files}
    with pytest.raises(KeyboardInterrupt):
        reporter: Any = Interrupt(int(old.size * share))
        convert(model, target, outtype="f16", split=RULE, overwrite=True, reporter=reporter)
    assert {path: sha256_file(path) for path in target.parent.iterdir()} == before


def test_failed_renaming_leaves_no_set(model: Path, target: Path) -> None:
    """The last piece cannot take its name: the ones that could lose theirs again."""
    count = len(preview_plan(make_plan(model, "f16"), target, RULE).files)
    last = name_pieces(target, count)[-1]
    last.mkdir()
    (last / "file").touch()
    with pytest.raises(RfctlError, match=r"model\.target-unwritable"):
        convert(model, target, outtype="f16", split=RULE, overwrite=True)
    assert list_names(target) == [last.name]


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_disk_full(model: Path, target: Path) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))

    done = subprocess.run(
        [sys.executable, "-c", RUN, model, target, "f16"],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=limit,
        check=False,
    )
    assert done.stdout.strip() == "model.target-full", done.stderr
    assert list_names(target) == []


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_killed_in_the_middle_then_again(golden: Path, target: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "Tiny-k", golden / "converter" / "tokenizers" / "gpt2", layers=40)
    process = subprocess.Popen([sys.executable, "-c", RUN, model, target, "Q6_K"])
    deadline = time.monotonic() + 60
    while not list_names(target) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    left = list_names(target)
    assert left
    assert all(name.endswith(".partial") for name in left)
    done = convert(model, target, outtype="Q6_K", overwrite=True, split=RULE)
    assert list_names(target) == [file.path.name for file in done.files]
    assert [sha256_file(file.path) for file in done.files] == [file.sha256 for file in done.files]


@pytest.mark.network
def test_llama_cpp_answers_from_the_first_piece(smollm2: Path, target: Path) -> None:
    done = convert(smollm2, target, outtype="Q4_K_M", split=SplitRule(max_bytes=30_000_000))
    assert len(done.files) > 2
    assert "Paris" in json.dumps(ask(path=done.path, prompt="The capital of France is"))
