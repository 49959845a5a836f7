"""The converter beside `cp`, beside llama.cpp's own tools where they are given, and beside its earlier runs.

    python benchmarks/convert.py --tokenizer DIR [--shape NAME] [--work DIR] [--outtypes bf16,q8_0,Q4_K_M]
                                 [--reference-python PY --llama-cpp DIR [--llama-quantize BIN]] [--repeat N]

DIR of --tokenizer holds a tokenizer.json with Qwen's vocabulary. Everything runs in turn in one go, so that the
ratios hold on a noisy machine; the minimum of the repeats counts. Results are appended to history.jsonl.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tools")]

from make_model import SHAPES, make
from measure import Cost, run

HISTORY = HERE / "history.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-0.5b")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--outtypes", default="bf16,f16,q8_0,Q4_K_M")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument(
        "--reference-python", help="Python with torch, transformers and gguf for llama.cpp's script"
    )
    parser.add_argument("--llama-cpp", type=Path, help="llama.cpp tree with convert_hf_to_gguf.py")
    parser.add_argument("--llama-quantize", help="llama-quantize of the same build")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="rfctl-bench-"))
    try:
        measure(options, work)
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)


def measure(options: argparse.Namespace, work: Path) -> None:
    model = work / options.shape
    make(options.shape, options.tokenizer, model)
    source = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    print(f"{options.shape}: {source / 1e9:.2f} GB of bf16 weights; best of {options.repeat}")
    rows: list[tuple[str, Cost, int]] = []

    def best(label: str, command: list[str], result: Path) -> None:
        costs = []
        for _ in range(options.repeat):
            result.unlink(missing_ok=True)
            costs.append(run(command))
        cost = Cost(min(c.wall for c in costs), min(c.cpu for c in costs), max(c.rss for c in costs))
        rows.append((label, cost, result.stat().st_size))

    copy = work / "copy.safetensors"
    largest = max(model.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    best(
        f"cp of the largest shard ({largest.stat().st_size / 1e9:.2f} GB)",
        ["cp", str(largest), str(copy)],
        copy,
    )
    copy.unlink()
    for outtype in options.outtypes.split(","):
        target = work / f"ours-{outtype}.gguf"
        command = [sys.executable, "-m", "rfctl.cli.main", "model", "convert", str(model), "-o", str(target)]
        best(f"rfctl {outtype}", [*command, "--outtype", outtype, "--quiet"], target)
        if options.reference_python and options.llama_cpp:
            reference(options, work, model, outtype, best)
            theirs = work / f"theirs-{outtype}.gguf"
            if theirs.exists():
                same = run(["cmp", str(target), str(theirs)]) is not None
                print(f"  {outtype}: identical bytes: {same}")
                theirs.unlink()
        target.unlink()
    report(options, rows)


def reference(options, work, model, outtype, best) -> None:  # type: ignore[no-untyped-def]
    script = [options.reference_python, str(options.llama_cpp / "convert_hf_to_gguf.py"), str(model)]
    theirs = work / f"theirs-{outtype}.gguf"
    if outtype.lower() in ("f32", "f16", "bf16", "q8_0", "auto"):
        best(
            f"convert_hf_to_gguf.py {outtype}",
            [*script, "--outfile", str(theirs), "--outtype", outtype],
            theirs,
        )
    elif options.llama_quantize:
        middle = work / "theirs-bf16-intermediate.gguf"
        shell = '"$0" "$1" "$2" --outfile "$4" --outtype bf16 && "$3" "$4" "$5" "$6" 2 && rm "$4"'
        best(
            f"convert_hf_to_gguf.py + llama-quantize {outtype}",
            ["sh", "-c", shell, *script, options.llama_quantize, str(middle), str(theirs), outtype],
            theirs,
        )


def report(options: argparse.Namespace, rows: list[tuple[str, Cost, int]]) -> None:
    earlier = [json.loads(line) for line in HISTORY.read_text().splitlines()] if HISTORY.exists() else []
    base = rows[0][1]
    print(f"{'':48} {'wall s':>8} {'/ cp':>6} {'CPU s':>8} {'RSS MB':>7} {'out GB':>7}  before")
    results = {}
    for label, cost, size in rows:
        last = next(
            (
                e["rows"][label]
                for e in reversed(earlier)
                if e["shape"] == options.shape and label in e["rows"]
            ),
            None,
        )
        before = f"{last['wall']:.1f} s" if last else "-"
        print(
            f"{label:48} {cost.wall:8.1f} {cost.wall / base.wall:6.1f} {cost.cpu:8.1f} {cost.rss / 1e6:7.0f}"
            f" {size / 1e9:7.2f}  {before}"
        )
        results[label] = {
            "wall": round(cost.wall, 2),
            "cpu": round(cost.cpu, 2),
            "rss": cost.rss,
            "bytes": size,
        }
    entry = {"date": dt.date.today().isoformat(), "shape": options.shape, "rows": results}
    with HISTORY.open("a") as file:
        file.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
