"""How much memory and disk a model will want: estimates from the configuration, in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rfctl.converter.quantization.mix import MixModel, MixTensor, choose_types
from rfctl.converter.quantization.type import tensor_type

_HALF = 2


def estimate_cache(hparams: Mapping[str, Any], num_ctx: int) -> int | None:
    """Bytes of the key/value cache in float16 at `num_ctx` tokens; None where the configuration does not
    tell.

    Every layer keeps one key and one value per head of keys (llama.cpp without cache quantization). Sliding
    windows and compressed attention need less: the figure is an upper bound.
    """
    layers = find_count(hparams, "num_hidden_layers", "n_layer")
    heads = find_count(hparams, "num_attention_heads", "n_head")
    hidden = find_count(hparams, "hidden_size", "n_embd")
    if not layers or not heads or not hidden:
        return None
    heads_kv = find_count(hparams, "num_key_value_heads") or heads
    size = find_count(hparams, "head_dim") or hidden // heads
    return 2 * layers * num_ctx * heads_kv * size * _HALF


def estimate_output(tensors: Sequence[MixTensor], model: MixModel, outtype: str) -> int:
    """Bytes of tensor data in a file of type `outtype` made of these tensors; metadata is not counted."""
    total = 0
    for tensor, kind in choose_types(tensors, model, outtype):
        columns = tensor.shape[0] if tensor.shape else 1
        rows = 1
        for extent in tensor.shape[1:]:
            rows *= extent
        total += -(-tensor_type(kind).row_bytes(columns) * rows // 32) * 32
    return total


def find_context(hparams: Mapping[str, Any]) -> int | None:
    """The context length of the configuration, tokens."""
    return find_count(hparams, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len") or None


def find_count(hparams: Mapping[str, Any], *names: str) -> int:
    """The first of the settings `names` that is a positive whole number, or 0."""
    for name in names:
        value = hparams.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40:
            return value
    return 0
