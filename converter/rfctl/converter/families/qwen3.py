"""Qwen3, dense and mixture of experts; Qwen3-Embedding.

Source: `conversion/qwen.py` Qwen3Model and Qwen3MoeModel of llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.families.common import DECODER_BLOCK, DECODER_BLOCK_REQUIRED, describe_bpe
from rfctl.converter.families.qwen2 import EXPERTS, MOE_BLOCK, Qwen2, describe_expert_sizes
from rfctl.converter.hparams import HParams
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource

_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_NORMS_REQUIRED = ("attn_q_norm.weight", "attn_k_norm.weight")


class Qwen3(Qwen2):
    """Qwen3."""

    hf_architectures = ("Qwen3ForCausalLM",)
    architecture = "qwen3"
    block_names: ClassVar[Mapping[str, str]] = DECODER_BLOCK | _NORMS
    block_required = (*DECODER_BLOCK_REQUIRED, *_NORMS_REQUIRED)


class Qwen3Moe(Qwen2):
    """Qwen3-MoE."""

    hf_architectures = ("Qwen3MoeForCausalLM",)
    architecture = "qwen3moe"
    numbered = (EXPERTS,)
    block_names: ClassVar[Mapping[str, str]] = MOE_BLOCK | _NORMS
    block_required = (
        *(f"{name}.weight" for name in block_names.values()),
        *(f"{name}.weight" for name in EXPERTS.names.values()),
    )

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        return [
            *super().describe(source, hparams, file_type),
            *describe_expert_sizes(self.architecture, hparams),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_bpe(source, hparams)


FAMILIES = (Qwen3(), Qwen3Moe())
