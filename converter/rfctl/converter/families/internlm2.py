"""InternLM2 and 2.5, and Baichuan: Llamas with queries, keys and values in one matrix.

Source: `conversion/internlm.py` InternLM2Model and `conversion/baichuan.py` of llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from rfctl.converter.expression import Blocks, Expression, RotaryRows, Slice
from rfctl.converter.families.common import (
    DECODER_BLOCK,
    DECODER_NAMES,
    DECODER_REQUIRED,
    describe_sentencepiece,
    require_output,
)
from rfctl.converter.family import Family
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import flag, text, texts, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.sentence import adds_dummy_prefix
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError

_CHAT_END = "<|im_end|>"
_EOS = "tokenizer.ggml.eos_token_id"
_TOKENS = "tokenizer.ggml.tokens"
_TYPES = "tokenizer.ggml.token_type"
_UNUSED = 5
_ZERO, _DRAGON = "\x00", "\U0001f409"  # llama.cpp would take a zero byte for the end of the text
_PARTS = ("attn_q", "attn_k", "attn_v")
_FUSED = "attn_qkv.weight"


class InternLm2(Family):
    """InternLM2."""

    hf_architectures: ClassVar[tuple[str, ...]] = ("InternLM2ForCausalLM",)
    architecture: ClassVar[str] = "internlm2"
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = {
        "model.tok_embeddings": "token_embd",
        "model.norm": "output_norm",
        "output": "output",
    }
    block_names: ClassVar[Mapping[str, str]] = {
        "attention_norm": "attn_norm",
        "attention.wqkv": "attn_qkv",
        "attention.wo": "attn_output",
        "ffn_norm": "ffn_norm",
        "feed_forward.w1": "ffn_gate",
        "feed_forward.w2": "ffn_down",
        "feed_forward.w3": "ffn_up",
    }
    block_required: ClassVar[tuple[str, ...]] = tuple(
        f"{name}.weight"
        for name in (*_PARTS, "attn_norm", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
    )

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return (*DECODER_REQUIRED, "output.weight")

    def produce(self, name: str) -> tuple[str, ...]:
        if name.endswith(_FUSED):
            return tuple(name.replace("attn_qkv", part) for part in _PARTS)
        return (name,)

    def arrange(self, name: str, tensor: SourceTensor, hparams: HParams) -> Iterator[tuple[str, Expression]]:
        if not name.endswith(_FUSED):
            yield name, Slice(tensor)
            return
        heads, groups = _count_heads(hparams)
        height = hparams.count("hidden_size") // heads
        orders = self._orders(heads, groups)
        if height % 2 or len(tensor.shape) != 2 or tensor.shape[0] != height * sum(map(len, orders)):
            wanted = f"{height * sum(map(len, orders))} x n"
            raise RfctlError(
                "model.tensor-shape", tensor=tensor.name, found=list(tensor.shape), wanted=wanted
            )
        queries, keys, values = (Blocks(Slice(tensor), height, order) for order in orders)
        names = self.produce(name)
        yield names[0], RotaryRows(queries, heads)
        yield names[1], RotaryRows(keys, groups)
        yield names[2], values

    def _orders(self, heads: int, groups: int) -> tuple[tuple[int, ...], ...]:
        """Blocks of queries, keys and values in the fused matrix: per group its queries, a key, a value."""
        per = heads // groups + 2
        queries = tuple(group * per + number for group in range(groups) for number in range(per - 2))
        keys = tuple(group * per + per - 2 for group in range(groups))
        return queries, keys, tuple(key + 1 for key in keys)

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        pairs = describe_sentencepiece(source, hparams, is_plain=True)
        tokens: Any = next(pair.value for pair in pairs if pair.key == _TOKENS)
        types: Any = next(pair.value for pair in pairs if pair.key == _TYPES)
        for number, token in enumerate(tokens):
            if token == _ZERO:
                tokens[number] = _DRAGON
            elif token.startswith("[UNUSED"):
                types[number] = _UNUSED
        end = _find_chat_end(source)
        fixed = []
        for pair in pairs:
            is_replaced = pair.key == _EOS and end is not None
            fixed.append(uint(_EOS, end or 0) if is_replaced else pair)
            if pair.key == _TYPES:
                fixed.append(flag("tokenizer.ggml.add_space_prefix", adds_dummy_prefix(source)))
        return [texts(pair.key, tokens) if pair.key == _TOKENS else pair for pair in fixed]


class Baichuan(InternLm2):
    """Baichuan 1 and 2."""

    hf_architectures = ("BaichuanForCausalLM", "BaiChuanForCausalLM")
    architecture = "baichuan"
    names: ClassVar[Mapping[str, str]] = DECODER_NAMES
    block_names: ClassVar[Mapping[str, str]] = {
        **{
            name: mapped
            for name, mapped in DECODER_BLOCK.items()
            if mapped not in ("attn_q", "attn_k", "attn_v")
        },
        "self_attn.W_pack": "attn_qkv",
    }

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return require_output(hparams)

    def _orders(self, heads: int, groups: int) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(range(part * heads, (part + 1) * heads)) for part in range(3))

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        size = hparams.count("hidden_size") // hparams.count("num_attention_heads")
        return [
            *super().describe(source, hparams, file_type),
            text("baichuan.tensor_data_layout", "Meta AI original pth"),
            uint("baichuan.rope.dimension_count", size),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_sentencepiece(source, hparams)


def _count_heads(hparams: HParams) -> tuple[int, int]:
    heads = hparams.count("num_attention_heads")
    groups = heads if hparams.get("num_key_value_heads") is None else hparams.count("num_key_value_heads")
    if heads % groups:
        raise RfctlError("model.config-invalid", key="num_key_value_heads", value=str(groups))
    return heads, groups


def _find_chat_end(source: ModelSource) -> int | None:
    """Id of the token that ends a turn in the chat models, which takes the place of eos."""
    found = None
    config, tokenizer = source.json("tokenizer_config.json"), source.json("tokenizer.json")
    decoder = config.get("added_tokens_decoder") if isinstance(config, dict) else None
    for id, entry in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(entry, dict) and entry.get("content") == _CHAT_END and id.isdecimal():
            found = int(id)
    added = tokenizer.get("added_tokens") if isinstance(tokenizer, dict) else None
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict) and entry.get("content") == _CHAT_END and type(entry.get("id")) is int:
            found = int(entry["id"])
    return found


FAMILIES = (InternLm2(), Baichuan())
