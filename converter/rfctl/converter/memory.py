"""How much memory and disk a model will want: estimates from the configuration, in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rfctl.converter.quantization.mix import MixModel, MixTensor, choose_types
from rfctl.converter.quantization.type import tensor_type

_HALF = 2
_BATCH, _STEP = 512, 256
_SLIDING = "sliding_attention"
# Layers that keep a state of fixed size in place of keys and values.
_NO_CACHE = {"linear_attention": 0, "conv": 0, "mamba": 0, "recurrent": 0}


def estimate_cache(hparams: Mapping[str, Any], num_ctx: int, sliding_window: int = 0) -> int | None:
    """Bytes of the key/value cache in float16 at `num_ctx` tokens; None where the configuration does not
    tell.

    sliding_window   tokens that the layers called "sliding_attention" see; 0: llama.cpp lets them see all
    A layer keeps one key and one value per head of keys; with compressed attention (MLA) the compressed key
    alone; a layer without attention nothing (llama.cpp b11434 src/llama-kv-cache.cpp; src/
    llama-kv-cache-iswa.cpp for the window plus one batch of 512, in steps of 256). An upper bound, without
    the buffers of the computation.
    """
    layers = find_count(hparams, "num_hidden_layers", "n_layer", "num_layers")
    heads = find_count(hparams, "num_attention_heads", "n_head")
    hidden = find_count(hparams, "hidden_size", "n_embd")
    if not layers or not heads or not hidden:
        return None
    compressed = find_count(hparams, "kv_lora_rank")
    if compressed:
        width = compressed + find_count(hparams, "qk_rope_head_dim")
    else:
        heads_kv = find_count(hparams, "num_key_value_heads", "multi_query_group_num") or heads
        width = 2 * heads_kv * (find_count(hparams, "head_dim") or hidden // heads)
    window = min(num_ctx, -(-(sliding_window + _BATCH) // _STEP) * _STEP) if sliding_window else num_ctx
    kinds = hparams.get("layer_types")
    if not isinstance(kinds, list) or len(kinds) != layers:
        return layers * num_ctx * width * _HALF
    cells = sum(_NO_CACHE.get(str(kind), window if kind == _SLIDING else num_ctx) for kind in kinds)
    return cells * width * _HALF


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
    names = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
    return find_count(hparams, *names) or None


def find_count(hparams: Mapping[str, Any], *names: str) -> int:
    """The first of the settings `names` that is a positive whole number, or 0."""
    for name in names:
        value = hparams.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40:
            return value
    return 0
