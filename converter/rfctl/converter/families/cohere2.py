"""Command R7B and what has its shape.

Source: `conversion/command_r.py` Cohere2Model of llama.cpp b11434. The output matrix is the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.description import check_number
from rfctl.converter.families.common import DECODER_BLOCK, DECODER_REQUIRED, decoder_shapes, describe_bpe
from rfctl.converter.family import Family
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import real, text, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource


class Cohere2(Family):
    """Cohere 2."""

    hf_architectures = ("Cohere2ForCausalLM",)
    architecture = "cohere2"
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    block_names: ClassVar[Mapping[str, str]] = {
        name: mapped for name, mapped in DECODER_BLOCK.items() if mapped != "ffn_norm"
    }
    block_required = tuple(f"{name}.weight" for name in block_names.values())

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return DECODER_REQUIRED

    def shapes(self, hparams: HParams) -> Mapping[str, tuple[int, ...]]:
        return decoder_shapes(hparams)

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        size = hparams.count("hidden_size") // hparams.count("num_attention_heads")
        part = check_number("rotary_pct", hparams.get("rotary_pct"))
        return [
            *super().describe(source, hparams, file_type),
            real("cohere2.logit_scale", check_number("logit_scale", hparams.get("logit_scale"))),
            uint("cohere2.attention.sliding_window", hparams.count("sliding_window")),
            uint("cohere2.vocab_size", hparams.count("vocab_size")),
            uint("cohere2.rope.dimension_count", int(part * size)),
            text("cohere2.rope.scaling.type", "none"),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_bpe(source, hparams)


FAMILIES = (Cohere2(),)
