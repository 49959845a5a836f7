"""Phi-2, Phi-3 and Phi-4 (which is a Phi-3 with the vocabulary of GPT-4).

Source: `conversion/phi.py` of llama.cpp b11434.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

from rfctl.converter.description import check_number
from rfctl.converter.expression import Constant, Expression
from rfctl.converter.families.common import (
    DECODER_NAMES,
    describe_bpe,
    describe_sentencepiece,
    read_rope_factors,
    require_output,
)
from rfctl.converter.family import Family
from rfctl.converter.hparams import HParams, rope_parameters
from rfctl.converter.pair import flag, real, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError


class Phi2(Family):
    """Phi-1, 1.5 and 2."""

    hf_architectures = ("PhiForCausalLM",)
    architecture = "phi2"
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = {
        "model.embed_tokens": "token_embd",
        "model.final_layernorm": "output_norm",
        "lm_head": "output",
    }
    block_names: ClassVar[Mapping[str, str]] = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.dense": "attn_output",
        "mlp.fc1": "ffn_up",
        "mlp.fc2": "ffn_down",
    }
    block_required = tuple(
        f"{name}.{suffix}" for name in block_names.values() for suffix in ("weight", "bias")
    )

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return ("token_embd.weight", "output_norm.weight", "output_norm.bias", "output.weight", "output.bias")

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        hidden, heads = hparams.count("hidden_size", "n_embd"), hparams.count("num_attention_heads", "n_head")
        epsilon = hparams.find("layer_norm_epsilon", "layer_norm_eps")
        return [
            uint("phi2.context_length", hparams.count("n_positions", "max_position_embeddings")),
            uint("phi2.embedding_length", hidden),
            uint("phi2.feed_forward_length", 4 * hidden),
            uint("phi2.block_count", self.count_blocks(hparams)),
            uint("phi2.attention.head_count", heads),
            uint("phi2.attention.head_count_kv", heads),
            real("phi2.attention.layer_norm_epsilon", check_number("layer_norm_eps", epsilon)),
            uint("phi2.rope.dimension_count", _count_rotary(hparams, None)),
            uint("general.file_type", file_type),
            flag("tokenizer.ggml.add_bos_token", False),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_bpe(source, hparams)


class Phi3(Family):
    """Phi-3, 3.5 and 4."""

    hf_architectures = ("Phi3ForCausalLM",)
    architecture = "phi3"
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = DECODER_NAMES
    block_names: ClassVar[Mapping[str, str]] = {
        "input_layernorm": "attn_norm",
        "self_attn.qkv_proj": "attn_qkv",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    block_required = tuple(f"{name}.weight" for name in block_names.values())

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return require_output(hparams)

    def generate(self, hparams: HParams) -> Iterable[tuple[str, Expression]]:
        factors = read_rope_factors(hparams, _count_rotary(hparams, 1.0) / 2)
        if factors:
            yield "rope_factors_long.weight", Constant(factors[0])
            yield "rope_factors_short.weight", Constant(factors[1])

    def describe_generated(self, hparams: HParams) -> Iterable[KeyValue]:
        if read_rope_factors(hparams, _count_rotary(hparams, 1.0) / 2):
            yield real("phi3.rope.scaling.attn_factor", _attention_factor(hparams))

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        rope = rope_parameters(hparams)
        window = hparams.get("sliding_window")
        return [
            uint("phi3.context_length", hparams.count("n_positions", "max_position_embeddings")),
            uint("phi3.rope.scaling.original_context_length", _original_context(hparams)),
            uint("phi3.embedding_length", hparams.count("hidden_size", "n_embd")),
            uint("phi3.feed_forward_length", hparams.count("intermediate_size")),
            uint("phi3.block_count", self.count_blocks(hparams)),
            uint("phi3.attention.head_count", hparams.count("num_attention_heads", "n_head")),
            uint("phi3.attention.head_count_kv", hparams.count("num_key_value_heads", "n_head_kv")),
            real(
                "phi3.attention.layer_norm_rms_epsilon",
                check_number("rms_norm_eps", hparams.get("rms_norm_eps")),
            ),
            uint("phi3.rope.dimension_count", _count_rotary(hparams, 1.0)),
            real("phi3.rope.freq_base", check_number("rope_theta", rope.get("rope_theta"))),
            uint("general.file_type", file_type),
            # Zero tells Phi-4 from the other Phi-3.
            uint("phi3.attention.sliding_window", 0 if window is None else hparams.count("sliding_window")),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        config = source.json("tokenizer_config.json")
        if isinstance(config, dict) and config.get("tokenizer_class") == "GPT2Tokenizer":
            return describe_bpe(source, hparams)
        return describe_sentencepiece(source, hparams, is_plain=True)


def _count_rotary(hparams: HParams, default: float | None) -> int:
    part = rope_parameters(hparams).get("partial_rotary_factor", default)
    hidden = hparams.count("hidden_size", "n_embd")
    return int(check_number("partial_rotary_factor", part) * hidden) // hparams.count(
        "num_attention_heads", "n_head"
    )


def _original_context(hparams: HParams) -> int:
    rope = HParams(rope_parameters(hparams))
    return rope.count("original_max_position_embeddings")


def _attention_factor(hparams: HParams) -> float:
    kind = str(rope_parameters(hparams).get("rope_type", "")).lower()
    original = _original_context(hparams)
    scale = hparams.count("n_positions", "max_position_embeddings") / original
    if kind not in ("su", "longrope", "yarn"):
        raise RfctlError("model.rope-unsupported", kind=kind)
    if scale <= 1.0:
        return 1.0
    if kind == "yarn":
        return 0.1 * math.log(scale) + 1.0
    if original == 1:
        raise RfctlError("model.config-invalid", key="original_max_position_embeddings", value="1")
    return math.sqrt(1 + math.log(scale) / math.log(original))


FAMILIES = (Phi2(), Phi3())
