"""The language models inside Qwen2-VL, Qwen2.5-VL and Qwen3-VL; the image part is left out.

Source: `conversion/qwenvl.py` Qwen2VLModel, `qwen3vl.py` Qwen3VLTextModel and Qwen3VLMoeTextModel of
llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.families.packed import PACKED_BLOCK, PackedExperts
from rfctl.converter.families.qwen2 import Qwen2
from rfctl.converter.families.qwen3 import Qwen3, Qwen3Moe
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource

_OUTER = "thinker."
_DEEPSTACK = 3  # levels of image features where config.json names none: Qwen3VLVisionConfig, 4.57.6


class Qwen2Vl(Qwen2):
    """Qwen2-VL, Qwen2.5-VL and Qwen2.5-Omni."""

    hf_architectures = (
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLModel",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5OmniModel",
    )
    architecture = "qwen2vl"
    has_pooling = False

    def adapt_name(self, name: str) -> str | None:
        return super().adapt_name(name.removeprefix(_OUTER))


class Qwen3Vl(Qwen3):
    """Qwen3-VL."""

    hf_architectures = ("Qwen3VLForConditionalGeneration",)
    architecture = "qwen3vl"

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        return [*super().describe(source, hparams, file_type), _count_levels(self.architecture, hparams)]


class Qwen3VlMoe(PackedExperts, Qwen3Moe):
    """Qwen3-VL with experts."""

    hf_architectures = ("Qwen3VLMoeForConditionalGeneration",)
    architecture = "qwen3vlmoe"
    is_turned = True
    block_names: ClassVar[Mapping[str, str]] = {
        **Qwen3Moe.block_names,
        **{f"mlp.{name}": mapped for name, mapped in PACKED_BLOCK.items()},
    }

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        return [*super().describe(source, hparams, file_type), _count_levels(self.architecture, hparams)]


def _count_levels(prefix: str, hparams: HParams) -> KeyValue:
    vision = hparams.get("vision_config")
    levels = vision.get("deepstack_visual_indexes") if isinstance(vision, dict) else None
    return uint(f"{prefix}.n_deepstack_layers", len(levels) if isinstance(levels, list) else _DEEPSTACK)


FAMILIES = (Qwen2Vl(), Qwen3Vl(), Qwen3VlMoe())
