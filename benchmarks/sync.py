"""`kb sync` of many small files against the embedded engine with a real embedding model.

    python benchmarks/sync.py MODEL_DIR [--files 1000]

MODEL_DIR is an embedding model in Hugging Face form (all-MiniLM-L6-v2 in RESULTS.md). Everything happens in a
temporary home of its own; each figure is a whole `rfctl` process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import measure


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--files", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        env = {**os.environ, "RFCTL_HOME": str(root / "home"), "NO_COLOR": "1", "RFCTL_LANG": "en"}
        rfctl = [sys.executable, "-m", "rfctl.cli.main"]
        folder = root / "notes"
        for number in range(options.files):
            path = folder / f"{number % 10}" / f"note-{number:05}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"Note {number}. Valve {number * 7} is opened at {number % 90} degrees.\n" * 3)
        try:
            measure.run([*rfctl, "model", "push", str(options.model), "bench-embedding", "-q"], env)
            measure.run([*rfctl, "kb", "create", "notes"], env)
            for label in ("first sync", "second sync, nothing changed"):
                show(label, [*rfctl, "kb", "sync", str(folder), "notes", "--json"], env)
            (folder / "0" / "note-00000.txt").write_text("Changed.")
            show("third sync, one file changed", [*rfctl, "kb", "sync", str(folder), "notes", "--json"], env)
        finally:
            subprocess.run([*rfctl, "engine", "stop"], env=env, check=False, capture_output=True)


def show(label: str, command: list[str], env: dict[str, str]) -> None:
    cost, output = measure.read(command, env)
    counts = json.loads(output)["counts"]
    print(f"{label}: {cost.wall:.2f} s, peak {cost.rss / 1e6:.0f} MB, {counts}", flush=True)


if __name__ == "__main__":
    main()
