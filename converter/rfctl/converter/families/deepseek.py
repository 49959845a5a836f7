"""DeepSeek-V2 and V3: compressed attention and mixture of experts.

Source: `conversion/deepseek.py` DeepseekV2Model of llama.cpp b11434. The projection that decompresses keys
and values is split per head, the keys' half transposed; layers behind `num_hidden_layers` (multi-token
prediction) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

from rfctl.converter.description import check_number
from rfctl.converter.expression import Expression, RowRange, Slice, Stack
from rfctl.converter.families.common import (
    COMPRESSED_ATTENTION,
    DECODER_BLOCK,
    DECODER_NAMES,
    describe_bpe,
    require_output,
)
from rfctl.converter.family import Family, Numbered
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams, rope_parameters
from rfctl.converter.pair import flag, real, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.converter.transpose import Transpose
from rfctl.core.error import RfctlError

_LAYER = re.compile(r"model\.layers\.(\d{1,6})\.")
_SHARED = "mlp.shared_experts."


class Deepseek2(Family):
    """DeepSeek-V2, V3 and R1."""

    hf_architectures = ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM")
    architecture = "deepseek2"
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = DECODER_NAMES
    block_names: ClassVar[Mapping[str, str]] = {
        **{name: mapped for name, mapped in DECODER_BLOCK.items() if mapped not in ("attn_k", "attn_v")},
        **COMPRESSED_ATTENTION,
        "mlp.gate": "ffn_gate_inp",
        "mlp.gate.e_score_correction": "exp_probs_b",
        f"{_SHARED}gate_proj": "ffn_gate_shexp",
        f"{_SHARED}up_proj": "ffn_up_shexp",
        f"{_SHARED}down_proj": "ffn_down_shexp",
    }
    numbered = (
        Numbered(
            "mlp.experts.",
            {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"},
            ("n_routed_experts",),
        ),
    )
    block_required = tuple(
        f"{name}.weight"
        for name in (
            "attn_norm", "attn_kv_a_mqa", "attn_kv_a_norm", "attn_k_b", "attn_v_b", "attn_output", "ffn_norm",
        )
    )  # fmt: skip

    def adapt_name(self, name: str) -> str | None:
        if name.endswith("e_score_correction_bias"):
            name = name.removesuffix("_bias") + ".bias"
        return super().adapt_name(name)

    def leaves_out(self, name: str, hparams: HParams) -> bool:
        if name == "lm_head.weight" and hparams.get("tie_word_embeddings", False):
            return True
        layer = _LAYER.match(name)
        return bool(layer) and int(layer[1] if layer else 0) >= self.count_blocks(hparams)

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return require_output(hparams)

    def produce(self, name: str) -> tuple[str, ...]:
        if name.endswith("attn_kv_b.weight"):
            return tuple(name.replace("attn_kv_b", part) for part in ("attn_k_b", "attn_v_b"))
        return (name,)

    def arrange(self, name: str, tensor: SourceTensor, hparams: HParams) -> Iterator[tuple[str, Expression]]:
        if not name.endswith("attn_kv_b.weight"):
            yield from super().arrange(name, tensor, hparams)
            return
        heads = hparams.count("num_key_value_heads")
        keys, values = hparams.count("qk_nope_head_dim"), hparams.count("v_head_dim")
        height = keys + values
        if len(tensor.shape) != 2 or tensor.shape[0] != heads * height:
            raise RfctlError(
                "model.tensor-shape",
                tensor=tensor.name,
                found=list(tensor.shape),
                wanted=f"{heads * height} x n",
            )
        whole = Slice(tensor)
        key_name, value_name = self.produce(name)
        starts = [head * height for head in range(heads)]
        yield key_name, Stack(tuple(Transpose(RowRange(whole, start, start + keys)) for start in starts))
        yield value_name, Stack(tuple(RowRange(whole, start + keys, start + height) for start in starts))

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        # With compressed keys and values the attention is one of a single group.
        hparams = HParams({"rms_norm_eps": 1e-6, **hparams, "num_key_value_heads": 1})
        has_experts = hparams.get("n_routed_experts") is not None
        leading = hparams.get("first_k_dense_replace")
        if leading is None:
            leading = 0 if has_experts else self.count_blocks(hparams)
        rank = hparams.count("kv_lora_rank") if "kv_lora_rank" in hparams else 512
        rotary, plain = hparams.count("qk_rope_head_dim"), hparams.count("qk_nope_head_dim")
        pairs = [
            *super().describe(source, hparams, file_type),
            uint("deepseek2.leading_dense_block_count", _whole("first_k_dense_replace", leading)),
            uint("deepseek2.vocab_size", hparams.count("vocab_size")),
        ]
        if hparams.get("q_lora_rank") is not None:
            pairs.append(uint("deepseek2.attention.q_lora_rank", hparams.count("q_lora_rank")))
        pairs += [
            uint("deepseek2.attention.kv_lora_rank", rank),
            uint("deepseek2.attention.key_length", rank + rotary),
            uint("deepseek2.attention.value_length", rank),
            uint("deepseek2.attention.key_length_mla", plain + rotary),
            uint("deepseek2.attention.value_length_mla", hparams.count("v_head_dim")),
            uint(
                "deepseek2.expert_feed_forward_length",
                hparams.count("moe_intermediate_size", "intermediate_size"),
            ),
        ]
        if has_experts:
            pairs.append(uint("deepseek2.expert_count", hparams.count("n_routed_experts")))
        shared = _whole("n_shared_experts", hparams.get("n_shared_experts", 0))
        pairs.append(uint("deepseek2.expert_shared_count", shared))
        scale = hparams.get("routed_scaling_factor")
        if scale is not None:
            pairs.append(real("deepseek2.expert_weights_scale", check_number("routed_scaling_factor", scale)))
        if hparams.get("norm_topk_prob"):
            pairs.append(flag("deepseek2.expert_weights_norm", True))
        pairs.append(uint("deepseek2.rope.dimension_count", rotary))
        mscale = rope_parameters(hparams).get("mscale_all_dim")
        if mscale is not None:
            value = 0.1 * check_number("mscale_all_dim", mscale)
            pairs.append(real("deepseek2.rope.scaling.yarn_log_multiplier", value))
        return pairs

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_bpe(source, hparams)


def _whole(key: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise RfctlError("model.config-invalid", key=key, value=str(value)[:80])
    return value


FAMILIES = (Deepseek2(),)
