"""StableLM 2 and 3B.

Source: `conversion/stablelm.py` of llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.description import check_number
from rfctl.converter.families.common import (
    DECODER_BLOCK,
    DECODER_NAMES,
    DECODER_REQUIRED,
    decoder_shapes,
    describe_bpe,
)
from rfctl.converter.family import Family, Numbered
from rfctl.converter.hparams import HParams, rope_parameters
from rfctl.converter.pair import flag, real, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource


class StableLm(Family):
    """StableLM; the 12B has a norm per head of queries and keys, and no norm before the feed-forward."""

    hf_architectures = ("StableLmForCausalLM", "StableLMEpochForCausalLM")
    architecture = "stablelm"
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = DECODER_NAMES
    block_names: ClassVar[Mapping[str, str]] = DECODER_BLOCK
    numbered = (
        Numbered("self_attn.q_layernorm.norms.", {"": "attn_q_norm"}, ("num_attention_heads",)),
        Numbered("self_attn.k_layernorm.norms.", {"": "attn_k_norm"}, ("num_key_value_heads",)),
    )
    block_required = (
        *(f"{name}.weight" for name in DECODER_BLOCK.values() if name != "ffn_norm"),
        "attn_norm.bias",
    )

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return (*DECODER_REQUIRED, "output_norm.bias", "output.weight")

    def shapes(self, hparams: HParams) -> Mapping[str, tuple[int, ...]]:
        return decoder_shapes(hparams)

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        hidden, heads = hparams.count("hidden_size"), hparams.count("num_attention_heads")
        part = rope_parameters(hparams).get("partial_rotary_factor")
        rotary = int(check_number("partial_rotary_factor", part) * (hidden // heads))
        epsilon = hparams.find("layer_norm_eps", "norm_eps")
        return [
            uint("stablelm.context_length", hparams.count("max_position_embeddings")),
            uint("stablelm.embedding_length", hidden),
            uint("stablelm.block_count", self.count_blocks(hparams)),
            uint("stablelm.feed_forward_length", hparams.count("intermediate_size")),
            uint("stablelm.rope.dimension_count", rotary),
            uint("stablelm.attention.head_count", heads),
            uint("stablelm.attention.head_count_kv", hparams.count("num_key_value_heads")),
            flag("stablelm.use_parallel_residual", hparams.get("use_parallel_residual", True)),
            real("stablelm.attention.layer_norm_epsilon", check_number("layer_norm_eps", epsilon)),
            uint("general.file_type", file_type),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_bpe(source, hparams)


FAMILIES = (StableLm(),)
