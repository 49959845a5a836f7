"""Checkpoints that were saved quantized, seen as the float model they stand for.

Which methods and which tensors: `conversion/base.py` dequant_model and prepare_tensors, and
`conversion/gpt_oss.py`, of llama.cpp b11434. What the reference refuses for want of a model to try it on
although the formula is the same (one scale for a tensor, one per row of packed integers) is read too.
Only headers are looked at; the values are computed while they are written (`expression_quantized.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rfctl.converter.expression import Expression, Slice
from rfctl.converter.expression_quantized import (
    SCALE_DTYPES,
    SCALED_DTYPES,
    GroupedIntegers,
    Mxfp4Blocks,
    PackedIntegers,
    Scaled,
    Ternary,
)
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import inner_config
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError

_MODELOPT = "hf_quant_config.json"
_MOST_BLOCK = 1 << 20
_GPTQ_PARTS = (".qweight", ".qzeros", ".scales", ".g_idx")
# What is measured for activations and caches while quantizing; nothing of it is in a GGUF file.
_UNUSED = {
    "fp8": (".activation_scale", "_activation_scale", ".input_scale"),
    "compressed-tensors": (".input_scale", ".input_zero_point", ".output_scale", ".k_scale", ".v_scale"),
    "modelopt": (".input_scale", ".k_scale", ".v_scale", ".output_scale"),
}  # fmt: skip

type Tensors = dict[str, SourceTensor]


def find_method(source: ModelSource) -> tuple[str, Mapping[str, Any]] | None:
    """(method in lower case, settings) of a quantized checkpoint, None for a plain one.

    Raises RfctlError `model.quantized-setting` for settings that are no object.
    """
    declared = source.config.get("quantization_config")
    if declared is None:
        declared = inner_config(source.config).get("quantization_config")
    if declared is not None and not isinstance(declared, Mapping):
        raise _setting("quantization_config", declared)
    settings: dict[str, Any] = dict(declared or {})
    beside = source.json(_MODELOPT) if not declared or not settings.get("quant_method") else None
    if isinstance(beside, Mapping):
        inner, producer = beside.get("quantization"), beside.get("producer")
        settings |= inner if isinstance(inner, Mapping) else {}
        name = producer.get("name") if isinstance(producer, Mapping) else None
        settings.setdefault("quant_method", name)
    if not settings:
        return None
    method = settings.get("quant_method")
    if method is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        method = "bitsandbytes"
    return (str(method).lower()[:80] if method else "?"), settings


def dequantize_source(source: ModelSource) -> ModelSource:
    """The model with every quantized tensor replaced by one that is computed from its parts.

    Raises RfctlError `model.quantized-bitsandbytes`, `model.quantized-awq`, `model.quantized-gptq`,
    `model.quantized-other` for a method nobody here reads, `model.quantized-setting` and
    `model.quantized-part` for settings and tensors that do not fit.
    """
    found = find_method(source)
    if found is None:
        return source
    method, settings = found
    read = _METHODS.get(method)
    if read is None:
        raise refuse(method, settings)
    tensors = dict(source.tensors)
    unused = _UNUSED.get(method, ())
    for name in [name for name in tensors if name.endswith(unused)] if unused else ():
        del tensors[name]
    return replace(source, tensors=read(tensors, settings))


def refuse(method: str, settings: Mapping[str, Any]) -> RfctlError:
    """The error for a method that is not read, by its name."""
    bits = settings.get(
        "bits", 4 if settings.get("load_in_4bit") else 8 if settings.get("load_in_8bit") else "?"
    )
    known = method if method in ("bitsandbytes", "awq", "gptq") else "other"
    shown = bits if type(bits) is int and 0 < bits < 100 else str(bits)[:10]
    return RfctlError(f"model.quantized-{known}", method=method, bits=shown)


def _read_fp8(tensors: Tensors, settings: Mapping[str, Any]) -> Tensors:
    blocks = _read_blocks("weight_block_size", settings.get("weight_block_size"))
    return _scale_all(tensors, "_scale_inv", "", blocks)


def _read_modelopt(tensors: Tensors, settings: Mapping[str, Any]) -> Tensors:
    algorithm = str(settings.get("quant_algo", "?"))
    if algorithm != "FP8":
        raise RfctlError("model.quantized-format", method="modelopt", format=algorithm[:80])
    for name in [name for name in tensors if name.endswith(".weight_scale")]:
        if name.removesuffix("_scale") not in tensors:
            del tensors[name]
    return _scale_all(tensors, ".weight_scale", ".weight", ())


def _read_compressed(tensors: Tensors, settings: Mapping[str, Any]) -> Tensors:
    form, groups = settings.get("format"), settings.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise _setting("config_groups", groups)
    group = next(iter(groups.values()))
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping):
        raise _setting("config_groups.weights", weights)
    strategy = weights.get("strategy")
    if form == "pack-quantized" and len(groups) == 1:
        return _read_packed(tensors, weights)
    if form not in ("float-quantized", "int-quantized", "naive-quantized") or len(groups) > 1:
        shown = str(form)[:80] if len(groups) == 1 else f"{form!s:.60}, {len(groups)} groups"
        raise RfctlError("model.quantized-format", method="compressed-tensors", format=shown)
    if strategy not in ("channel", "block", "tensor") or weights.get("group_size") is not None:
        raise _setting("strategy", strategy)
    if weights.get("symmetric") is False:
        raise _setting("symmetric", False)
    blocks = _read_blocks("block_structure", weights.get("block_structure")) if strategy == "block" else ()
    return _scale_all(tensors, ".weight_scale", ".weight", blocks)


def _read_packed(tensors: Tensors, weights: Mapping[str, Any]) -> Tensors:
    bits, strategy, size = weights.get("num_bits"), weights.get("strategy"), weights.get("group_size")
    if type(bits) is not int or not 2 <= bits <= 8:
        raise _setting("num_bits", bits)
    if weights.get("type", "int") != "int":
        raise _setting("type", weights.get("type"))
    if strategy not in ("group", "channel"):
        raise _setting("strategy", strategy)
    if strategy == "group" and (type(size) is not int or not 0 < size < _MOST_BLOCK):
        raise _setting("group_size", size)
    for name in [name for name in tensors if name.endswith(".weight_packed")]:
        base = name.removesuffix("_packed")
        if f"{base}_g_idx" in tensors:
            raise RfctlError("model.quantized-part", tensor=f"{base}_g_idx", method="compressed-tensors")
        packed = _take(tensors, name, ("I32",), 2)
        scale = _take(tensors, f"{base}_scale", SCALE_DTYPES, 2)
        extents = _take(tensors, f"{base}_shape", ("I64", "I32"), 1)
        zeros = None
        if f"{base}_zero_point" in tensors:
            zeros = _take(tensors, f"{base}_zero_point", ("I32",), 2)
        count = 32 // bits
        rows, words = packed.shape
        groups = scale.shape[1]
        columns = groups * size if strategy == "group" and isinstance(size, int) else words * count
        _demand(scale, (rows, groups) if strategy == "group" else (rows, 1))
        _demand(extents, (2,))
        if not (words - 1) * count < columns <= words * count:
            raise RfctlError(
                "model.tensor-shape", tensor=name, found=[rows, words], wanted=f"{columns} columns"
            )
        if zeros is not None:
            _demand(zeros, (-(-rows // count), groups))
        content = PackedIntegers(
            Slice(packed), Slice(scale), Slice(zeros) if zeros else None, Slice(extents), bits, columns
        )
        _put(tensors, base, packed, content)
    return tensors


def _read_gptq(tensors: Tensors, settings: Mapping[str, Any]) -> Tensors:
    bits = settings.get("bits")
    if bits not in (2, 4, 8) or type(bits) is not int:
        raise refuse("gptq", settings)
    offset = 1 if settings.get("checkpoint_format", "gptq") == "gptq" else 0
    count = 32 // bits
    for name in [name for name in tensors if name.endswith(".qweight")]:
        base = name.removesuffix(".qweight")
        packed, zeros = (_take(tensors, base + part, ("I32",), 2) for part in _GPTQ_PARTS[:2])
        scales = _take(tensors, f"{base}.scales", SCALE_DTYPES, 2)
        groups = _take(tensors, f"{base}.g_idx", ("I32", "I64"), 1)
        inputs, outputs = packed.shape[0] * count, packed.shape[1]
        _demand(groups, (inputs,))
        _demand(scales, (scales.shape[0], outputs))
        _demand(zeros, (scales.shape[0], outputs // count))
        if outputs % count or not inputs or not scales.shape[0]:
            raise RfctlError(
                "model.tensor-shape", tensor=name, found=list(packed.shape), wanted=f"n x {count} m"
            )
        content = GroupedIntegers(Slice(packed), Slice(zeros), Slice(scales), Slice(groups), bits, offset)
        _put(tensors, f"{base}.weight", packed, content)
    return tensors


def _read_bitnet(tensors: Tensors, settings: Mapping[str, Any]) -> Tensors:
    for name in [name for name in tensors if name.endswith(".weight_scale")]:
        weight = _find(tensors, name.removesuffix("_scale"), ("U8",), 2)
        scale = _take(tensors, name, SCALE_DTYPES)
        if scale.count != 1:
            raise RfctlError("model.tensor-shape", tensor=name, found=list(scale.shape), wanted="1")
        _put(tensors, weight.name, weight, Ternary(Slice(weight), Slice(scale)))
    return tensors


def _read_mxfp4(tensors: Tensors, settings: Mapping[str, Any]) -> Tensors:
    repacked: Tensors = {}
    for name in [name for name in tensors if name.endswith("_blocks")]:
        base = name.removesuffix("_blocks")
        blocks = _take(tensors, name, ("U8",), 4)
        scales = _take(tensors, f"{base}_scales", ("U8",), 3)
        _demand(blocks, (*scales.shape, 16))
        _put(repacked, base, blocks, Mxfp4Blocks(Slice(blocks), Slice(scales)))
    # They are the first tensors of the file (`generate_extra_tensors`).
    return repacked | tensors


def _scale_all(tensors: Tensors, ending: str, instead: str, blocks: tuple[int, ...]) -> Tensors:
    """Every tensor with a scale, in its own place; the scale's name is the tensor's with `ending` at the end
    instead of `instead`."""
    for name in [name for name in tensors if name.endswith(ending)]:
        weight = _find(tensors, name.removesuffix(ending) + instead, SCALED_DTYPES)
        scale = _take(tensors, name, SCALE_DTYPES)
        if not weight.shape or not _covers(scale.shape, weight.shape, blocks):
            raise RfctlError(
                "model.quantized-scale", tensor=name, found=list(scale.shape), weight=list(weight.shape)
            )
        _put(tensors, weight.name, weight, Scaled(Slice(weight), Slice(scale), blocks))
    return tensors


def _covers(scale: Sequence[int], weight: Sequence[int], blocks: tuple[int, ...]) -> bool:
    """Does a scale fit: one number per block, or along a dimension one for all or one for each."""
    if len(scale) > len(weight) or len(blocks) > len(scale):
        return False
    extents = [*scale, *[1] * (len(weight) - len(scale))]
    plain = len(scale) - len(blocks)
    sizes = [0] * plain + [*blocks] + [0] * (len(weight) - len(scale))
    return all(
        extent == -(-whole // block) if block else extent in (1, whole)
        for extent, whole, block in zip(extents, weight, sizes, strict=True)
    )


def _read_blocks(key: str, value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    is_list = isinstance(value, list) and 0 < len(value) <= 4
    if not is_list or not all(type(size) is int and 0 < size < _MOST_BLOCK for size in value):
        raise _setting(key, value)
    return tuple(value)


def _find(
    tensors: Tensors, name: str, dtypes: Collection[str], dimensions: int | None = None
) -> SourceTensor:
    """A part of a quantized tensor that must be there, of one of `dtypes`."""
    tensor = tensors.get(name)
    if tensor is None:
        raise RfctlError("model.quantized-part-missing", tensor=name)
    if tensor.dtype not in dtypes:
        raise RfctlError("model.quantized-dtype", tensor=name, dtype=tensor.dtype)
    if dimensions is not None and len(tensor.shape) != dimensions:
        raise RfctlError(
            "model.tensor-shape", tensor=name, found=list(tensor.shape), wanted=f"{dimensions} dimensions"
        )
    return tensor


def _take(
    tensors: Tensors, name: str, dtypes: Collection[str], dimensions: int | None = None
) -> SourceTensor:
    """The same, taken out of `tensors`."""
    tensor = _find(tensors, name, dtypes, dimensions)
    del tensors[name]
    return tensor


def _put(tensors: Tensors, name: str, part: SourceTensor, content: Expression) -> None:
    """A tensor that is computed: in the place of one of the same name, else at the end, as in the
    reference."""
    if name in tensors and tensors[name] is not part:
        raise RfctlError(
            "model.tensor-duplicate", tensor=name, first=tensors[name].file.name, second=part.file.name
        )
    tensors[name] = replace(part, name=name, dtype=content.dtype, shape=content.shape, content=content)


def _demand(tensor: SourceTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise RfctlError(
            "model.tensor-shape", tensor=tensor.name, found=list(tensor.shape), wanted=list(shape)
        )


def _setting(key: str, value: Any) -> RfctlError:
    return RfctlError("model.quantized-setting", key=key, value=str(value)[:80])


_METHODS: Mapping[str, Callable[[Tensors, Mapping[str, Any]], Tensors]] = {
    "fp8": _read_fp8,
    "gptq": _read_gptq,
    "compressed-tensors": _read_compressed,
    "modelopt": _read_modelopt,
    "bitnet": _read_bitnet,
    "mxfp4": _read_mxfp4,
}
