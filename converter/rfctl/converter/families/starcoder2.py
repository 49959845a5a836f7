"""StarCoder2.

Source: `conversion/starcoder.py` StarCoder2Model of llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.families.common import DECODER_ATTENTION, DECODER_NAMES, DECODER_REQUIRED, describe_bpe
from rfctl.converter.family import Family
from rfctl.converter.hparams import HParams
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource


class Starcoder2(Family):
    """StarCoder2."""

    hf_architectures = ("Starcoder2ForCausalLM",)
    architecture = "starcoder2"
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = DECODER_NAMES
    block_names: ClassVar[Mapping[str, str]] = {
        **DECODER_ATTENTION,
        "post_attention_layernorm": "ffn_norm",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    }
    block_required = (
        *(f"{name}.weight" for name in block_names.values()),
        *(f"{name}.bias" for name in ("attn_norm", "attn_output", "ffn_norm", "ffn_up", "ffn_down")),
    )

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return (*DECODER_REQUIRED, "output_norm.bias")

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_bpe(source, hparams)


FAMILIES = (Starcoder2(),)
