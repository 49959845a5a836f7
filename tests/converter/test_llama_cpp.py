"""llama.cpp itself loads what we wrote and answers: the only judge of a GGUF file that counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bert_forward import embed

from rfctl.converter.convert import convert

pytestmark = pytest.mark.network
CHILD = """
import json, sys
import xllamacpp
spec = json.loads(sys.stdin.read())
params = xllamacpp.CommonParams()
params.model.path = spec["path"]
params.n_ctx = params.n_batch = params.n_ubatch = 512
params.n_parallel = 1
params.cache_ram_mib = 0
params.warmup = False
params.embedding = spec["embedding"]
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
server = xllamacpp.Server(params)
if spec["embedding"]:
    answer = server.handle_embeddings({"input": spec["texts"]})
else:
    answer = server.handle_completions({"prompt": spec["prompt"], "n_predict": 8, "temperature": 0.0})
print("\\nANSWER " + json.dumps(answer), flush=True)
"""


def ask(**spec: Any) -> Any:
    """Run llama.cpp in a process of its own: it may abort, and its OpenMP threads must not spin."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps({"embedding": False} | spec, default=str),
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"OMP_WAIT_POLICY": "passive", "GGML_NO_BACKTRACE": "1"},
        timeout=180,
        check=False,
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert answers, done.stderr[-2000:]
    return json.loads(answers[-1].removeprefix("ANSWER "))


@pytest.mark.parametrize("outtype", ["f16", "Q4_K_M"])
def test_completion(outtype: str, smollm2: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    convert(smollm2, target, outtype=outtype)
    answer = ask(path=target, prompt="The capital of France is")
    target.unlink()
    assert "Paris" in json.dumps(answer)


def test_embedding(minilm: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    convert(minilm, target, outtype="f16")
    texts = ["How do I change the filter?", "Replacing the air filter", "The train leaves at noon."]
    answer = ask(path=target, embedding=True, texts=texts)
    wanted = embed(minilm, texts)
    for item, row in zip(answer["data"], wanted, strict=True):
        assert len(item["embedding"]) == 384
        assert float(row @ item["embedding"]) > 0.9999
    # The three vectors are not one and the same.
    assert float(wanted[0] @ wanted[1]) > 0.5 > float(wanted[0] @ wanted[2])
