"""The language models of Mistral Small 3.1 and later, and Ministral 3.

Source: `conversion/mistral3.py` Mistral3Model (its Ministral3Model) of llama.cpp b11434.
"""

from __future__ import annotations

from rfctl.converter.description import check_number
from rfctl.converter.families.llama import Llama
from rfctl.converter.hparams import HParams, rope_parameters
from rfctl.converter.pair import real
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError

_COMPRESSED = "mistral4"  # attention like DeepSeek's, another GGUF architecture
_SCALED = "ministral3"


class Mistral3(Llama):
    """Mistral 3: Llama's tensors under an architecture of their own."""

    hf_architectures = ("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM")
    architecture = "mistral3"

    def demand(self, hparams: HParams) -> None:
        if hparams.get("model_type") == _COMPRESSED:
            raise RfctlError("model.config-invalid", key="model_type", value=_COMPRESSED)

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        pairs = super().describe(source, hparams, file_type)
        if hparams.get("model_type") != _SCALED:
            return pairs
        rope = rope_parameters(hparams)
        if rope.get("rope_type") != "yarn":
            raise RfctlError("model.config-invalid", key="rope_type", value=str(rope.get("rope_type"))[:80])
        for key, name in (
            ("rope.scaling.yarn_log_multiplier", "mscale_all_dim"),
            ("attention.temperature_scale", "llama_4_scaling_beta"),
        ):
            pairs.append(real(f"{self.architecture}.{key}", check_number(name, rope.get(name))))
        return pairs


FAMILIES = (Mistral3(),)
