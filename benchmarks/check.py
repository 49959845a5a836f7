"""`rfctl model check`: what it costs and reads, on a directory and on the same files behind the hub's protocol.

    python benchmarks/check.py MODEL [--repeat N] [--json]

MODEL is a model directory (`tools/make_model.py` makes one of the 1.5B shape from a formula). Whole processes are
measured, beside `python -c pass` and `rfctl --help` in the same turn, so that the ratios hold on a noisy machine;
the minimum of the repeats counts. Bytes are those that the process read as the kernel counts them (rchar), less
what `rfctl --help` reads; the hub server is the one of the tests, on loopback. tokenizer.json is served as it is
and once more written compactly with merges as strings, the form in which most repositories have it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "converter")]

from hub_server import HubServer
from measure import Cost, run

COMMAND = [sys.executable, "-m", "rfctl.cli.main"]


@dataclass(frozen=True)
class Row:
    """cost: of the whole process; read: bytes it read; wire: bytes that the hub sent; requests: to the hub."""

    label: str
    cost: Cost
    read: int
    wire: int = 0
    requests: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model = options.model.absolute()
    with tempfile.TemporaryDirectory(prefix="rfctl-bench-") as work:
        compact = make_compact(model, Path(work) / "compact")
        rows = measure(model, compact, options.repeat, dict(os.environ) | {"RFCTL_HOME": work})
    weights = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    if options.json:
        print(
            json.dumps(
                {"weights": weights, "rows": [row.__dict__ | {"cost": row.cost.__dict__} for row in rows]}
            )
        )
        return
    base = rows[0].cost
    print(f"{model.name}: {weights / 1e9:.2f} GB of weights; best of {options.repeat}")
    print(f"{'':44} {'wall s':>7} {'CPU s':>7} {'/ python':>8} {'read MB':>8} {'wire MB':>8} requests")
    for row in rows:
        print(
            f"{row.label:44} {row.cost.wall:7.2f} {row.cost.cpu:7.2f} {row.cost.cpu / base.cpu:8.1f}"
            f" {row.read / 1e6:8.2f} {row.wire / 1e6:8.2f} {row.requests:8}"
        )


def measure(model: Path, compact: Path, repeat: int, env: dict[str, str]) -> list[Row]:
    help_read = count_read([*COMMAND, "--help"], env)
    rows = []

    def best(label: str, command: list[str], hub: HubServer | None = None) -> None:
        settings = env | ({"HF_ENDPOINT": hub.url} if hub else {})
        costs = [run(command, settings) for _ in range(repeat)]
        cost = Cost(min(c.wall for c in costs), min(c.cpu for c in costs), max(c.rss for c in costs))
        before = (hub.sent, len(hub.requests)) if hub else (0, 0)
        read = max(0, count_read(command, settings) - help_read)
        wire, requests = (hub.sent - before[0], len(hub.requests) - before[1]) if hub else (0, 0)
        rows.append(Row(label, cost, read, wire, requests))

    best("python -c pass", [sys.executable, "-c", "pass"])
    best("rfctl --help", [*COMMAND, "--help"])
    best("rfctl model check DIR", [*COMMAND, "model", "check", str(model), "--json"])
    best("rfctl model check DIR, compact tokenizer", [*COMMAND, "model", "check", str(compact), "--json"])
    with HubServer({"bench/model": model, "bench/compact": compact}) as hub:
        best("rfctl model check ORG/NAME", [*COMMAND, "model", "check", "hf://bench/model", "--json"], hub)
        command = [*COMMAND, "model", "check", "hf://bench/compact", "--json"]
        best("rfctl model check ORG/NAME, compact tokenizer", command, hub)
    return rows


def make_compact(model: Path, folder: Path) -> Path:
    """The model with tokenizer.json in its shortest form; weights are links."""
    folder.mkdir()
    for path in model.iterdir():
        if path.is_file() and path.name != "tokenizer.json":
            place = folder / path.name
            place.symlink_to(path) if path.suffix == ".safetensors" else shutil.copyfile(path, place)
    document = json.loads((model / "tokenizer.json").read_text("utf-8"))
    merges = document["model"].get("merges") or []
    document["model"]["merges"] = [item if isinstance(item, str) else " ".join(item) for item in merges]
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text, "utf-8")
    return folder


def count_read(command: list[str], env: dict[str, str]) -> int:
    """Bytes that the process and its children read, files and sockets alike; 0 where the kernel does not say."""
    if not Path("/proc/self/io").exists():
        return 0
    script = (
        "import subprocess, sys\n"
        "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)\n"
        "print(open('/proc/self/io').read())\n"
    )
    # What a child has read counts for its parent once it is waited for.
    done = subprocess.run(
        [sys.executable, "-c", script, *command], env=env, capture_output=True, text=True, check=True
    )
    match = re.search(r"rchar: (\d+)", done.stdout)
    return int(match[1]) if match else 0


if __name__ == "__main__":
    main()
