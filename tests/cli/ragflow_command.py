"""The command line against a RAG server whose models are doubles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ragflow_bench import KEY, Bench, bench

__all__ = ["KEY", "Bench", "Run", "serving"]

Run = Callable[..., Any]


@contextmanager
def serving(tmp_path: Path, rfctl: Run) -> Iterator[tuple[Bench, Run]]:
    """(engine, `rfctl` with that server configured by the environment)."""
    with bench(tmp_path / "engine", preset=True) as engine:
        variables = {
            "RAGFLOW_BASE_URL": engine.url + "/api/v1/",
            "RAGFLOW_API_KEY": KEY,
            "OLLAMA_HOST": engine.double_url,
        }

        def run(*arguments: str, **options: Any) -> Any:
            return rfctl(*arguments, env=variables | options.pop("env", {}), **options)

        yield engine, run
