"""llama.cpp loads a q8_0 file of every family and answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builder import build
from small import FOLDER, load_small, make_small

from rfctl.converter.convert import convert

GOLDEN = (
    "deepseek3",
    "gemma3",
    "gpt2",
    "mixtral",
    "phi2",
    "phi3-longrope",
    "qwen3moe",
    "stablelm",
    "starcoder2",
)
ENCODERS = {"modernbert", "nomic", "qwen3-embedding", "roberta", "xlm-roberta"}
VARIANTS = ("mix-", "bare-", "llama-", "quantized-")  # of families that are here anyway
RERANKERS = {"bert-reranker"}
# llama.cpp stops at them for what is made up in them: as many layers take image features as there are layers,
# and a normalization table that is not one.
UNFIT = {"qwen3-vl", "qwen3-vl-moe", "xlm-reranker"}
SMALL = sorted(
    path.stem
    for path in FOLDER.glob("*.json")
    if not path.stem.startswith(VARIANTS) and path.stem not in UNFIT
)
QUICK = ("chatglm3-published", "falcon", "glm4-published", "granite", "lfm2", "minicpm", "nomic", "olmo2")
CHILD = """
import json, sys
import xllamacpp
for item in json.loads(sys.stdin.read()):
    params = xllamacpp.CommonParams()
    params.model.path = item["path"]
    params.n_ctx = params.n_batch = params.n_ubatch = 64
    params.n_parallel = 1
    params.cache_ram_mib = 0
    params.warmup = False
    params.embedding = item["kind"] != "text"
    if item["kind"] == "rank":
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    if item["kind"] == "rank":
        answer = server.handle_rerank({"query": "filter", "documents": ["the filter", "oil"]})
    elif item["kind"] == "embedding":
        answer = server.handle_embeddings({"input": ["filter"]})
    else:
        answer = server.handle_completions({"prompt": "The", "n_predict": 2, "temperature": 0.0})
    print("\\nANSWER " + json.dumps([item["path"], answer]), flush=True)
"""


@pytest.mark.parametrize(
    "names",
    [
        QUICK,
        pytest.param(GOLDEN, marks=pytest.mark.slow, id="golden"),
        pytest.param(tuple(SMALL), marks=pytest.mark.slow, id="small"),
    ],
)
def test_llama_cpp_loads(golden: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")
    items = []
    for name in names:
        if name in SMALL:
            folder = make_small(golden, load_small(name), tmp_path / name)
        else:
            case = golden / "converter" / "cases" / f"{name}.json"
            folder = build(golden, json.loads(case.read_text("utf-8")), tmp_path / name)
        target = tmp_path / f"{name}.gguf"
        convert(folder, target, outtype="q8_0")
        kind = "rank" if name in RERANKERS else "embedding" if name in ENCODERS else "text"
        items.append({"path": str(target), "kind": kind})
    # In a process of its own: llama.cpp may abort, and its threads must not spin.
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(items),
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"OMP_WAIT_POLICY": "passive", "GGML_NO_BACKTRACE": "1"},
        timeout=300,
        check=False,
    )
    answers = [
        line.removeprefix("ANSWER ") for line in done.stdout.splitlines() if line.startswith("ANSWER ")
    ]
    loaded = {Path(path).stem: answer for path, answer in map(json.loads, answers)}
    assert set(loaded) == set(names), done.stderr[-3000:]
    for name, answer in loaded.items():
        assert "error" not in answer, (name, answer)
