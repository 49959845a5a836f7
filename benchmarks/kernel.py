"""Nanoseconds per weight and core of each quantization kernel that this machine has, in one run.

    python benchmarks/kernel.py [--cache DIR] [--rows 256] [--columns 2048] [--repeat 9]

The sources take turns, so that a busy machine slows all of them; CPU time of the one thread counts, and of the
repeats the least. Data: normal, deviation 0.02. `ratio`: ggml's time over that of the best native kernel.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rfctl.converter.quantization import kernel
from rfctl.converter.quantization.native.loader import TYPES, NativeKernel, load_native
from rfctl.converter.quantization.type import tensor_type

type Run = Callable[[npt.NDArray[np.float32], npt.NDArray[np.uint8]], None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, help="where the compiled library is kept; else compiled anew")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        native = load_native(options.cache or Path(folder))
        print(f"native: {native} after {time.perf_counter() - start:.1f} s")
        table(native, options.rows, options.columns, options.repeat)


def table(native: object, n: int, columns: int, repeat: int) -> None:
    levels = native.at_levels() if isinstance(native, NativeKernel) else ()
    titles = ["ggml", *(f"native {one.level}" for one in levels), "numpy"]
    print("| type | " + " | ".join(titles) + " | ratio |")
    print("| --- " * (len(titles) + 2) + "|")
    rows = (np.random.default_rng(1).standard_normal((n, columns)) * 0.02).astype(np.float32)
    for name in TYPES:
        kernel.use_kernel(["ggml", "numpy"])
        other = {source.split()[0]: run for source, run in kernel._candidates(name)}
        runs: dict[str, Run | None] = {"ggml": other.get("ggml")}
        runs |= {f"native {one.level}": bind(one, name) for one in levels}
        runs["numpy"] = other.get("numpy")
        cost = measure(name, rows, {title: run for title, run in runs.items() if run}, repeat)
        cells = [f"{cost[title]:.2f}" if title in cost else "-" for title in titles]
        best = f"{cost['ggml'] / cost[titles[1]]:.1f}" if levels and "ggml" in cost else "-"
        print(f"| {name} | " + " | ".join(cells) + f" | {best} |")


def bind(one: NativeKernel, name: str) -> Run:
    return lambda rows, out: one.quantize(name, rows, out)


def measure(name: str, rows: npt.NDArray[np.float32], runs: dict[str, Run], repeat: int) -> dict[str, float]:
    """Nanoseconds per weight; all outputs must be equal."""
    out = {t: np.zeros((rows.shape[0], tensor_type(name).row_bytes(rows.shape[1])), np.uint8) for t in runs}
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeat):
        for title, run in runs.items():
            start = time.thread_time_ns()
            run(rows, out[title])
            best[title] = min(best[title], (time.thread_time_ns() - start) / rows.size)
    first = next(iter(out.values()))
    assert all(np.array_equal(first, one) for one in out.values()), f"{name}: the kernels differ"
    return best


if __name__ == "__main__":
    main()
