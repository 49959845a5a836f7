"""Llama 1 to 3.x and what has its shape (Yi, SmolLM2, R1-Distill-Llama), Mistral and Mixtral.

Source: `conversion/llama.py` of llama.cpp b11434. Mistral uses the same GGUF architecture; its sliding
window is not written, as in the reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

import numpy as np

from rfctl.converter.expression import Constant, Expression, RotaryRows, Slice
from rfctl.converter.families.common import (
    DECODER_BLOCK,
    DECODER_BLOCK_REQUIRED,
    DECODER_NAMES,
    complete_name,
    decoder_shapes,
    head_size,
    require_output,
)
from rfctl.converter.family import Family, Numbered
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams, rope_parameters
from rfctl.converter.pair import flag, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.sentence import MODEL_FILE, read_sentencepiece
from rfctl.converter.source import ModelSource
from rfctl.converter.special import list_special_pairs
from rfctl.converter.tokenizer import FILE as TOKENIZER_FILE
from rfctl.converter.tokenizer import load_tokenizer
from rfctl.converter.tokenizer_vocabulary import (
    is_sentencepiece_bpe,
    read_base_vocabulary,
    read_sentencepiece_bpe,
)
from rfctl.core.error import RfctlError

_GRANITE_SIZE = 49152  # vocabulary of Granite small and SmolLM, whose bos must not be added
_CODELLAMA_SIZE = 32016  # vocabulary of CodeLlama, whose files do not name the end of an infilled part
_CODELLAMA_TURN_END = 32010
_EXPERTS = Numbered(
    "block_sparse_moe.experts.",
    {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"},
    ("num_local_experts",),
)


class Llama(Family):
    """Llama and Mistral."""

    hf_architectures: ClassVar[tuple[str, ...]] = (
        "LlamaForCausalLM",
        "LLaMAForCausalLM",
        "MistralForCausalLM",
        "LlamaModel",
        "IQuestCoderForCausalLM",
        "LlavaForConditionalGeneration",
    )
    architecture: ClassVar[str] = "llama"
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = DECODER_NAMES
    block_names: ClassVar[Mapping[str, str]] = DECODER_BLOCK
    block_required: ClassVar[tuple[str, ...]] = DECODER_BLOCK_REQUIRED

    def adapt_name(self, name: str) -> str | None:
        return super().adapt_name(complete_name(name))

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return require_output(hparams)

    def express(self, name: str, tensor: SourceTensor, hparams: HParams) -> Expression:
        part = name.rsplit(".", 2)[-2]
        if part not in ("attn_q", "attn_k"):
            return Slice(tensor)
        heads = hparams.count("num_attention_heads")
        if part == "attn_k" and hparams.get("num_key_value_heads") is not None:
            heads = hparams.count("num_key_value_heads")
        if not tensor.shape or tensor.shape[0] % (2 * heads):
            raise RfctlError(
                "model.tensor-shape", tensor=tensor.name, found=list(tensor.shape), wanted=f"n x {2 * heads}"
            )
        return RotaryRows(Slice(tensor), heads)

    def generate(self, hparams: HParams) -> Iterable[tuple[str, Expression]]:
        rope = rope_parameters(hparams)
        if str(rope.get("rope_type", "")).lower() == "llama3":
            yield "rope_freqs.weight", Constant(rope_factors(rope, hparams))

    def shapes(self, hparams: HParams) -> Mapping[str, tuple[int, ...]]:
        return decoder_shapes(hparams)

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        return [
            *super().describe(source, hparams, file_type),
            uint(f"{self.architecture}.vocab_size", hparams.count("vocab_size")),
            uint(f"{self.architecture}.rope.dimension_count", head_size(hparams)),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        size = hparams.get("vocab_size", 32000)
        config = source.json("tokenizer_config.json")
        pairs: list[KeyValue] = []
        if isinstance(config, dict) and config.get("add_prefix_space") is not None:
            pairs.append(flag("tokenizer.ggml.add_space_prefix", config["add_prefix_space"]))
        pairs += self._list_tokens(source, hparams)
        if size == _CODELLAMA_SIZE:
            pairs.append(uint("tokenizer.ggml.eot_token_id", _CODELLAMA_TURN_END))
        if size == _GRANITE_SIZE:
            key = "tokenizer.ggml.add_bos_token"
            if any(pair.key == key for pair in pairs):
                pairs = [flag(key, False) if pair.key == key else pair for pair in pairs]
            else:
                pairs.append(flag(key, False))
        return pairs

    def _list_tokens(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        if source.has(MODEL_FILE):
            vocabulary = read_sentencepiece(source, hparams)
            head = source.json("tokenizer.json")
            return [*vocabulary.list_pairs(), *list_special_pairs(source, head, None, len(vocabulary.tokens))]
        if not source.has(TOKENIZER_FILE):
            raise RfctlError(
                "model.tokenizer-missing", path=source.path, files=f"{MODEL_FILE}, {TOKENIZER_FILE}"
            )
        tokenizer = load_tokenizer(source)
        if is_sentencepiece_bpe(tokenizer):
            vocabulary = read_sentencepiece_bpe(tokenizer)
            special = list_special_pairs(source, tokenizer.head, None, len(vocabulary.tokens))
        else:
            if tokenizer.kind != "BPE":
                raise RfctlError("model.tokenizer-kind", kind=tokenizer.kind, wanted="BPE")
            vocabulary = read_base_vocabulary(tokenizer, hparams)
            special = list_special_pairs(source, tokenizer.head, tokenizer.merges, None)
        return [*vocabulary.list_pairs(), *special]


def rope_factors(
    rope: Mapping[str, object], hparams: HParams, default: float = 8.0
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Frequency divisors of Llama 3's rope scaling, one per pair of dimensions (float32).

    The reference computes in float32 tensors; two details decide about the last bit: `base ** tensor` is a
    power in double precision rounded to float32, and `number / tensor` is the float32 reciprocal times the
    number.
    """
    try:
        base = float(rope.get("rope_theta", 10000.0))  # type: ignore[arg-type]
        factor = float(rope.get("factor", default))  # type: ignore[arg-type]
        low = float(rope.get("low_freq_factor", 1.0))  # type: ignore[arg-type]
        high = float(rope.get("high_freq_factor", 4.0))  # type: ignore[arg-type]
        context = float(rope.get("original_max_position_embeddings", 8192))  # type: ignore[arg-type]
        if not (base > 0 and factor > 0 and low > 0 and high > low and math.isfinite(base)):
            raise ValueError
    except (TypeError, ValueError) as error:
        raise RfctlError("model.config-invalid", key="rope_scaling", value=str(dict(rope))[:120]) from error
    with np.errstate(all="ignore"):
        factors = _scale_frequencies(head_size(hparams), base, factor, low, high, context)
    if not np.isfinite(factors).all():
        raise RfctlError("model.config-invalid", key="rope_scaling", value=str(dict(rope))[:120])
    return factors


