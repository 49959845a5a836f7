"""Checks of knowledge bases and chat assistants, read with the API key."""

from __future__ import annotations

from typing import Any

from rfctl.stack.check import Result, Verdict, check, judge, skip
from rfctl.stack.evidence import Evidence


def _datasets(evidence: Evidence) -> list[dict[str, Any]] | None:
    if not evidence.has("ragflow.datasets"):
        return None
    return list(evidence.reply("ragflow.datasets").json()["data"] or [])


@check("kb.embed-match", after=("rag.api-key",))
def embed_match(evidence: Evidence) -> Result:
    datasets = _datasets(evidence)
    if not datasets:
        return skip("no-dataset")
    have = {str(model["name"]) for model in evidence.reply("ollama.tags").json()["models"] or []}
    have |= {name.removesuffix(":latest") for name in have}
    lost = []
    for dataset in datasets:
        # name@factory, with an instance between them since v0.27: name@instance@Ollama.
        name, _, rest = str(dataset.get("embedding_model") or "").partition("@")
        if rest.rpartition("@")[2] == "Ollama" and name not in have:
            lost.append(f"{dataset['name']} ({name})")
    return judge(not lost, found=", ".join(lost) or "-", total=len(datasets))


@check("kb.stuck", after=("rag.api-key",))
def stuck(evidence: Evidence) -> Result:
    """[{"dataset", "name", "run", "minutes"}] of documents that are not done."""
    documents = evidence.fact("kb.unfinished")
    bad = [
        f"{row['name']} ({row['run']})"
        for row in documents
        if row["run"] == "FAIL" or (row["run"] == "RUNNING" and float(row["minutes"]) > 60)
    ]
    return judge(not bad, otherwise=Verdict.WARN, found=", ".join(bad[:5]) or "-", total=len(bad))


@check("kb.empty", after=("rag.api-key",))
def empty(evidence: Evidence) -> Result:
    datasets = _datasets(evidence)
    if not datasets:
        return skip("no-dataset")
    used = {
        str(item if isinstance(item, str) else item["id"])
        for chat in evidence.reply("ragflow.chats").json()["data"] or []
        for item in chat.get("dataset_ids") or chat.get("datasets") or []
    }
    hollow = [
        str(dataset["name"])
        for dataset in datasets
        if str(dataset["id"]) in used and not dataset.get("chunk_count")
    ]
    return judge(not hollow, otherwise=Verdict.WARN, found=", ".join(hollow) or "-")
