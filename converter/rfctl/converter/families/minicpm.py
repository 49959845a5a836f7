"""MiniCPM, ERNIE 4.5 and InternLM3: Llamas with a SentencePiece vocabulary and details of their own.

Source: `conversion/minicpm.py` MiniCPMModel, `ernie.py` Ernie4_5Model and `internlm.py` InternLM3Model of
llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from rfctl.converter.description import check_number
from rfctl.converter.expression import Expression, Slice
from rfctl.converter.families.common import DECODER_BLOCK, describe_sentencepiece
from rfctl.converter.families.llama import Llama
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams, rope_parameters
from rfctl.converter.pair import flag, real, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError

_CHAT_END = "<|im_end|>"
_EOS = "tokenizer.ggml.eos_token_id"


class MiniCpm(Llama):
    """MiniCPM 1 and 2."""

    hf_architectures = ("MiniCPMForCausalLM",)
    architecture = "minicpm"

    def generate(self, hparams: HParams) -> Iterable[tuple[str, Expression]]:
        rope = rope_parameters(hparams)
        if rope.get("long_factor") or rope.get("short_factor"):
            raise RfctlError("model.rope-unsupported", kind="longrope")
        return ()

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        def number(name: str) -> float:
            return check_number(name, hparams.get(name))

        return [
            *self.describe_common(hparams),
            uint("general.file_type", file_type),
            real("minicpm.embedding_scale", number("scale_emb")),
            real("minicpm.residual_scale", number("scale_depth") / self.count_blocks(hparams) ** 0.5),
            real("minicpm.logit_scale", hparams.count("hidden_size") / hparams.count("dim_model_base")),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_sentencepiece(source, hparams)


class Ernie45(Llama):
    """ERNIE 4.5, dense; its rows need no regrouping."""

    hf_architectures = ("Ernie4_5_ForCausalLM", "Ernie4_5ForCausalLM")
    architecture = "ernie4_5"
    block_names: ClassVar[Mapping[str, str]] = DECODER_BLOCK

    def adapt_name(self, name: str) -> str | None:
        return super().adapt_name(name.replace("ernie.", "model."))

    def generate(self, hparams: HParams) -> Iterable[tuple[str, Expression]]:
        return ()

    def express(self, name: str, tensor: SourceTensor, hparams: HParams) -> Expression:
        return Slice(tensor)

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        return [*self.describe_common(hparams), uint("general.file_type", file_type)]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        config = source.json("tokenizer_config.json")
        pairs = describe_sentencepiece(source, hparams)
        if isinstance(config, dict) and "add_prefix_space" in config:
            pairs.append(flag("tokenizer.ggml.add_space_prefix", config["add_prefix_space"]))
        return pairs


class InternLm3(Llama):
    """InternLM3."""

    hf_architectures = ("InternLM3ForCausalLM",)
    architecture = "llama"

    def generate(self, hparams: HParams) -> Iterable[tuple[str, Expression]]:
        return ()

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        config = source.json("tokenizer_config.json")
        config = config if isinstance(config, dict) else {}
        pairs = describe_sentencepiece(source, hparams)
        if "add_prefix_space" in config:
            at = next(n for n, pair in enumerate(pairs) if pair.key == "tokenizer.ggml.token_type") + 1
            pairs.insert(at, flag("tokenizer.ggml.add_space_prefix", config["add_prefix_space"]))
        decoder = config.get("added_tokens_decoder")
        for id, entry in decoder.items() if isinstance(decoder, dict) else ():
            # The chat models end a turn with this token, not with the one that is named as eos.
            if isinstance(entry, dict) and entry.get("special") and entry.get("content") == _CHAT_END:
                pairs = [uint(_EOS, int(id)) if pair.key == _EOS else pair for pair in pairs]
        return pairs


FAMILIES = (MiniCpm(), Ernie45(), InternLm3())
