"""Qwen2 and Qwen2.5, and fine-tunes of its shape such as DeepSeek-R1-Distill-Qwen.

Source: `conversion/qwen.py` Qwen2Model of llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.families.common import (
    DECODER_BLOCK,
    DECODER_BLOCK_REQUIRED,
    DECODER_NAMES,
    decoder_shapes,
    require_output,
)
from rfctl.converter.family import Family
from rfctl.converter.hparams import HParams
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.converter.special import list_special_pairs
from rfctl.converter.tokenizer import load_tokenizer, read_base_vocabulary
from rfctl.core.error import RfctlError


class Qwen2(Family):
    """Qwen2 and Qwen2.5."""

    hf_architectures = ("Qwen2ForCausalLM",)
    architecture = "qwen2"
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = DECODER_NAMES
    block_names: ClassVar[Mapping[str, str]] = DECODER_BLOCK
    block_required = (*DECODER_BLOCK_REQUIRED, "attn_q.bias", "attn_k.bias", "attn_v.bias")

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return require_output(hparams)

    def shapes(self, hparams: HParams) -> Mapping[str, tuple[int, ...]]:
        return decoder_shapes(hparams)

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        tokenizer = load_tokenizer(source)
        if tokenizer.kind != "BPE":
            raise RfctlError("model.tokenizer-kind", kind=tokenizer.kind, wanted="BPE")
        vocabulary = read_base_vocabulary(tokenizer, hparams)
        return [
            *vocabulary.list_pairs(),
            *list_special_pairs(source, tokenizer.head, tokenizer.merges, None),
        ]


FAMILIES = (Qwen2(),)
