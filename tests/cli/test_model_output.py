"""`rfctl model convert --dry-run` and split output: what they print and what is on the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

Run = Callable[..., Any]


@pytest.fixture
def model(golden: Path, tmp_path: Path) -> Path:
    return tiny.make_model(tmp_path / "Tiny-7M", golden / "converter" / "tokenizers" / "gpt2")


def test_a_dry_run_says_the_size_that_is_written(rfctl: Run, model: Path, tmp_path: Path) -> None:
    shown = rfctl("model", "convert", model.name, "--dry-run", "--outtype", "q8_0")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.splitlines()[0].split() == ["TENSOR", "SHAPE", "FROM", "TO", "BYTES"]
    result = rfctl("model", "convert", model.name, "--dry-run", "--outtype", "q8_0", "--json", "-o", "a.gguf")
    report = json.loads(result.out)
    assert [path.name for path in tmp_path.glob("*.gguf*")] == []
    assert rfctl("model", "convert", model.name, "--outtype", "q8_0", "-o", "a.gguf").code == 0
    size = (tmp_path / "a.gguf").stat().st_size
    assert report["size"] == report["disk_needed"] == size
    assert f"Q8_0: {size:,} bytes in all" in shown.out
    norm = next(tensor for tensor in report["tensors"] if tensor["name"] == "output_norm.weight")
    assert (norm["shape"], norm["source_dtype"], norm["type"], norm["size"]) == ([64], "F16", "F32", 256)
    assert {total["type"] for total in report["totals"]} == {"F32", "Q8_0"}


def test_a_split_output(rfctl: Run, model: Path, tmp_path: Path) -> None:
    arguments = ["model", "convert", model.name, "-o", "m.gguf", "--split-max-size", "2M"]
    preview = json.loads(rfctl(*arguments, "--dry-run", "--json").out)
    result = rfctl(*arguments)
    assert result.code == 0
    written = {path.name: path.stat().st_size for path in tmp_path.glob("*.gguf")}
    assert len(written) > 1
    assert {Path(file["path"]).name: file["size"] for file in preview["files"]} == written
    assert result.out.splitlines()[1] == (
        f"In {len(written)} files; give llama.cpp the first one, it finds the others"
    )
    assert json.loads(rfctl(*arguments, "--json").out)["unchanged"] is True
    (tmp_path / sorted(written)[-1]).unlink()
    assert rfctl(*arguments).err.startswith("error[model.target-exists]")


def test_what_is_missing_is_named(rfctl: Run, model: Path) -> None:
    assert rfctl("model", "convert", model.name).err.startswith("error[model.target-missing]")
    wrong = rfctl("model", "convert", model.name, "--dry-run", "--split-max-size", "2GB", "--lang", "zh")
    assert (wrong.code, wrong.err.splitlines()[0]) == (
        2,
        "错误[model.split-size]: --split-max-size 不能是 2GB",
    )


def test_verify_and_diff(rfctl: Run, model: Path, tmp_path: Path) -> None:
    convert = ["model", "convert", model.name, "--outtype"]
    assert rfctl(*convert, "f16", "-o", "a.gguf").code == 0
    assert rfctl(*convert, "q8_0", "-o", "b.gguf").code == 0
    good = rfctl("model", "verify", "a.gguf", model.name)
    assert good.code == 0
    assert good.out.splitlines()[-1] == f"a.gguf is what {model.name} gives: all 20 tensors"
    same = rfctl("model", "diff", "a.gguf", "a.gguf", "--json")
    assert (same.code, json.loads(same.out)["is_same"]) == (0, True)
    other = rfctl("model", "diff", "a.gguf", "b.gguf")
    assert other.code == 5
    assert "general.file_type  other value  uint32 1  uint32 7" in other.out
    with (tmp_path / "a.gguf").open("r+b") as file:
        file.seek(-32, 2)
        file.write(b"\x01\x02")
    bad = rfctl("model", "verify", "a.gguf", model.name, "--json")
    report = json.loads(bad.out)
    assert (bad.code, report["verdict"], len(report["comparison"]["tensors"])) == (5, "failed", 1)
    shown = rfctl("model", "verify", "a.gguf", model.name)
    assert (shown.code, shown.out.splitlines()[-1]) == (5, "a.gguf did not pass")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "b.gguf").read_bytes()[:-100])
    assert rfctl("model", "verify", "cut.gguf").err.startswith("error[gguf.data-truncated]")
    assert rfctl("model", "verify", "my-model", model.name).err.startswith("error[model.verify-no-file]")


def test_a_llama_cpp_tree_is_offered_and_runs_only_when_asked(
    rfctl: Run, model: Path, tmp_path: Path
) -> None:
    config = json.loads((model / "config.json").read_text("utf-8"))
    config["architectures"] = ["QuaintForCausalLM"]
    (model / "config.json").write_text(json.dumps(config), "utf-8")
    tree = tmp_path / "tree"
    for name in ("conversion/__init__.py", "gguf-py/gguf/__init__.py"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    (tree / "conversion" / "base.py").write_text("raise ValueError('it ran')", "utf-8")
    arguments = ["model", "convert", model.name, "-o", "a.gguf"]
    assert rfctl(*arguments).err.startswith("error[model.architecture-unknown]")
    offered = rfctl(*arguments, env={"LLAMA_CPP": str(tree)})
    assert offered.err.startswith("error[tree.offer]")
    assert f"rfctl model convert {model.name} -o FILE --engine llama.cpp --llama-cpp {tree}" in offered.err
    assert "it ran" not in offered.err
    ran = rfctl(*arguments, "--engine", "llama.cpp", "--llama-cpp", str(tree))
    assert "error[tree.failed]" in ran.err and "ValueError: it ran" in ran.err
    assert rfctl(*arguments, "--engine", "llama.cpp", "--llama-cpp", "none").code == 2
    assert not list(tmp_path.glob("*.gguf*"))
