"""A LoRA adapter in PEFT's layout, merged into the tensors of its base model while they are read.

Layout: adapter_config.json and adapter_model.safetensors as peft 0.17.1 `save_pretrained` writes them. What
changes the result and is not handled is refused by name, and so is every tensor that would be left over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rfctl.converter.adapter_config import AdapterConfig, read_adapter_config
from rfctl.converter.expression import Expression, Slice
from rfctl.converter.header import SourceTensor, read_header
from rfctl.converter.low_rank import MERGEABLE, Added, LowRank, Replaced
from rfctl.converter.source import ModelSource, read_json
from rfctl.converter.source_pickled import find_pickled, refuse_adapter
from rfctl.core.error import RfctlError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PAIR = re.compile(r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")
_BIAS = re.compile(r"(.+)\.lora_B(?:\.[^.]+)?\.bias")
_EMBEDDING = re.compile(r"(.+)\.lora_embedding_([AB])(?:\.[^.]+)?")
_SAVED = re.compile(r"(.+?)(?:\.base_layer|\.modules_to_save(?:\.[^.]+)?)?\.(weight|bias)")


@dataclass
class Target:
    """What an adapter has for one tensor of the base."""

    saved: SourceTensor | None = None
    pair: dict[str, SourceTensor] = field(default_factory=dict)
    is_embedding: bool = False
    bias: SourceTensor | None = None


def find_base(path: Path) -> tuple[Path, Path | None]:
    """(model directory, adapter directory) of `path`, which may be an adapter that names its base.

    The base must be a directory on this machine; otherwise `path` is returned as it is, without an adapter.
    """
    if (path / "config.json").is_file() or not (path / CONFIG).is_file():
        return path, None
    config = read_json(path / CONFIG)
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if isinstance(base, str) and base and "\0" not in base and Path(base).is_dir():
        return Path(base), path
    return path, None


def read_revision(adapter: Path) -> str:
    """Which version of its base the adapter was trained on (`revision`), "" where it does not say."""
    config = read_json(adapter / CONFIG) if (adapter / CONFIG).is_file() else None
    revision = config.get("revision") if isinstance(config, dict) else None
    return revision[:200] if isinstance(revision, str) else ""


def merge_adapter(source: ModelSource, adapter: Path) -> ModelSource:
    """The model `source` with the adapter of the directory `adapter` merged in; reads headers only.

    Raises RfctlError `adapter.*` for an adapter that is malformed, does not fit or uses what is not handled.
    """
    quantized = source.config.get("quantization_config")
    if isinstance(quantized, dict) and quantized:
        method = quantized.get("quant_method", quantized.get("quant_algo", "?"))
        raise RfctlError("adapter.base-quantized", path=source.path, method=str(method)[:80])
    config = read_adapter_config(adapter)
    targets = group_tensors(read_adapter_tensors(adapter), config)
    unknown = sorted(set(targets) - set(source.tensors))
    if "lm_head.weight" in unknown or _unties(source, targets, config):
        raise RfctlError("adapter.tied-head", path=adapter)
    if unknown:
        raise RfctlError("adapter.target-unknown", count=len(unknown), tensors=", ".join(unknown[:3]))
    tensors = dict(source.tensors)
    for name, target in targets.items():
        tensors[name] = replace(tensors[name], content=_change(tensors[name], target, config))
    return replace(source, tensors=tensors)


def _unties(source: ModelSource, targets: Mapping[str, Target], config: AdapterConfig) -> bool:
    """Would output and embeddings, which the base shares, differ after the merge?

    PEFT trains a copy of a module in modules_to_save, while the output goes on with the base's embeddings;
    a change of the base's own embeddings changes both.
    """
    is_tied = source.config.get("tie_word_embeddings", True)
    if not is_tied or not ("CausalLM" in source.architecture or "LMHead" in source.architecture):
        return False
    shared = [
        name
        for name in targets
        if name in source.tensors
        and len(source.tensors[name].shape) == 2
        and source.tensors[name].shape[0] == source.config.get("vocab_size")
    ]
    if source.config.get("tie_word_embeddings") and "lm_head.weight" in source.tensors:
        return bool(shared)  # which of the two copies counts is the loader's choice
    return "lm_head.weight" not in source.tensors and any(
        targets[name].saved is not None and config.saves(name.removesuffix(".weight")) for name in shared
    )


def read_adapter_tensors(adapter: Path) -> Sequence[SourceTensor]:
    """The tensors of an adapter directory, sorted by name. Raises RfctlError `adapter.*`."""
    path = adapter / WEIGHTS
    tensors = read_header(path) if path.is_file() else []
    if not tensors:
        if not path.is_file() and (pickled := find_pickled(adapter)):
            raise refuse_adapter(adapter, pickled, WEIGHTS)
        raise RfctlError("adapter.weights-missing", path=adapter, file=WEIGHTS)
    for tensor in tensors:
        if "lora_magnitude_vector" in tensor.name:
            raise RfctlError("adapter.dora", path=adapter)
        if tensor.dtype not in MERGEABLE:
            raise RfctlError("adapter.tensor-dtype", tensor=tensor.name, dtype=tensor.dtype)
    return tensors


def group_tensors(tensors: Sequence[SourceTensor], config: AdapterConfig) -> Mapping[str, Target]:
    """Name of the base's tensor -> what the adapter has for it."""
    targets: dict[str, Target] = {}
    leftover = []
    for tensor in tensors:
        name = tensor.name.removeprefix(_PREFIX)
        if found := _PAIR.fullmatch(name) or _EMBEDDING.fullmatch(name):
            target = targets.setdefault(f"{found[1]}.weight", Target())
            is_embedding = found.re is _EMBEDDING
            if found[2] in target.pair or (target.pair and target.is_embedding != is_embedding):
                leftover.append(tensor.name)
            target.pair[found[2]] = tensor
            target.is_embedding = is_embedding
        elif found := _BIAS.fullmatch(name):
            target = targets.setdefault(f"{found[1]}.bias", Target())
            if target.bias is not None or not config.has_bias:
                leftover.append(tensor.name)
            target.bias = tensor
        elif "lora_" not in name and (found := _SAVED.fullmatch(name)):
            target = targets.setdefault(f"{found[1]}.{found[2]}", Target())
            if target.saved is not None:
                leftover.append(tensor.name)
            target.saved = tensor
        else:
            leftover.append(tensor.name)
    leftover += [
        tensor.name for target in targets.values() for tensor in target.pair.values() if len(target.pair) == 1
    ]
    if leftover:
        raise RfctlError("adapter.tensor-unused", count=len(leftover), tensors=", ".join(leftover[:3]))
    return targets


