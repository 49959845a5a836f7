"""Gemma 1, 2 and 3 (text).

Source: `conversion/gemma.py` of llama.cpp b11434. Norm weights are stored around zero and get 1 added; the
output matrix is the embedding, a saved `lm_head` is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.description import check_number
from rfctl.converter.expression import Expression, RowRange, Shift, Slice
from rfctl.converter.families.common import (
    DECODER_BLOCK,
    DECODER_BLOCK_REQUIRED,
    DECODER_NAMES,
    DECODER_REQUIRED,
    decoder_shapes,
    describe_bpe,
    describe_sentencepiece,
)
from rfctl.converter.family import Family
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import flag, real, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.sentence import MODEL_FILE
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError

_TURN_END = 107
_TOKENS = "rfctl_tokens"  # where `prepare` leaves the size of the vocabulary
_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


class Gemma(Family):
    """Gemma 1."""

    hf_architectures: ClassVar[tuple[str, ...]] = ("GemmaForCausalLM",)
    architecture: ClassVar[str] = "gemma"
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = DECODER_NAMES
    block_names: ClassVar[Mapping[str, str]] = DECODER_BLOCK
    block_required: ClassVar[tuple[str, ...]] = DECODER_BLOCK_REQUIRED

    def adapt_name(self, name: str) -> str | None:
        return None if name == "lm_head.weight" else super().adapt_name(name)

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return DECODER_REQUIRED

    def express(self, name: str, tensor: SourceTensor, hparams: HParams) -> Expression:
        return Shift(Slice(tensor), 1.0) if name.endswith("norm.weight") else Slice(tensor)

    def shapes(self, hparams: HParams) -> Mapping[str, tuple[int, ...]]:
        return decoder_shapes(hparams)

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        heads = hparams.count("num_attention_heads")
        grouped = hparams.count("num_key_value_heads") if "num_key_value_heads" in hparams else heads
        epsilon = check_number("rms_norm_eps", hparams.get("rms_norm_eps"))
        size = hparams.count("head_dim")
        return [
            uint(f"{self.architecture}.context_length", hparams.count("max_position_embeddings")),
            uint(f"{self.architecture}.embedding_length", hparams.count("hidden_size")),
            uint(f"{self.architecture}.block_count", self.count_blocks(hparams)),
            uint(f"{self.architecture}.feed_forward_length", hparams.count("intermediate_size")),
            uint(f"{self.architecture}.attention.head_count", heads),
            uint(f"{self.architecture}.attention.head_count_kv", grouped),
            real(f"{self.architecture}.attention.layer_norm_rms_epsilon", epsilon),
            uint(f"{self.architecture}.attention.key_length", size),
            uint(f"{self.architecture}.attention.value_length", size),
            uint("general.file_type", file_type),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return [
            *describe_sentencepiece(source, hparams),
            uint("tokenizer.ggml.eot_token_id", _TURN_END),
            flag("tokenizer.ggml.add_space_prefix", False),
        ]


class Gemma2(Gemma):
    """Gemma 2."""

    hf_architectures: ClassVar[tuple[str, ...]] = ("Gemma2ForCausalLM",)
    architecture = "gemma2"
    block_names: ClassVar[Mapping[str, str]] = DECODER_BLOCK | _NORMS
    block_required = tuple(f"{name}.weight" for name in block_names.values())

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        pairs = super().describe(source, hparams, file_type)
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            pairs.append(real(f"gemma2.{name}", check_number(name, hparams.get(name))))
        return [*pairs, uint("gemma2.attention.sliding_window", hparams.count("sliding_window"))]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return [*describe_sentencepiece(source, hparams), flag("tokenizer.ggml.add_space_prefix", False)]


class Gemma3(Gemma2):
    """Gemma 3, the text models."""

    hf_architectures = ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")
    architecture = "gemma3"
    cuts_rows = True
    block_names: ClassVar[Mapping[str, str]] = {
        **Gemma2.block_names,
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
    }
    block_required = tuple(f"{name}.weight" for name in block_names.values())

    def prepare(self, source: ModelSource, hparams: HParams) -> HParams:
        return HParams({**hparams, _TOKENS: _count_tokens(source, hparams)})

    def express(self, name: str, tensor: SourceTensor, hparams: HParams) -> Expression:
        count = hparams.get(_TOKENS)
        if name == "token_embd.weight" and count and tensor.shape and tensor.shape[0] > count:
            # Rows behind the vocabulary.
            return RowRange(Slice(tensor), 0, count)
        return super().express(name, tensor, hparams)

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        if hparams.get("attn_logit_softcapping") is not None:
            value = str(hparams["attn_logit_softcapping"])[:80]
            raise RfctlError("model.config-invalid", key="attn_logit_softcapping", value=value)
        pairs = [*self.describe_common(hparams), uint("general.file_type", file_type)]
        final = hparams.get("final_logit_softcapping")
        if final:
            pairs.append(
                real("gemma3.final_logit_softcapping", check_number("final_logit_softcapping", final))
            )
        if hparams.get("sliding_window_pattern") != 1:
            pairs.append(uint("gemma3.attention.sliding_window", hparams.count("sliding_window")))
        return pairs

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        if source.has(MODEL_FILE):
            return super().describe_vocabulary(source, hparams)
        return describe_bpe(source, hparams)


def _count_tokens(source: ModelSource, hparams: HParams) -> int:
    """Size of the vocabulary; 0 when it is not known."""
    if source.has(MODEL_FILE):
        size = hparams.get("vocab_size")
        return size if type(size) is int and size > 0 else 0
    tokenizer = source.json("tokenizer.json")
    model = tokenizer.get("model") if isinstance(tokenizer, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    added = tokenizer.get("added_tokens") if isinstance(tokenizer, dict) else None
    return sum(len(part) for part in (vocabulary, added) if isinstance(part, dict | list))


FAMILIES = (Gemma(), Gemma2(), Gemma3())
