"""Granite (dense) and SmolLM3: Llamas with another name, Granite with scales.

Source: `conversion/granite.py` GraniteModel and `conversion/llama.py` SmolLM3Model of llama.cpp b11434.
"""

from __future__ import annotations

from rfctl.converter.description import check_number
from rfctl.converter.families.llama import Llama
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import real
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource

_SCALES = (
    ("attention.scale", "attention_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
)


class Granite(Llama):
    """Granite 3."""

    hf_architectures = ("GraniteForCausalLM",)
    architecture = "granite"

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        hparams = HParams({key: value for key, value in hparams.items() if key != "head_dim"})
        pairs = super().describe(source, hparams, file_type)
        for key, name in _SCALES:
            if hparams.get(name):
                pairs.append(real(f"granite.{key}", check_number(name, hparams[name])))
        return pairs


class SmolLm3(Llama):
    """SmolLM3."""

    hf_architectures = ("SmolLM3ForCausalLM",)
    architecture = "smollm3"


FAMILIES = (Granite(), SmolLm3())