def _change(base: SourceTensor, target: Target, config: AdapterConfig) -> Expression:
    if base.dtype not in MERGEABLE:
        raise RfctlError("adapter.base-dtype", tensor=base.name, dtype=base.dtype)
    result: Expression = Slice(base)
    if target.saved is not None:
        _demand_shape(target.saved, base.shape, base.name)
        result = Replaced(Slice(target.saved), base.dtype)
    if target.bias is not None:
        _demand_shape(target.bias, base.shape, base.name)
        result = Added(result, Slice(target.bias), config.scale(base.name.removesuffix(".bias")))
    if not target.pair:
        return result
    a, b = target.pair["A"], target.pair["B"]
    module = base.name.removesuffix(".weight")
    rank = config.rank(module)
    if len(base.shape) > 2:
        raise RfctlError("adapter.convolution", tensor=base.name, found=list(base.shape))
    if len(a.shape) != 2 or len(b.shape) != 2 or len(base.shape) != 2:
        raise RfctlError("adapter.shape-mismatch", tensor=a.name, found=list(a.shape), wanted="2 dimensions")
    if not a.shape[0] == b.shape[1] == rank:
        raise RfctlError("adapter.rank-mismatch", tensor=base.name, a=a.shape[0], b=b.shape[1], rank=rank)
    rows, columns = base.shape
    transposed = target.is_embedding
    if config.fan_in_fan_out and not target.is_embedding:
        # PEFT drops the setting for a Linear layer, which only its shape tells from a Conv1D.
        transposed = (b.shape[0], a.shape[1]) == (columns, rows)
    inputs, outputs = (rows, columns) if transposed else (columns, rows)
    _demand_shape(a, (rank, inputs), base.name)
    _demand_shape(b, (outputs, rank), base.name)
    scale = config.scale(module)
    return LowRank(result, Slice(a), Slice(b), scale, transposed, rounded=target.is_embedding)


def _demand_shape(tensor: SourceTensor, wanted: tuple[int, ...], base: str) -> None:
    if tensor.shape != wanted:
        params: dict[str, Any] = {"found": list(tensor.shape), "wanted": f"{list(wanted)} ({base})"}
        raise RfctlError("adapter.shape-mismatch", tensor=tensor.name, **params)
