"""From a source to the plan of a file: which pairs, which tensors, which types, in which order.

Two forms: what `convert_hf_to_gguf.py` writes (F32, F16, BF16, Q8_0), and what converting without loss and
then `llama-quantize` writes (all mixed types), in one step. Rules: llama.cpp b11434 `conversion/base.py`
and `src/llama-quant.cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from rfctl.converter.expression import Expression
from rfctl.converter.family import Family, find_family
from rfctl.converter.hparams import HParams, fill_defaults
from rfctl.converter.metadata import describe_model
from rfctl.converter.pair import text, uint
from rfctl.converter.plan import KeyValue, Plan, TensorPlan, merge_pairs, set_pair
from rfctl.converter.quantization.mix import MixModel, MixTensor, choose_types, fallback_type
from rfctl.converter.quantization.type import FileType, file_type, tensor_type
from rfctl.converter.source import ModelSource
from rfctl.converter.source_quantized import dequantize_source
from rfctl.core.error import RfctlError

_FLOATS = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
_QUANTIZATION_VERSION = 2
# Always float32, without `blk.N.`: `conversion/base.py` prepare_tensors.
_FLOAT_NAMES = frozenset(
    {"ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "position_embd.weight", "token_types.weight",
     "shortconv.conv.weight", "ssm_conv1d.weight"}
)  # fmt: skip
_READABLE = frozenset({"F32", "F16", "BF16", "F64"})
# general.file_type of a file with float types and tensors that were blocks already (prepare_metadata).
_ENCODED_FILE_TYPES = {"MXFP4": 38}


@dataclass(frozen=True)
class _Named:
    name: str
    expression: Expression

    @property
    def shape(self) -> tuple[int, ...]:
        """GGUF order."""
        return tuple(reversed(self.expression.shape))


def plan_model(source: ModelSource, outtype: str = "auto", *, two_step: bool | None = None) -> Plan:
    """The plan of the file that `outtype` (any case; "auto" too) gives.

    two_step   the form of convert-without-loss and llama-quantize; None: for the types that only that way
               gives
    Reads no weights. Raises RfctlError `model.*` for everything that would make a file llama.cpp cannot load.
    """
    family = find_family(source)
    hparams = fill_defaults(source.config)
    family.demand(hparams)
    stored = source
    source = dequantize_source(source)
    hparams = family.prepare(source, family.observe(hparams, source.tensors))
    named = _name_tensors(source, family, hparams)
    _check_tensors(family, hparams, named)
    wanted = _choose_outtype(outtype, stored, family)
    steps = wanted.is_mixed if two_step is None else two_step
    encoded = next((item for item in named if item.expression.dtype in family.encoded_dtypes), None)
    if steps and encoded is not None:
        dtype = encoded.expression.dtype
        raise RfctlError("model.requantized", tensor=encoded.name, type=dtype, outtype=wanted.name)
    lossless = _find_lossless(named) if steps else wanted
    number = lossless.number
    if encoded is not None and not tensor_type(lossless.base).is_quantized:
        number = _ENCODED_FILE_TYPES[encoded.expression.dtype]
    tensors = [_Typed(item, _choose_type(item, family, lossless)) for item in named]
    pairs = [
        text("general.architecture", family.architecture),
        *family.describe_generated(hparams),
        text("general.type", "model"),
        *describe_model(source, {item.name: item.expression.shape for item in named}),
        *family.describe(source, hparams, number),
        uint("general.quantization_version", _QUANTIZATION_VERSION),
    ]
    vocabulary = family.describe_vocabulary(source, hparams)
    _check_rows(named, vocabulary, source)
    pairs = merge_pairs([*pairs, *vocabulary])
    if steps:
        tensors = _mix(tensors, describe_mix(family.architecture, pairs), wanted)
        pairs = set_pair(pairs, uint("general.quantization_version", _QUANTIZATION_VERSION))
        pairs = set_pair(pairs, uint("general.file_type", wanted.number))
    return Plan(
        architecture=family.architecture,
        outtype=wanted.name,
        file_type=wanted.number if steps else number,
        pairs=tuple(pairs),
        tensors=tuple(
            TensorPlan(item.item.name, item.type, item.item.shape, item.item.expression) for item in tensors
        ),
        hparams=hparams,
        is_strict=steps,
    )


@dataclass(frozen=True)
class _Typed:
    item: _Named
    type: str


def _name_tensors(source: ModelSource, family: Family, hparams: HParams) -> list[_Named]:
    blocks = family.count_blocks(hparams)
    named: dict[str, _Named] = {}
    unmapped = []
    for name, expression in family.generate(hparams):
        named[name] = _Named(name, expression)
    mapped_tensors = []
    for tensor in source.tensors.values():
        adapted = family.adapt_name(tensor.name)
        if adapted is None or family.leaves_out(adapted, hparams):
            continue
        adapted = family.place(adapted, hparams)
        mapped = family.map_name(adapted, blocks)
        if mapped is None:
            unmapped.append(tensor.name)
        else:
            mapped_tensors.append((adapted, mapped, tensor))
    if unmapped:
        shown = ", ".join(unmapped[:3])
        raise RfctlError(
            "model.tensor-unmapped", count=len(unmapped), tensors=shown, architecture=source.architecture
        )
    for _, _, tensor in mapped_tensors:
        if tensor.dtype not in _READABLE | family.encoded_dtypes:
            raise RfctlError("model.tensor-dtype", tensor=tensor.name, dtype=tensor.dtype)
    for name, expression in family.assemble(mapped_tensors, hparams):
        if name in named:
            first = next(tensor for _, mapped, tensor in mapped_tensors if name in family.produce(mapped))
            raise RfctlError("model.tensor-duplicate", tensor=name, first=first.file.name, second=first.name)
        named[name] = _Named(name, expression)
    return list(named.values())


def _check_tensors(family: Family, hparams: HParams, named: Sequence[_Named]) -> None:
    have = {item.name for item in named}
    blocks = range(family.count_blocks(hparams))
    wanted = chain(
        family.require(hparams),
        (f"blk.{number}.{name}" for number in blocks for name in family.block_required),
    )
    # One name is enough, and the generator keeps an absurd number of layers from costing anything.
    missing = next((name for name in wanted if name not in have), None)
    if missing is not None:
        raise RfctlError("model.tensor-missing", tensor=missing)
    shapes = family.shapes(hparams)
    for item in named:
        short = item.name.split(".", 2)[2] if item.name.startswith("blk.") else item.name
        demanded = shapes.get(short)
        found = item.expression.shape
        if demanded is not None and found != demanded:
            raise RfctlError("model.tensor-shape", tensor=item.name, found=list(found), wanted=list(demanded))
        if not found or 0 in found or len(found) > 4:
            raise RfctlError(
                "model.tensor-shape", tensor=item.name, found=list(found), wanted="1 to 4 dimensions"
            )


def _check_rows(named: Sequence[_Named], vocabulary: Sequence[KeyValue], source: ModelSource) -> None:
    tokens = next((len(pair.value) for pair in vocabulary if pair.key == "tokenizer.ggml.tokens"), None)
    for item in named:
        if item.name in ("token_embd.weight", "output.weight") and tokens is not None:
            rows = item.expression.shape[0]
            if rows != tokens:
                raise RfctlError(
                    "model.vocabulary-rows", tensor=item.name, rows=rows, tokens=tokens, path=source.path
                )


def _choose_outtype(outtype: str, source: ModelSource, family: Family) -> FileType:
    if outtype.lower() != "auto":
        return file_type(outtype)
    # The first matrix in bfloat16 or float16, as it is stored, decides; else float16 (ModelBase.__init__).
    halves = (
        tensor.dtype
        for tensor in source.tensors.values()
        if len(tensor.shape) > 1 and tensor.dtype in ("BF16", "F16") and family.adapt_name(tensor.name)
    )
    return file_type(next(halves, "F16"))


def _find_lossless(named: Sequence[_Named]) -> FileType:
    """The float type that holds every weight exactly."""
    dtypes = {item.expression.dtype for item in named if len(item.shape) > 1}
    only = dtypes.pop() if len(dtypes) == 1 else "F32"
    return file_type(_FLOATS.get(only, "F32"))


def _choose_type(item: _Named, family: Family, wanted: FileType) -> str:
    if item.expression.dtype in family.encoded_dtypes:
        return item.expression.dtype
    is_vector = len(item.shape) <= 1 or item.name.endswith("_norm.weight")
    short = item.name.split(".", 2)[2] if item.name.startswith("blk.") else item.name
    if (
        is_vector
        or short in _FLOAT_NAMES
        or item.name in family.float_names
        or not item.name.endswith(".weight")
    ):
        return "F32"
    return fallback_type(wanted.base, item.shape[0])


def describe_mix(architecture: str, pairs: Sequence[KeyValue]) -> MixModel:
    """What llama-quantize's rules read from the pairs of the lossless file."""
    values = {pair.key: pair.value for pair in pairs}

    def number(name: str, default: int) -> int:
        value = values.get(f"{architecture}.{name}", default)
        return int(value if isinstance(value, int) else value[0])

    heads = number("attention.head_count", 1)
    return MixModel(
        architecture=architecture,
        n_layer=number("block_count", 0),
        n_expert=number("expert_count", 0),
        n_head=heads,
        n_head_kv=number("attention.head_count_kv", heads),
    )


def _mix(tensors: Sequence[_Typed], model: MixModel, wanted: FileType) -> list[_Typed]:
    by_name: Mapping[str, _Typed] = {item.item.name: item for item in tensors}
    chosen = choose_types(
        [MixTensor(item.item.name, item.item.shape, item.type) for item in tensors], model, wanted
    )
    return [_Typed(by_name[tensor.name].item, type) for tensor, type in chosen]
