"""OLMo 2 and 3, and EXAONE 4: norms behind attention and feed-forward instead of before them.

Source: `conversion/olmo.py` Olmo2Model and `conversion/exaone.py` Exaone4Model of llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from rfctl.converter.expression import Constant, Expression
from rfctl.converter.families.common import (
    DECODER_BLOCK,
    DECODER_NAMES,
    describe_bpe,
    require_output,
)
from rfctl.converter.families.llama import rope_factors
from rfctl.converter.family import Family
from rfctl.converter.hparams import HParams, rope_parameters
from rfctl.converter.pair import flags, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource

_BLOCK = {
    **{name: mapped for name, mapped in DECODER_BLOCK.items() if not mapped.endswith("_norm")},
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_MOST_LAYERS = 10_000
_EXAONE_FACTOR = 16.0


class Olmo2(Family):
    """OLMo 2 and 3."""

    hf_architectures: ClassVar[tuple[str, ...]] = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
    architecture: ClassVar[str] = "olmo2"
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = DECODER_NAMES
    block_names: ClassVar[Mapping[str, str]] = _BLOCK
    block_required = tuple(f"{name}.weight" for name in _BLOCK.values())

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return require_output(hparams)

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        pairs = super().describe(source, hparams, file_type)
        if "sliding_window" not in hparams:
            return pairs
        slides = read_sliding_layers(hparams)
        if slides is None:
            slides = every_layer_but(4, self.count_blocks(hparams))
        return [
            *pairs,
            uint("olmo2.attention.sliding_window", hparams.count("sliding_window")),
            flags("olmo2.attention.sliding_window_pattern", slides),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_bpe(source, hparams)


class Exaone4(Olmo2):
    """EXAONE 4."""

    hf_architectures = ("Exaone4ForCausalLM",)
    architecture = "exaone4"

    def generate(self, hparams: HParams) -> Iterable[tuple[str, Expression]]:
        rope = rope_parameters(hparams)
        if str(rope.get("rope_type", "")).lower() == "llama3":
            yield "rope_freqs.weight", Constant(rope_factors(rope, hparams, _EXAONE_FACTOR))

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        pairs = [
            *self.describe_common(hparams),
            uint("general.file_type", file_type),
            uint("exaone4.vocab_size", hparams.count("vocab_size")),
        ]
        if hparams.get("sliding_window") is None:
            return pairs
        pairs.append(uint("exaone4.attention.sliding_window", hparams.count("sliding_window")))
        slides = read_sliding_layers(hparams)
        step = hparams.get("sliding_window_pattern")
        count = self.count_blocks(hparams)
        if slides is None and type(step) is int and step > 0:
            slides = every_layer_but(step, count)
        elif slides is None and isinstance(step, str) and step and count <= _MOST_LAYERS:
            slides = [step[number % len(step)] == "L" for number in range(count)]  # such as LLLG
        if slides is not None:
            pairs.append(flags("exaone4.attention.sliding_window_pattern", slides))
        return pairs


def read_sliding_layers(hparams: HParams) -> list[bool] | None:
    """Which layers have a sliding window, None when the configuration has no list of layers."""
    types = hparams.get("layer_types")
    return [kind == "sliding_attention" for kind in types] if isinstance(types, list) else None


def every_layer_but(step: int, count: int) -> list[bool]:
    """All of `count` layers but every `step`-th."""
    return [(number + 1) % step != 0 for number in range(count)]


FAMILIES = (Olmo2(), Exaone4())
