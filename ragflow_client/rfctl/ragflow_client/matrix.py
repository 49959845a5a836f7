"""The same questions over {models} x {with, without knowledge bases}.

What a model says without a knowledge base is what fine-tuning (and quantization: name both files of a model)
gave it; what it gains with one is what retrieval gave it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rfctl.core.progress import SILENT, Reporter
from rfctl.ragflow_client.chat import Chat, create_chat, find_chat, remove_chat
from rfctl.ragflow_client.chat_option import ChatOptions
from rfctl.ragflow_client.dataset import Dataset
from rfctl.ragflow_client.evaluation import Evaluation, evaluate
from rfctl.ragflow_client.model import choose_model
from rfctl.ragflow_client.question_set import Question
from rfctl.ragflow_client.transport import Api

_PREFIX = "rfctl-eval-"


@dataclass(frozen=True)
class Cell:
    """One model under one condition. model: its full name on the server."""

    model: str
    with_kb: bool
    evaluation: Evaluation


@dataclass(frozen=True)
class Matrix:
    """All cells, by model, without knowledge bases first. retrieval: recall and mrr, the same for all."""

    retrieval: Evaluation
    cells: tuple[Cell, ...]

    def find(self, model: str, with_kb: bool) -> Evaluation | None:
        return next(
            (one.evaluation for one in self.cells if (one.model, one.with_kb) == (model, with_kb)), None
        )

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.model for cell in self.cells))

    def gain(self, model: str) -> float | None:
        """Answer similarity with knowledge bases less that without, None where either was not measured."""
        ends = [self.find(model, with_kb) for with_kb in (False, True)]
        values = [None if one is None else one.measures["similarity"] for one in ends]
        return None if values[0] is None or values[1] is None else values[1] - values[0]


def evaluate_models(
    api: Api,
    questions: Sequence[Question],
    datasets: Sequence[Dataset],
    models: Sequence[str],
    *,
    options: Mapping[str, Any] | None = None,
    conditions: Sequence[bool] = (False, True),
    limit: int = 6,
    similarity_threshold: float = 0.2,
    reporter: Reporter = SILENT,
) -> Matrix:
    """Ask every question of every model, each model with assistants of its own that are removed afterwards.

    models: names as `choose_model` takes them; all are looked up before the first question. conditions:
    False without, True with `datasets`. options: names of ChatOptions that all assistants get. Raises the
    errors of `choose_model`, `create_chat` and `evaluate`.
    """
    chosen = [choose_model(api, "chat", name) for name in dict.fromkeys(models)]
    retrieval = evaluate(
        api,
        questions,
        datasets,
        limit=limit,
        similarity_threshold=similarity_threshold,
        reporter=reporter,
    )
    cells = []
    for model in chosen:
        for with_kb in conditions:
            with _assistant(api, model.full_name, datasets if with_kb else (), options or {}) as chat:
                found = evaluate(api, questions, (), chat, limit=limit, reporter=reporter)
            cells.append(Cell(model.full_name, with_kb, found))
    return Matrix(retrieval, tuple(cells))


@contextmanager
def _assistant(
    api: Api, model: str, datasets: Sequence[Dataset], options: Mapping[str, Any]
) -> Iterator[Chat]:
    """An assistant for one cell. Its name follows from what it is made of, so that one which a killed run
    left behind is taken away by the next."""
    key = "\n".join([model, *sorted(one.id for one in datasets)])
    name = _PREFIX + hashlib.sha256(key.encode()).hexdigest()[:16]
    left = find_chat(api, name)
    if left is not None:
        remove_chat(api, left)
    chat, _ = create_chat(api, name, datasets, model=model, options=ChatOptions(**options))
    try:
        yield chat
    finally:
        remove_chat(api, chat)
