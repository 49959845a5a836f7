"""Faults between client and server, and what became of the documents.

    python benchmarks/fault.py [--runs 20] [--files 8] [--chance 0.25]

Each run uploads the same files three times through a proxy that breaks a share of all requests in a random
way, then once without it. The server is the embedded engine with a double for the models; every third run it
is put away and started again in the middle.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "ragflow_client"), str(ROOT / "tests" / "engine")]

from fault_proxy import FaultProxy
from ragflow_bench import KEY, bench

from rfctl.core.error import RfctlError
from rfctl.ragflow_client.connection import Ragflow
from rfctl.ragflow_client.parse import Patience
from rfctl.ragflow_client.transport import Api

PATIENCE = Patience(poll=0.1, silent=2.0, stall=6.0, offline=3.0, total=30.0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--chance", type=float, default=0.25)
    options = parser.parse_args()
    injected: Counter[str] = Counter()
    outcome: Counter[str] = Counter()
    longest = 0.0
    for seed in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            longest = max(longest, run(seed, options, Path(folder), injected, outcome))
    print("faults injected: " + ", ".join(f"{count} {name}" for name, count in injected.most_common()))
    for name, count in sorted(outcome.items()):
        print(f"{name}: {count}")
    print(f"longest upload under faults: {longest:.1f} s")


def run(
    seed: int, options: argparse.Namespace, folder: Path, injected: Counter[str], outcome: Counter[str]
) -> float:
    paths = []
    for number in range(options.files):
        path = folder / f"note {number}.txt"
        path.write_text(f"Note {number} of run {seed}. The heron nests in tree {number}.\n")
        paths.append(path)
    longest = 0.0
    with (
        bench(folder / "engine", preset=True) as engine,
        FaultProxy(engine.url, seed=seed) as proxy,
        Ragflow(Api(proxy.url, KEY, read_seconds=5.0)) as client,
    ):
        dataset, _ = client.create_dataset("notes")
        proxy.chance = options.chance
        if seed % 3 == 0:
            away = threading.Timer(0.5, lambda: proxy.break_next(".", *["lost"] * 30))
            away.start()
            outcome["runs with the server away for 30 requests"] += 1
        for _ in range(3):
            begin = time.monotonic()
            try:
                report = client.upload(dataset, paths, patience=PATIENCE)
                outcome["failures named per file, under faults"] += len(report.failed)
            except RfctlError as error:
                outcome[f"uploads ended by {error.id}, under faults"] += 1
            longest = max(longest, time.monotonic() - begin)
        proxy.heal()
        injected.update(proxy.injected)
        report = client.upload(dataset, paths, patience=PATIENCE)
        outcome["failures after the faults"] += len(report.failed)
        found = engine.call("GET", f"/datasets/{dataset.id}/documents", params={"page_size": 100})["docs"]
        names = Counter(one["name"] for one in found)
        for path in paths:
            outcome["documents there exactly once"] += names[path.name] == 1
            outcome["documents lost"] += not names[path.name]
        outcome["documents twice, or under another name"] += len(found) - len(
            set(names) & {p.name for p in paths}
        )
        outcome["documents not searchable"] += sum(one["run"] != "DONE" for one in found)
    return longest


if __name__ == "__main__":
    main()
