"""GLM-4-9B and ChatGLM whose vocabulary is a tokenizer.json.

Source: `conversion/chatglm.py` ChatGLMModel of llama.cpp b11434. Two spellings of the tensors: ChatGLM's own
and that of transformers (`GlmForCausalLM`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.description import check_number
from rfctl.converter.families.common import describe_bpe
from rfctl.converter.family import Family
from rfctl.converter.hparams import HParams, rope_parameters
from rfctl.converter.pair import flag, real, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource

_SPECIAL = {"eos": "<|endoftext|>", "eot": "<|user|>", "unk": "<|endoftext|>"}
_BASE = 10000
_PART = 0.5
_GROUPS = ("multi_query_group_num", "num_key_value_heads")
_INNER = ("ffn_hidden_size", "intermediate_size")
_CONTEXT = ("seq_length",)


class ChatGlm(Family):
    """ChatGLM as its own modelling code saves it."""

    hf_architectures: ClassVar[tuple[str, ...]] = ("ChatGLMModel", "ChatGLMForConditionalGeneration")
    architecture = "chatglm"
    block_prefix: ClassVar[str] = "encoder.layers."
    names: ClassVar[Mapping[str, str]] = {
        "embedding.word_embeddings": "token_embd",
        "encoder.final_layernorm": "output_norm",
        "output_layer": "output",
    }
    block_names: ClassVar[Mapping[str, str]] = {
        "input_layernorm": "attn_norm",
        "self_attention.query_key_value": "attn_qkv",
        "self_attention.dense": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.dense_h_to_4h": "ffn_up",
        "mlp.dense_4h_to_h": "ffn_down",
    }
    block_required: ClassVar[tuple[str, ...]] = tuple(f"{name}.weight" for name in block_names.values())

    def adapt_name(self, name: str) -> str | None:
        if name.endswith(".rotary_pos_emb.inv_freq"):
            return None
        return super().adapt_name(name.removeprefix("transformer."))

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return ("token_embd.weight", "output_norm.weight", "output.weight")

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        hidden = hparams.count("hidden_size", "n_embd")
        heads = hparams.count("n_head", "num_attention_heads")
        groups, inner, context = (
            next((key for key in keys if key in hparams), None) for keys in (_GROUPS, _INNER, _CONTEXT)
        )
        size = hparams.count("attention_dim") if "attention_dim" in hparams else hidden // heads
        part = rope_parameters(hparams).get("partial_rotary_factor", _PART)
        rotary = int(size * check_number("partial_rotary_factor", part))
        epsilon = check_number("layernorm_epsilon", hparams.get("layernorm_epsilon", 1e-5))
        ratio = check_number("rope_ratio", hparams.get("rope_ratio", 1))
        return [
            uint("chatglm.context_length", hparams.count(context) if context else hidden),
            uint("chatglm.embedding_length", hidden),
            uint("chatglm.feed_forward_length", hparams.count(inner) if inner else 4 * hidden),
            uint("chatglm.block_count", self.count_blocks(hparams)),
            uint("chatglm.attention.head_count", heads),
            uint("chatglm.attention.head_count_kv", hparams.count(groups) if groups else heads),
            real("chatglm.attention.layer_norm_rms_epsilon", epsilon),
            uint("general.file_type", file_type),
            uint("chatglm.rope.dimension_count", rotary),
            flag("tokenizer.ggml.add_bos_token", False),
            real("chatglm.rope.freq_base", check_number("rope_ratio", _BASE * ratio)),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_bpe(source, hparams, _SPECIAL)


class Glm(ChatGlm):
    """The same in transformers' spelling."""

    hf_architectures = ("GlmForCausalLM",)
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
    }
    block_names: ClassVar[Mapping[str, str]] = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    block_required = tuple(f"{name}.weight" for name in block_names.values())


FAMILIES = (ChatGlm(), Glm())
