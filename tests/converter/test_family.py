"""Small models of families that the golden cases lack, against what the reference wrote for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import FOLDER, load_small, make_small

from rfctl.converter.check import check
from rfctl.converter.convert import convert
from rfctl.converter.finding import Answer

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
HEAVY = {"mix-falcon", "mix-mixtral"}  # all K-quants once more
DIRECT = ("f32", "f16", "bf16", "q8_0", "auto")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in HEAVY else name for name in NAMES]
)
def test_files_equal_the_reference(golden: Path, tmp_path: Path, name: str) -> None:
    spec = load_small(name)
    folder = make_small(golden, spec, tmp_path)
    for outtype, record in spec["outputs"].items():
        target = tmp_path / f"{outtype}.gguf"
        done = convert(folder, target, outtype=outtype, two_step=outtype not in DIRECT or None)
        target.unlink()
        assert (done.size, done.sha256) == (record["size"], record["sha256"]), outtype
    report = check(folder)
    assert report.will_work, report.errors
    assert {verdict.authority: verdict.answer for verdict in report.verdicts}["converter"] is Answer.SUPPORTED
