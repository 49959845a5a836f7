"""Is a GGUF file what its model directory gives? Every tensor is made again in the type of the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rfctl.converter.compare import (
    Comparison,
    Load,
    Pair,
    TensorDifference,
    bind,
    compare_keys,
    compare_pairs,
    describe,
)
from rfctl.converter.convert import make_plan
from rfctl.converter.encode import check_finite, encode_rows
from rfctl.converter.gguf_file import GgufFile
from rfctl.converter.layout import pack_value
from rfctl.converter.plan import Plan, TensorPlan
from rfctl.converter.quantization.kernel import can_quantize, proved_types
from rfctl.converter.quantization.type import file_types
from rfctl.converter.storage import SourceReader
from rfctl.converter.writer import list_sources
from rfctl.core.error import RfctlError
from rfctl.core.progress import SILENT, Reporter

# Written by those who made the file, not by a conversion: they say nothing against the weights.
_ADDED = ("general.source.", "quantize.imatrix.")
# Read from the name of the directory (gguf-py metadata.py, b11434), which may have been moved since.
_NAMED = frozenset(f"general.{name}" for name in ("name", "basename", "finetune", "version"))


def plan_again(file: GgufFile, source: Path, adapter: Path | None = None) -> Plan:
    """The plan of the model directory `source` for the file type that `file` names. Raises as `convert`."""
    number = file.values.get("general.file_type")
    name = next((kind.name for kind in file_types().values() if kind.number == number), "auto")
    return make_plan(source, name, adapter=adapter)


def compare_source(
    file: GgufFile, plan: Plan, *, with_keys: bool = True, reporter: Reporter = SILENT
) -> Comparison:
    """What in `file` is not what `plan` gives; the model is the first side, the file the second.

    A tensor whose type is another than the plan's is made in the file's type: mixes of types are free. Types
    that nothing here can make are compared by value with the source and named "unverified". Raises RfctlError
    `model.*` for a source that cannot be read.
    """
    differences: list[TensorDifference] = []
    pairs: list[Pair] = []
    files = {tensor.file for tensor in list_sources(plan)} | set(file.paths)
    unmade: set[str] = set()
    with SourceReader(files) as reader:
        for tensor in plan.tensors:
            found = file.tensors.get(tensor.name)
            shape = "x".join(map(str, tensor.shape))
            if found is None:
                differences.append(TensorDifference(tensor.name, "missing", f"{tensor.type} {shape}", ""))
                continue
            if found.info.shape != tensor.shape:
                first = f"{tensor.type} {shape}"
                differences.append(TensorDifference(tensor.name, "shape", first, describe(found)))
                continue
            kind = found.info.type_name
            made = kind
            if kind != tensor.expression.dtype and not (kind in proved_types() and can_quantize(kind)):
                made = "F32"
                unmade.add(tensor.name)
            pairs.append(
                Pair(tensor.name, tensor.columns, tensor.rows, made, kind, _make(reader, tensor, made),
                     bind(reader, found), found.info.size)
            )  # fmt: skip
        planned = {tensor.name for tensor in plan.tensors}
        for name, extra in file.tensors.items():
            if name not in planned:
                differences.append(TensorDifference(name, "extra", "", describe(extra)))
        compared = compare_pairs(pairs, reporter=reporter)
    for difference in compared:
        if difference.name in unmade:
            difference = TensorDifference(
                difference.name, "unverified", difference.first, difference.second, difference.count,
                difference.first_index, difference.max_abs, difference.rms
            )  # fmt: skip
        differences.append(difference)
    keys = compare_keys(_drop_free(_pack_pairs(plan)), _drop_free(file.raw)) if with_keys else ()
    return Comparison(keys, tuple(differences), len(pairs), len(pairs) - len(compared))


def _make(reader: SourceReader, tensor: TensorPlan, type_name: str) -> Load:
    expression = tensor.expression

    def load(begin: int, end: int) -> NDArray[np.uint8]:
        rows = np.ascontiguousarray(expression.load(reader, begin, end))
        bad = check_finite(expression.dtype, rows)
        if bad is not None:
            raise RfctlError(
                "model.not-finite", tensor=tensor.name, row=begin + bad[0], column=bad[1], value=bad[2]
            )
        data, _ = encode_rows(type_name, expression.dtype, rows)
        return np.ascontiguousarray(data).view(np.uint8).reshape(end - begin, -1)

    return load


def _pack_pairs(plan: Plan) -> dict[str, bytes]:
    return {pair.key: pack_value(pair) for pair in plan.pairs}


def _drop_free(raw: Mapping[str, bytes]) -> dict[str, bytes]:
    return {key: value for key, value in raw.items() if not key.startswith(_ADDED) and key not in _NAMED}
