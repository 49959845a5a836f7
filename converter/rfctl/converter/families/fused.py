"""Falcon, BLOOM and GPT-NeoX (Pythia): queries, keys and values in one matrix whose rows are regrouped.

Source: `conversion/falcon.py`, `bloom.py` and `gptneox.py` of llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.description import check_number
from rfctl.converter.expression import Blocks, Expression, Slice
from rfctl.converter.families.common import describe_bpe
from rfctl.converter.family import Family
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import flag, real, text, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError

_FALCON_CONTEXT = 2048  # not in its config.json


class _Fused(Family):
    """What the three share: a fused projection of `_order` blocks of one head each."""

    def express(self, name: str, tensor: SourceTensor, hparams: HParams) -> Expression:
        if ".attn_qkv." not in name:
            return Slice(tensor)
        order, hidden, heads = self._order(hparams), hparams.count("hidden_size"), _heads(hparams)
        height = hidden // heads
        if not tensor.shape or tensor.shape[0] != height * len(order):
            raise RfctlError(
                "model.tensor-shape",
                tensor=tensor.name,
                found=list(tensor.shape),
                wanted=f"{height * len(order)} x {hidden}",
            )
        return Blocks(Slice(tensor), height, order)

    def _order(self, hparams: HParams) -> tuple[int, ...]:
        # Per head q, k, v -> all q, all k, all v.
        heads = range(_heads(hparams))
        return tuple(head * 3 + part for part in range(3) for head in heads)

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_bpe(source, hparams)


class Falcon(_Fused):
    """Falcon 7B and 40B."""

    hf_architectures = ("FalconForCausalLM", "RWForCausalLM")
    architecture = "falcon"
    block_prefix = "transformer.h."
    names: ClassVar[Mapping[str, str]] = {
        "transformer.word_embeddings": "token_embd",
        "transformer.ln_f": "output_norm",
        "lm_head": "output",
    }
    block_names: ClassVar[Mapping[str, str]] = {
        "input_layernorm": "attn_norm",
        "ln_mlp": "attn_norm",
        "ln_attn": "attn_norm_2",
        "self_attention.query_key_value": "attn_qkv",
        "self_attention.dense": "attn_output",
        "mlp.dense_h_to_4h": "ffn_up",
        "mlp.dense_4h_to_h": "ffn_down",
    }
    block_required = (
        "attn_norm.weight",
        "attn_norm.bias",
        *(f"{name}.weight" for name in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")),
    )

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return ("token_embd.weight", "output_norm.weight", "output_norm.bias")

    def _order(self, hparams: HParams) -> tuple[int, ...]:
        # Groups of some queries, one key, one value -> all q, all k, all v.
        heads, groups = _heads(hparams), _groups(hparams)
        if heads % groups:
            raise RfctlError("model.config-invalid", key="num_kv_heads", value=str(groups))
        per = heads // groups + 2
        queries = [group * per + number for group in range(groups) for number in range(per - 2)]
        keys = [group * per + per - 2 for group in range(groups)]
        return (*queries, *keys, *(key + 1 for key in keys))

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        hidden = hparams.count("hidden_size")
        return [
            uint("falcon.context_length", _FALCON_CONTEXT),
            text("falcon.tensor_data_layout", "jploski"),
            uint("falcon.embedding_length", hidden),
            uint("falcon.feed_forward_length", 4 * hidden),
            uint("falcon.block_count", self.count_blocks(hparams)),
            uint("falcon.attention.head_count", _heads(hparams)),
            uint("falcon.attention.head_count_kv", _groups(hparams)),
            _epsilon("falcon", hparams, "layer_norm_epsilon"),
            uint("general.file_type", file_type),
        ]


class Bloom(_Fused):
    """BLOOM and BLOOMZ."""

    hf_architectures = ("BloomForCausalLM", "BloomModel")
    architecture = "bloom"
    block_prefix = "h."
    names: ClassVar[Mapping[str, str]] = {
        "word_embeddings": "token_embd",
        "word_embeddings_layernorm": "token_embd_norm",
        "ln_f": "output_norm",
        "lm_head": "output",
    }
    block_names: ClassVar[Mapping[str, str]] = {
        "input_layernorm": "attn_norm",
        "self_attention.query_key_value": "attn_qkv",
        "self_attention.dense": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.dense_h_to_4h": "ffn_up",
        "mlp.dense_4h_to_h": "ffn_down",
    }
    block_required = tuple(
        f"{name}.{suffix}" for name in block_names.values() for suffix in ("weight", "bias")
    )

    def adapt_name(self, name: str) -> str | None:
        return super().adapt_name(name.replace("transformer.", ""))

    def require(self, hparams: HParams) -> tuple[str, ...]:
        names = ("token_embd_norm", "output_norm")
        return ("token_embd.weight", *(f"{name}.{suffix}" for name in names for suffix in ("weight", "bias")))

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        hidden, heads = hparams.count("hidden_size"), _heads(hparams)
        return [
            uint("bloom.context_length", hparams.count("seq_length") if "seq_length" in hparams else hidden),
            uint("bloom.embedding_length", hidden),
            uint("bloom.feed_forward_length", 4 * hidden),
            uint("bloom.block_count", self.count_blocks(hparams)),
            uint("bloom.attention.head_count", heads),
            uint("bloom.attention.head_count_kv", heads),
            _epsilon("bloom", hparams, "layer_norm_epsilon"),
            uint("general.file_type", file_type),
        ]


class GptNeoX(_Fused):
    """GPT-NeoX and Pythia."""

    hf_architectures = ("GPTNeoXForCausalLM",)
    architecture = "gptneox"
    block_prefix = "gpt_neox.layers."
    names: ClassVar[Mapping[str, str]] = {
        "gpt_neox.embed_in": "token_embd",
        "gpt_neox.final_layer_norm": "output_norm",
        "embed_out": "output",
    }
    block_names: ClassVar[Mapping[str, str]] = {
        "input_layernorm": "attn_norm",
        "attention.query_key_value": "attn_qkv",
        "attention.dense": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.dense_h_to_4h": "ffn_up",
        "mlp.dense_4h_to_h": "ffn_down",
    }
    block_required = tuple(
        f"{name}.{suffix}" for name in block_names.values() for suffix in ("weight", "bias")
    )

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return ("token_embd.weight", "output_norm.weight", "output_norm.bias", "output.weight")

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        hidden, heads = hparams.count("hidden_size"), _heads(hparams)
        part = check_number("rotary_pct", hparams.get("rotary_pct"))
        # The reference writes no file type here.
        return [
            uint("gptneox.context_length", hparams.count("max_position_embeddings")),
            uint("gptneox.embedding_length", hidden),
            uint("gptneox.block_count", self.count_blocks(hparams)),
            uint("gptneox.feed_forward_length", hparams.count("intermediate_size")),
            uint("gptneox.rope.dimension_count", int(part * (hidden // heads))),
            uint("gptneox.attention.head_count", heads),
            flag("gptneox.use_parallel_residual", hparams.get("use_parallel_residual", True)),
            _epsilon("gptneox", hparams, "layer_norm_eps"),
        ]


def _heads(hparams: HParams) -> int:
    return hparams.count("n_head", "num_attention_heads")


def _groups(hparams: HParams) -> int:
    name = next((name for name in ("num_kv_heads", "n_head_kv") if hparams.get(name) is not None), None)
    return 1 if name is None else hparams.count(name)


def _epsilon(prefix: str, hparams: HParams, name: str) -> KeyValue:
    return real(f"{prefix}.attention.layer_norm_epsilon", check_number(name, hparams.get(name)))


FAMILIES = (Falcon(), Bloom(), GptNeoX())
