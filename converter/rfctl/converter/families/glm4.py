"""GLM-4-0414.

Source: `conversion/glm.py` Glm4Model of llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.description import check_number
from rfctl.converter.families.common import (
    DECODER_ATTENTION,
    DECODER_NAMES,
    describe_bpe,
    head_size,
    require_output,
)
from rfctl.converter.family import Family
from rfctl.converter.hparams import HParams, rope_parameters
from rfctl.converter.pair import uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError

_SPECIAL = {"eos": "<|endoftext|>", "eot": "<|user|>", "unk": "<|endoftext|>", "bos": "<|endoftext|>"}


class Glm4(Family):
    """GLM-4-0414 and GLM-Z1, dense."""

    hf_architectures = ("Glm4ForCausalLM",)
    architecture = "glm4"
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = DECODER_NAMES
    block_names: ClassVar[Mapping[str, str]] = {
        **DECODER_ATTENTION,
        "post_self_attn_layernorm": "post_attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_mlp_layernorm": "post_ffw_norm",
    }
    block_required = tuple(f"{name}.weight" for name in block_names.values())

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return require_output(hparams)

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        rope = rope_parameters(hparams)
        if "mrope_section" in rope:
            raise RfctlError("model.rope-unsupported", kind="mrope")
        part = check_number("partial_rotary_factor", rope.get("partial_rotary_factor", 0.5))
        return [
            *super().describe(source, hparams, file_type),
            uint("glm4.rope.dimension_count", int(head_size(hparams) * part)),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_bpe(source, hparams, _SPECIAL)


FAMILIES = (Glm4(),)
