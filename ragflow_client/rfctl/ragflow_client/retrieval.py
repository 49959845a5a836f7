"""Finding passages without asking a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rfctl.core.error import UsageError
from rfctl.ragflow_client.dataset import Dataset
from rfctl.ragflow_client.failure import ServerError
from rfctl.ragflow_client.record import check_ids, mapping, records, whole
from rfctl.ragflow_client.reference import Source, read_source
from rfctl.ragflow_client.transport import Api

_NONE_FOUND = "No chunk found"


@dataclass(frozen=True)
class Retrieval:
    """total: passages over the threshold; sources: the best of them, best first."""

    total: int
    sources: tuple[Source, ...]


def search(
    api: Api,
    datasets: Sequence[Dataset],
    question: str,
    *,
    limit: int = 6,
    similarity_threshold: float = 0.2,
    vector_similarity_weight: float = 0.3,
    top_k: int = 1024,
) -> Retrieval:
    """Passages for a question. similarity_threshold and vector_similarity_weight are 0-1 as in RAGFlow.

    Raises UsageError `retrieval.question-empty`, `dataset.option-invalid`, `dataset.different-models`.
    """
    if not question.strip():
        raise UsageError("retrieval.question-empty")
    for name, value in (
        ("similarity_threshold", similarity_threshold),
        ("vector_similarity_weight", vector_similarity_weight),
    ):
        if not 0 <= value <= 1:
            raise UsageError("dataset.option-invalid", option=name, value=value, allowed="0-1")
    if not 1 <= limit <= 100:
        raise UsageError("dataset.option-invalid", option="limit", value=limit, allowed="1-100")
    check_one_model(datasets)
    body: dict[str, Any] = {
        "question": question,
        "dataset_ids": check_ids([one.id for one in datasets]),
        "page": 1,
        "page_size": limit,
        "similarity_threshold": similarity_threshold,
        "vector_similarity_weight": vector_similarity_weight,
        "top_k": top_k,
    }
    try:
        data = mapping(api.call("POST", "/retrieval", json=body, repeatable=True))
    except ServerError as error:
        if _NONE_FOUND in error.message:
            return Retrieval(0, ())
        raise
    rows = records(data.get("chunks") or [], "/retrieval")[:limit]
    sources = tuple(read_source(row, place) for place, row in enumerate(rows, start=1))
    return Retrieval(max(whole(data, "total"), len(sources)), sources)


def check_one_model(datasets: Sequence[Dataset]) -> None:
    """Raise UsageError when the vectors of the datasets cannot be compared."""
    models = sorted({one.embedding_model for one in datasets})
    if len(models) > 1:
        raise UsageError(
            "dataset.different-models",
            names=", ".join(one.name for one in datasets),
            models=", ".join(models),
        )
