"""What a conversion costs: wall, CPU, peak memory and bytes written, and how that grows with size and threads.

    python benchmarks/cost.py --tokenizer DIR [--work DIR] [--outtypes bf16,q8_0,Q4_K_M] [--record]

DIR of --tokenizer holds a tokenizer.json with Qwen's vocabulary. 0.5B and 1.5B are models by a formula
(tools/make_model.py), taken from --work when they are there. Of 7B the whole is planned only (--dry-run on files
of holes); its embedding and one layer, the largest tensors there are, are converted by themselves. --record
appends the rows to history.jsonl.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tools")]

import numpy as np
from make_model import QWEN2, SHAPES, make, tensors
from measure import Cost, read

HISTORY = HERE / "history.jsonl"
# Qwen2.5-7B, as published.
SEVEN: dict[str, Any] = QWEN2 | {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "rope_theta": 1000000.0, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
CONVERT = [sys.executable, "-m", "rfctl.cli.main", "model", "convert"]
TILE = 1 << 22


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--outtypes", default="bf16,q8_0,Q4_K_M")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="rfctl-cost-"))
    rows: list[dict[str, Any]] = []
    try:
        for shape in SHAPES:
            make(shape, options.tokenizer, work / shape)
        kernels = json.loads(read([sys.executable, "-m", "rfctl.cli.main", "--version", "--json"])[1])[
            "kernels"
        ]
        print(f"Q4_K by {kernels['Q4_K']}, Q8_0 by {kernels['Q8_0']}\n")
        print(
            "| model | type | threads | wall s | CPU s | peak RSS MB | read GB | written GB | ns CPU per weight |"
        )
        print("| --- " * 9 + "|")
        for shape in SHAPES:
            for outtype in options.outtypes.split(","):
                for threads in (1, 2):
                    rows.append(convert(work / shape, shape, outtype, threads))
        part = write_model(
            work / "7b-part",
            options.tokenizer,
            SEVEN | {"num_hidden_layers": 1, "tie_word_embeddings": True},
            holes=False,
        )
        for outtype in options.outtypes.split(","):
            rows.append(convert(part, "7B: embedding and one layer", outtype, 2))
        shutil.rmtree(part)
        whole = write_model(work / "7b-holes", options.tokenizer, SEVEN, holes=True)
        for outtype in options.outtypes.split(","):
            rows.append(plan(whole, outtype))
        shutil.rmtree(whole)
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    if options.record:
        with HISTORY.open("a") as file:
            file.write(
                json.dumps({"date": dt.date.today().isoformat(), "shape": "cost", "rows": rows}) + "\n"
            )


def convert(model: Path, label: str, outtype: str, threads: int) -> dict[str, Any]:
    target = model.with_suffix(".cost.gguf")
    command = [
        *CONVERT,
        str(model),
        "-o",
        str(target),
        "--outtype",
        outtype,
        "--threads",
        str(threads),
        "--json",
    ]
    try:
        cost, output = read(command)
    finally:
        target.unlink(missing_ok=True)
    report = json.loads(output)
    source = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    return show(label, outtype, threads, cost, source, report["size"], report["parameter_count"])


def plan(model: Path, outtype: str) -> dict[str, Any]:
    """Only the header is read; the size is the one that a conversion would write."""
    cost, output = read([*CONVERT, str(model), "--outtype", outtype, "--dry-run", "--json"])
    report = json.loads(output)
    print(f"| 7B, --dry-run | {outtype} | - | {cost.wall:.1f} | {cost.cpu:.1f} | {cost.rss / 1e6:.0f} | 0 "
          f"| would be {report['size'] / 1e9:.2f} | - |", flush=True)  # fmt: skip
    return {"model": "7B dry run", "type": outtype, "wall": cost.wall, "cpu": cost.cpu, "rss": cost.rss,
            "bytes": report["size"]}  # fmt: skip


def show(
    label: str, outtype: str, threads: int, cost: Cost, source: int, size: int, weights: int
) -> dict[str, Any]:
    print(f"| {label} | {outtype} | {threads} | {cost.wall:.1f} | {cost.cpu:.1f} | {cost.rss / 1e6:.0f} "
          f"| {source / 1e9:.2f} | {size / 1e9:.2f} | {cost.cpu / weights * 1e9:.1f} |", flush=True)  # fmt: skip
    return {"model": label, "type": outtype, "threads": threads, "wall": round(cost.wall, 2),
            "cpu": round(cost.cpu, 2), "rss": cost.rss, "bytes": size}  # fmt: skip


def write_model(folder: Path, tokenizer: Path, config: dict[str, Any], *, holes: bool) -> Path:
    """A model in one file: its data a hole, or one piece of formula values over and over."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dims in tensors(config):
        size = 2 * int(np.prod(dims))
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values = (np.random.default_rng(7).standard_normal(TILE) * 0.02).astype(np.float32)
    tile = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if holes:
            file.truncate(8 + len(text) + offset)
            return folder
        while offset:
            file.write(tile[:offset])
            offset -= min(offset, len(tile))
    return folder


if __name__ == "__main__":
    main()
