"""MiniCPM, ERNIE 4.5 and InternLM3: Llamas with a SentencePiece vocabulary and details of their own.

Source: `conversion/minicpm.py` MiniCPMModel and MiniCPM3Model, `ernie.py` Ernie4_5Model and `internlm.py`
InternLM3Model of llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

from rfctl.converter.description import check_number
from rfctl.converter.expression import Constant, Expression, Slice
from rfctl.converter.families.common import (
    COMPRESSED_ATTENTION,
    DECODER_BLOCK,
    DECODER_NAMES,
    DECODER_REQUIRED,
    describe_sentencepiece,
    read_rope_factors,
)
from rfctl.converter.families.llama import Llama
from rfctl.converter.family import Family
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import flag, real, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource

_PLAIN = ("attn_q", "attn_k", "attn_v")
_CHAT_END = "<|im_end|>"
_EOS = "tokenizer.ggml.eos_token_id"


class MiniCpm(Llama):
    """MiniCPM 1 and 2."""

    hf_architectures = ("MiniCPMForCausalLM",)
    architecture = "minicpm"

    def generate(self, hparams: HParams) -> Iterable[tuple[str, Expression]]:
        size = hparams.count("hidden_size") // hparams.count("num_attention_heads")
        return _list_factors(hparams, size)

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


class MiniCpm3(Family):
    """MiniCPM3: compressed attention."""

    hf_architectures = ("MiniCPM3ForCausalLM",)
    architecture = "minicpm3"
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = DECODER_NAMES
    block_names: ClassVar[Mapping[str, str]] = {
        **{name: mapped for name, mapped in DECODER_BLOCK.items() if mapped not in _PLAIN},
        **COMPRESSED_ATTENTION,
    }
    block_required = tuple(f"{name}.weight" for name in block_names.values())

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return DECODER_REQUIRED

    def generate(self, hparams: HParams) -> Iterable[tuple[str, Expression]]:
        return _list_factors(hparams, hparams.count("qk_rope_head_dim"))

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        rotary = hparams.count("qk_rope_head_dim")
        return [
            uint("general.file_type", file_type),
            uint("minicpm3.context_length", hparams.count("max_position_embeddings")),
            uint("minicpm3.embedding_length", hparams.count("hidden_size")),
            uint("minicpm3.block_count", self.count_blocks(hparams)),
            uint("minicpm3.feed_forward_length", hparams.count("intermediate_size")),
            uint("minicpm3.attention.head_count", hparams.count("num_attention_heads")),
            uint("minicpm3.attention.head_count_kv", hparams.count("num_key_value_heads")),
            real(
                "minicpm3.attention.layer_norm_rms_epsilon",
                check_number("rms_norm_eps", hparams.get("rms_norm_eps")),
            ),
            uint("minicpm3.vocab_size", hparams.count("vocab_size")),
            uint("minicpm3.attention.q_lora_rank", hparams.count("q_lora_rank")),
            uint("minicpm3.attention.kv_lora_rank", hparams.count("kv_lora_rank")),
            uint("minicpm3.attention.key_length", hparams.count("qk_nope_head_dim") + rotary),
            uint("minicpm3.rope.dimension_count", rotary),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_sentencepiece(source, hparams)


def _list_factors(hparams: HParams, size: int) -> Iterator[tuple[str, Expression]]:
    factors = read_rope_factors(hparams, size / 2)
    if factors is not None:
        yield "rope_factors_long.weight", Constant(factors[0])
        yield "rope_factors_short.weight", Constant(factors[1])


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


FAMILIES = (MiniCpm(), MiniCpm3(), Ernie45(), InternLm3())
