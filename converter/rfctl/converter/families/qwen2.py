"""Qwen2 and Qwen2.5, and fine-tunes of its shape such as DeepSeek-R1-Distill-Qwen; Qwen2-MoE.

Source: `conversion/qwen.py` Qwen2Model and Qwen2MoeModel of llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from rfctl.converter.families.bert import read_pooling
from rfctl.converter.families.common import (
    DECODER_BLOCK,
    DECODER_BLOCK_REQUIRED,
    DECODER_NAMES,
    complete_name,
    decoder_shapes,
    describe_bpe,
    describe_sentencepiece,
    require_output,
)
from rfctl.converter.family import Family, Numbered
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.sentence import MODEL_FILE
from rfctl.converter.source import ModelSource

MOE_BLOCK = {
    **{
        name: mapped
        for name, mapped in DECODER_BLOCK.items()
        if not mapped.startswith("ffn_") or "norm" in mapped
    },
    "mlp.gate": "ffn_gate_inp",
}
EXPERTS = Numbered(
    "mlp.experts.",
    {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"},
    ("num_local_experts", "num_experts"),
)


class Qwen2(Family):
    """Qwen2 and Qwen2.5."""

    hf_architectures: ClassVar[tuple[str, ...]] = ("Qwen2ForCausalLM", "Qwen2Model")
    architecture: ClassVar[str] = "qwen2"
    block_prefix = "model.layers."
    has_pooling: ClassVar[bool] = True  # an embedding model when there is a pooling module
    names: ClassVar[Mapping[str, str]] = DECODER_NAMES
    block_names: ClassVar[Mapping[str, str]] = DECODER_BLOCK
    block_required: ClassVar[tuple[str, ...]] = (
        *DECODER_BLOCK_REQUIRED,
        "attn_q.bias",
        "attn_k.bias",
        "attn_v.bias",
    )

    def adapt_name(self, name: str) -> str | None:
        return super().adapt_name(complete_name(name))

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return require_output(hparams)

    def shapes(self, hparams: HParams) -> Mapping[str, tuple[int, ...]]:
        return decoder_shapes(hparams)

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        pairs = super().describe(source, hparams, file_type)
        pooling = read_pooling(source) if self.has_pooling else None
        if pooling is not None:
            pairs.append(uint(f"{self.architecture}.pooling_type", pooling))
        return pairs

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        if source.has(MODEL_FILE):
            return describe_sentencepiece(source, hparams)
        return describe_bpe(source, hparams)


class Qwen2Moe(Qwen2):
    """Qwen1.5-MoE and Qwen2-MoE."""

    hf_architectures: ClassVar[tuple[str, ...]] = ("Qwen2MoeForCausalLM",)
    architecture = "qwen2moe"
    has_pooling = False
    numbered: ClassVar[tuple[Numbered, ...]] = (EXPERTS,)
    block_names: ClassVar[Mapping[str, str]] = {
        **MOE_BLOCK,
        "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
        "mlp.shared_expert.up_proj": "ffn_up_shexp",
        "mlp.shared_expert.down_proj": "ffn_down_shexp",
        "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    }
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


def describe_expert_sizes(prefix: str, hparams: HParams) -> Iterable[KeyValue]:
    """Widths of the experts and of the shared expert, as far as the configuration has them."""
    for key, name in (
        ("expert_feed_forward_length", "moe_intermediate_size"),
        ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
    ):
        if hparams.get(name) is not None:
            yield uint(f"{prefix}.{key}", hparams.count(name))


FAMILIES = (Qwen2(), Qwen2Moe())
