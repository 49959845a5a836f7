"""Llama 4, the text models, also inside the multimodal checkpoints.

Source: `conversion/llama.py` Llama4Model of llama.cpp b11434. The rows of queries and keys stay as they are;
the experts of a layer are one tensor each, stored turned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.expression import Expression, Slice
from rfctl.converter.families.common import DECODER_BLOCK, describe_bpe
from rfctl.converter.families.llama import Llama
from rfctl.converter.families.packed import PACKED_BLOCK, PackedExperts
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource

_PREFIX = "feed_forward."


class Llama4(PackedExperts, Llama):
    """Llama 4 and models of its shape."""

    hf_architectures = ("Llama4ForCausalLM", "Llama4ForConditionalGeneration")
    architecture = "llama4"
    is_turned = True
    block_names: ClassVar[Mapping[str, str]] = {
        **{name.replace("mlp.", _PREFIX): mapped for name, mapped in DECODER_BLOCK.items()},
        f"{_PREFIX}router": "ffn_gate_inp",
        **{f"{_PREFIX}{name}": mapped for name, mapped in PACKED_BLOCK.items()},
        f"{_PREFIX}shared_expert.gate_proj": "ffn_gate_shexp",
        f"{_PREFIX}shared_expert.up_proj": "ffn_up_shexp",
        f"{_PREFIX}shared_expert.down_proj": "ffn_down_shexp",
    }
    # Layers without experts have the three of a plain layer instead.
    block_required = tuple(
        f"{name}.weight" for name in DECODER_BLOCK.values() if "norm" in name or name.startswith("attn_")
    )

    def express(self, name: str, tensor: SourceTensor, hparams: HParams) -> Expression:
        return Slice(tensor)

    def shapes(self, hparams: HParams) -> Mapping[str, tuple[int, ...]]:
        return super().shapes(_exchange(hparams))

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        pairs = [
            *super().describe(source, _exchange(hparams), file_type),
            uint("llama4.interleave_moe_layer_step", hparams.count("interleave_moe_layer_step")),
            uint("llama4.expert_feed_forward_length", hparams.count("intermediate_size")),
        ]
        kinds = hparams.get("layer_types")
        if isinstance(kinds, list) and all(kind == "full_attention" for kind in kinds):
            pairs.append(uint("llama4.attention.sliding_window", 0))
        return pairs

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_bpe(source, hparams)


def _exchange(hparams: HParams) -> HParams:
    """The width of the layers without experts under its usual name; `intermediate_size` is an expert's."""
    return HParams({**hparams, "intermediate_size": hparams.count("intermediate_size_mlp")})


FAMILIES = (Llama4(),)