def _scale_frequencies(
    size: int, base: float, factor: float, low: float, high: float, context: float
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    one = np.float32(1)
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    powers = np.array([base ** float(exponent) for exponent in exponents]).astype(np.float32)
    factors = []
    for frequency in one / powers:
        wavelength = (one / frequency) * np.float32(2 * math.pi)
        if wavelength < context / high:
            factors.append(np.float32(1))
        elif wavelength > context / low:
            factors.append(np.float32(factor))
        else:
            smooth = ((one / wavelength) * np.float32(context) - np.float32(low)) / np.float32(high - low)
            mixed = (one - smooth) / np.float32(factor) + smooth
            factors.append(one / mixed)
    return np.array(factors, dtype=np.float32)


class Mixtral(Llama):
    """Mixtral: the same with experts."""

    hf_architectures = ("MixtralForCausalLM",)
    numbered = (_EXPERTS,)
    block_names: ClassVar[Mapping[str, str]] = {
        **{name: mapped for name, mapped in DECODER_BLOCK.items() if not name.startswith("mlp.")},
        "block_sparse_moe.gate": "ffn_gate_inp",
    }
    block_required = (
        *(f"{name}.weight" for name in block_names.values()),
        *(f"{name}.weight" for name in _EXPERTS.names.values()),
    )


FAMILIES = (Llama(), Mixtral())
