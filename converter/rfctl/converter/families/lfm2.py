"""LFM2: layers of attention and of short convolutions.

Source: `conversion/lfm2.py` LFM2Model of llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.description import check_number, describe_text_model
from rfctl.converter.expression import Expression, Reshape, Slice
from rfctl.converter.families.common import describe_bpe
from rfctl.converter.family import Family
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import sints, uint
from rfctl.converter.plan import KeyValue, merge_pairs
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError


class Lfm2(Family):
    """LFM2, dense."""

    hf_architectures = ("Lfm2ForCausalLM", "LFM2ForCausalLM")
    architecture = "lfm2"
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = {
        "model.embed_tokens": "token_embd",
        "model.embedding_norm": "token_embd_norm",
        "lm_head": "output",
    }
    block_names: ClassVar[Mapping[str, str]] = {
        "operator_norm": "attn_norm",
        "ffn_norm": "ffn_norm",
        "feed_forward.w1": "ffn_gate",
        "feed_forward.w2": "ffn_down",
        "feed_forward.w3": "ffn_up",
        "conv.conv": "shortconv.conv",
        "conv.in_proj": "shortconv.in_proj",
        "conv.out_proj": "shortconv.out_proj",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.out_proj": "attn_output",
        "self_attn.q_layernorm": "attn_q_norm",
        "self_attn.k_layernorm": "attn_k_norm",
    }
    block_required = tuple(
        f"{name}.weight" for name in ("attn_norm", "ffn_norm", "ffn_gate", "ffn_down", "ffn_up")
    )

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return ("token_embd.weight", "token_embd_norm.weight")

    def express(self, name: str, tensor: SourceTensor, hparams: HParams) -> Expression:
        shape = tensor.shape
        if not name.endswith("shortconv.conv.weight") or len(shape) != 3 or shape[1] != 1:
            return Slice(tensor)
        return Reshape(Slice(tensor), (shape[0], shape[2]))

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        layers = hparams.get("layer_types")
        blocks = self.count_blocks(hparams)
        if not isinstance(layers, list):
            chosen = hparams.get("full_attn_idxs")
            full = set(chosen) if isinstance(chosen, list) else set(range(blocks))
            layers = ["full_attention" if number in full else "conv" for number in range(blocks)]
        grouped = hparams.count("num_key_value_heads")
        heads = [0 if kind == "conv" else grouped for kind in layers]
        # The number of heads per layer stands where others have one number.
        common = [
            sints(pair.key, heads) if pair.key == "lfm2.attention.head_count_kv" else pair
            for pair in describe_text_model(self.architecture, blocks, hparams)
        ]
        return merge_pairs(
            [
                *common,
                uint("general.file_type", file_type),
                uint("lfm2.vocab_size", hparams.count("vocab_size")),
                uint("lfm2.shortconv.l_cache", hparams.count("conv_L_cache")),
                uint("lfm2.feed_forward_length", _feed_forward(hparams)),
            ]
        )

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_bpe(source, hparams)


def _feed_forward(hparams: HParams) -> int:
    size = hparams.count("block_ff_dim", "intermediate_size")
    if not hparams.get("block_auto_adjust_ff_dim"):
        return size
    size = int(2 * size / 3)
    factor = hparams.get("block_ffn_dim_multiplier")
    if factor is not None:
        size = int(check_number("block_ffn_dim_multiplier", factor) * size)
    step = hparams.count("block_multiple_of")
    size = step * ((size + step - 1) // step)
    if not 0 < size < 1 << 31:
        raise RfctlError("model.config-invalid", key="intermediate_size", value=str(size))
    return size


FAMILIES = (Lfm2(),)
