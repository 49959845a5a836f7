"""Hunyuan, dense.

Source: `conversion/hunyuan.py` HunYuanModel of llama.cpp b11434. Its dynamic rope scaling becomes a fixed
base frequency.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.description import check_number, describe_text_model
from rfctl.converter.families.common import (
    DECODER_BLOCK,
    DECODER_BLOCK_REQUIRED,
    DECODER_NAMES,
    decoder_shapes,
    describe_bpe,
    require_output,
)
from rfctl.converter.family import Family
from rfctl.converter.hparams import HParams, rope_parameters
from rfctl.converter.pair import real, text, uint
from rfctl.converter.plan import KeyValue, merge_pairs
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError

_CONTEXT = 256 * 1024  # what the scaled frequency is made for; the configuration says less
_KNOWN_CONTEXTS = (32 * 1024, _CONTEXT)


class Hunyuan(Family):
    """Hunyuan 0.5B to 7B."""

    hf_architectures = ("HunYuanDenseV1ForCausalLM",)
    architecture = "hunyuan-dense"
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = DECODER_NAMES
    block_names: ClassVar[Mapping[str, str]] = {
        **DECODER_BLOCK,
        "self_attn.query_layernorm": "attn_q_norm",
        "self_attn.key_layernorm": "attn_k_norm",
    }
    block_required = (*DECODER_BLOCK_REQUIRED, "attn_q_norm.weight", "attn_k_norm.weight")

    def leaves_out(self, name: str, hparams: HParams) -> bool:
        return name == "lm_head.weight" and bool(hparams.get("tie_word_embeddings", False))

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return require_output(hparams)

    def shapes(self, hparams: HParams) -> Mapping[str, tuple[int, ...]]:
        return decoder_shapes(hparams)

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        rope = rope_parameters(hparams)
        is_dynamic = rope.get("rope_type") == "dynamic"
        plain = {key: value for key, value in hparams.items() if key != "num_experts"}
        if is_dynamic:
            plain |= {"rope_parameters": {"rope_theta": rope.get("rope_theta")}}
        pairs = [
            *describe_text_model(self.architecture, self.count_blocks(hparams), HParams(plain)),
            uint("general.file_type", file_type),
        ]
        if not is_dynamic:
            return pairs
        base = check_number("rope_theta", rope.get("rope_theta", 10000.0))
        context, size = hparams.get("max_position_embeddings"), hparams.count("head_dim")
        if base != 10000.0 or context not in _KNOWN_CONTEXTS or size <= 2:
            raise RfctlError("model.rope-unsupported", kind="dynamic")
        alpha = check_number("alpha", rope.get("alpha", 50))
        return merge_pairs(
            [
                *pairs,
                real(f"{self.architecture}.rope.freq_base", base * (alpha ** (size / (size - 2)))),
                text(f"{self.architecture}.rope.scaling.type", "none"),
                real(f"{self.architecture}.rope.scaling.factor", 1.0),
                uint(f"{self.architecture}.rope.scaling.original_context_length", _CONTEXT),
                uint(f"{self.architecture}.context_length", _CONTEXT),
            ]
        )

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        pairs = describe_bpe(source, hparams)
        # The configuration class of transformers 4.57 takes eod_token_id and forgets it: eos stays.
        generation = source.json("generation_config.json")
        ends = generation.get("eos_token_id") if isinstance(generation, dict) else None
        if isinstance(ends, list) and len(ends) >= 2 and type(ends[0]) is int and ends[0] >= 0:
            pairs.append(uint("tokenizer.ggml.eot_token_id", ends[0]))
        return pairs


FAMILIES = (Hunyuan(),)
