"""The whole way on real weights: what the demo prints is true, and the engine computes as torch does."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pypdfium2
import pytest

pytestmark = [pytest.mark.network, pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "tests/engine/data/minilm-reference.json"


@pytest.fixture
def engine(rfctl: Callable[..., object]) -> Iterator[Callable[..., object]]:
    yield rfctl
    rfctl("engine", "stop")


def page_text(number: int) -> str:
    document = pypdfium2.PdfDocument(ROOT / "docs/manual.pdf")
    text: str = document[number - 1].get_textpage().get_text_range()
    return " ".join(text.split())


def test_the_demo_ends_with_answers_whose_pages_hold_them(
    engine: Callable[..., object], environment: dict[str, str], smollm2: Path, minilm: Path
) -> None:
    arguments = ("--model", str(smollm2), "--embedding-model", str(minilm))
    result = engine("demo", *arguments, "--json", timeout=600)
    assert result.code == 0, result.err
    report = json.loads(result.out)
    answers = {"8192": 0, "177": 1}
    for fact, index in answers.items():
        turn = report["turns"][index]
        assert turn["answer"]["text"].strip()
        source = turn["answer"]["sources"][0]
        assert source["document"] == "manual.pdf"
        (page,) = source["pages"]
        assert fact in page_text(page)
    assert report["document"]["status"] == "parsed" and report["document"]["pages"] == 10

    # The same again finds everything in its place, in both languages.
    # Whose PATH does not have rfctl, as after `make demo`, is told how it gets there.
    bare = {"PATH": str(environment["HOME"])}
    again = engine("demo", *arguments, "--lang", "zh", env=bare, timeout=600)
    assert again.code == 0, again.err
    assert "manual.pdf" in again.out and "回答：" in again.out and "模型还得到的分块：" in again.out
    assert ("之后才能直接输入 rfctl：" in again.out) == any(
        (Path(sys.prefix) / script).is_file() for script in ("bin/activate", "Scripts/Activate.ps1")
    )


def test_paris_and_the_vectors_of_torch(
    engine: Callable[..., object], smollm2: Path, minilm: Path, tmp_path: Path
) -> None:
    converted = engine(
        "model", "convert", str(smollm2), "-o", str(tmp_path / "smol.gguf"), "--outtype", "f16"
    )
    assert converted.code == 0, converted.err
    for source, name in ((tmp_path / "smol.gguf", "smol"), (minilm, "minilm")):
        pushed = engine(
            "model", "push", str(source), name, *(("--quantize", "f16") if source.is_dir() else ())
        )
        assert pushed.code == 0, pushed.err
    url = json.loads(engine("engine", "status", "--json").out)["url"]
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        prompt = {"model": "smol", "prompt": "The capital of France is", "raw": True, "stream": False}
        options = {"temperature": 0, "num_predict": 8}
        answer = client.post("/api/generate", json=prompt | {"options": options}).json()
        assert "Paris" in answer["response"]

        reference = json.loads(REFERENCE.read_text(encoding="utf-8"))["vectors"]
        texts = [row["text"] for row in reference]
        reply = client.post("/api/embed", json={"model": "minilm", "input": texts}).json()
        for row, vector in zip(reference, reply["embeddings"], strict=True):
            cosine = math.fsum(a * b for a, b in zip(row["vector"], vector, strict=True))
            assert cosine >= 0.9999, row["text"]
        assert reply["prompt_eval_count"] == sum(row["tokens"] for row in reference)
