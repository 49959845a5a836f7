"""A LoRA adapter as a GGUF file of its own, for llama.cpp's `--lora` and Ollama's ADAPTER.

Names, order, pairs and types: llama.cpp b11434 `convert_lora_to_gguf.py`. What that script leaves out without
a word is kept or refused here: scales that differ between modules are multiplied into B, for llama.cpp
computes one scale from `adapter.lora.alpha` and the rank; norms, biases and whole modules, which llama.cpp
does not read from an adapter, are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rfctl.converter.adapter import Target, group_tensors, read_adapter_tensors
from rfctl.converter.adapter_config import read_adapter_config
from rfctl.converter.expression import Blocks, Constant, Every, Expression, RowRange, Slice, Stack
from rfctl.converter.expression import RotaryRows as Rotary
from rfctl.converter.expression_quantized import Scaled
from rfctl.converter.family import Family, find_family
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams, fill_defaults
from rfctl.converter.metadata import describe_model
from rfctl.converter.pair import real, text, uint
from rfctl.converter.plan import Plan, TensorPlan, merge_pairs
from rfctl.converter.quantization.type import FileType, file_type, tensor_type
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError, UsageError

_OUTTYPES = ("F32", "F16", "BF16", "Q8_0")
_QUANTIZATION_VERSION = 2


def plan_adapter(base: ModelSource, adapter: Path, outtype: str = "f32") -> Plan:
    """The plan of the GGUF file of the adapter directory `adapter`.

    base     the model it was trained on: its configuration is enough, its tensors are not looked at
    outtype  "f32", "f16", "bf16", "q8_0", or "auto": BF16 for an adapter in BF16, else F16 (the
             script has the option and stops with it)
    Raises RfctlError `adapter.*` as `merge_adapter`, and `adapter.module-unsupported` for a module that
    cannot be in such a file; UsageError `adapter.outtype`.
    """
    config = read_adapter_config(adapter)
    tensors = sorted(read_adapter_tensors(adapter), key=lambda tensor: tensor.offset)
    targets = group_tensors(tensors, config)
    if config.alpha == 0:  # llama.cpp takes 0 for "no alpha", a scale of 1
        raise RfctlError("adapter.config-invalid", key="lora_alpha", value="0")
    for name, target in targets.items():
        if not target.pair:
            raise RfctlError("adapter.module-unsupported", tensor=name)
    chosen = _choose_outtype(outtype, next(iter(targets.values())))
    family = find_family(base)
    hparams = fill_defaults(base.config)
    family.demand(hparams)
    hparams = family.prepare(base, family.observe(hparams, targets))
    is_tied = base.config.get("tie_word_embeddings", hparams.get("tie_word_embeddings"))
    if is_tied and "lm_head.weight" in targets:
        raise RfctlError("adapter.tied-head", path=adapter)
    alpha = config.alpha * math.sqrt(config.r) if config.is_rank_stabilized else config.alpha
    plans: list[TensorPlan] = []
    size = 0
    for name, target, expression in _place(family, hparams, targets):
        scale = config.scale(name.removesuffix(".weight")) * target.pair["A"].shape[0]
        a, b = _separate(name, target, expression, targets)
        if not math.isclose(scale, alpha, rel_tol=1e-9):
            b = Scaled(b, Constant(np.array([scale / alpha], np.float32)))
        gguf_name = expression[0]
        size += math.prod(b.shape[:-1]) * (a.shape[0] if target.is_embedding else a.shape[-1])
        for ending, part in ((".lora_a", a), (".lora_b", b)):
            shape = tuple(reversed(part.shape))
            plans.append(TensorPlan(gguf_name + ending, _choose_type(chosen, shape[0]), shape, part))
    # Weights are counted negatively: gguf-py's sign for a number that is not the model's.
    pairs = [
        text("general.architecture", family.architecture),
        text("general.type", "adapter"),
        text("adapter.type", "lora"),
        *describe_model(ModelSource(adapter, {}, {}), {}, parameter_count=-size),
        real("adapter.lora.alpha", alpha),
        uint("general.quantization_version", _QUANTIZATION_VERSION),
    ]
    return Plan(
        architecture=family.architecture,
        outtype=chosen.name,
        file_type=chosen.number,
        pairs=tuple(merge_pairs(pairs)),
        tensors=tuple(plans),
        hparams=hparams,
    )


type Placed = tuple[str, Expression]


def _place(
    family: Family, hparams: HParams, targets: Mapping[str, Target]
) -> Iterator[tuple[str, Target, Placed]]:
    """(base tensor, target, (GGUF name, where the rows of B come from)) in the order of the file.

    The family moves rows of the weight; the same moves are made with the rows of B.
    """
    mapped = []
    blocks = family.count_blocks(hparams)
    for name, target in targets.items():
        _demand_pair(name, target)
        adapted = family.adapt_name(name)
        found = None
        if adapted is not None and not family.leaves_out(adapted, hparams):
            adapted = family.place(adapted, hparams)
            found = family.map_name(adapted, blocks)
        if adapted is None or found is None:
            raise RfctlError("adapter.target-unknown", count=1, tensors=name)
        mapped.append((adapted, found, replace(target.pair["B"], name=name)))
    for gguf_name, expression in family.assemble(mapped, hparams):
        first = next(_list_slices(expression), None)
        if first is None:
            raise RfctlError("adapter.module-unsupported", tensor=gguf_name)
        yield first.name, targets[first.name], (gguf_name, expression)


def _demand_pair(name: str, target: Target) -> None:
    a, b = target.pair["A"], target.pair["B"]
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise RfctlError("adapter.shape-mismatch", tensor=a.name, found=list(a.shape), wanted="2 dimensions")
    if a.shape[0] != b.shape[1]:
        raise RfctlError("adapter.rank-mismatch", tensor=name, a=a.shape[0], b=b.shape[1], rank=a.shape[0])


def _separate(
    name: str, target: Target, placed: Placed, targets: Mapping[str, Target]
) -> tuple[Expression, Expression]:
    """A and B of one output tensor. Raises RfctlError `adapter.module-unsupported`."""
    _, expression = placed
    if target.is_embedding:
        from rfctl.converter.transpose import Transpose

        if not isinstance(expression, Slice):
            raise RfctlError("adapter.module-unsupported", tensor=name)
        return Transpose(Slice(target.pair["A"])), Slice(target.pair["B"])
    if isinstance(expression, Stack):
        parts = [_separate(name, target, ("", part), targets) for part in expression.sources]
        first = parts[0]
        if any((a.shape, b.shape) != (first[0].shape, first[1].shape) for a, b in parts):
            raise RfctlError("adapter.module-unsupported", tensor=name)
        return Stack(tuple(a for a, _ in parts)), Stack(tuple(b for _, b in parts))
    inner = expression
    while isinstance(inner, Rotary | RowRange | Blocks | Every):
        if isinstance(inner, Blocks | Every) and inner.columns:
            raise RfctlError("adapter.module-unsupported", tensor=name)
        inner = inner.source
    if not isinstance(inner, Slice):
        raise RfctlError("adapter.module-unsupported", tensor=name)
    return Slice(targets[inner.tensor.name].pair["A"]), expression


def _list_slices(expression: object) -> Iterator[SourceTensor]:
    if isinstance(expression, Slice):
        yield expression.tensor
        return
    inner: Sequence[object] = (getattr(expression, "source", None), *getattr(expression, "sources", ()))
    for part in inner:
        if part is not None:
            yield from _list_slices(part)


def _choose_outtype(outtype: str, first: Target) -> FileType:
    if outtype.lower() == "auto":
        return file_type("BF16" if first.pair["A"].dtype == "BF16" else "F16")
    found = file_type(outtype)
    if found.name not in _OUTTYPES:
        raise UsageError("adapter.outtype", outtype=outtype)
    return found


def _choose_type(wanted: FileType, columns: int) -> str:
    """Rows that are no whole number of blocks become F16, as in the reference."""
    return wanted.base if tensor_type(wanted.base).fits(columns) else "F16"
