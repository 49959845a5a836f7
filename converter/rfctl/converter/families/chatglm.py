"""GLM-4-9B and ChatGLM, in the form they were published in and in that of transformers (`GlmForCausalLM`).

Source: `conversion/chatglm.py` ChatGLMModel of llama.cpp b11434. The published form has a tokenizer.model of
ranks (GLM-4-9B) or of SentencePiece (ChatGLM3) and tokenizer code of its own. That code is not run: what it
adds to the files is in `sentence.py` and `rank.py`. The reference goes by a name in the configuration where
this goes by the form of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.description import check_number
from rfctl.converter.families.common import DECODER_ATTENTION, DECODER_NAMES, describe_bpe
from rfctl.converter.family import Family
from rfctl.converter.hparams import HParams, rope_parameters
from rfctl.converter.pair import flag, real, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.rank import holds_ranks, list_merges, read_rank_vocabulary, read_ranks
from rfctl.converter.sentence import MODEL_FILE, read_chat_pieces
from rfctl.converter.source import ModelSource
from rfctl.converter.special import list_special_pairs
from rfctl.converter.tokenizer import FILE as TOKENIZER_FILE
from rfctl.core.error import RfctlError

_SPECIAL = {"eos": "<|endoftext|>", "eot": "<|user|>", "unk": "<|endoftext|>"}
_BASE = 10000
_PART = 0.5
_GROUPS = ("multi_query_group_num", "num_key_value_heads")
_INNER = ("ffn_hidden_size", "intermediate_size")
_CONTEXT = ("seq_length",)
_SPLITTING = "chatglm-bpe"
_CODE = "tokenization_chatglm.py"
# Behind the pieces of a SentencePiece model, in this order (ChatGLM2 has only the first five).
_BEHIND = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>",
           "<|observation|>")  # fmt: skip


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
        if source.has(TOKENIZER_FILE) or not source.has(MODEL_FILE):
            return describe_bpe(source, hparams, _SPECIAL)
        if holds_ranks(source):
            return _describe_ranks(source, hparams)
        size = hparams.find("padded_vocab_size", "vocab_size")
        vocabulary = read_chat_pieces(source, size, _list_behind(source))
        return [*vocabulary.list_pairs(), *list_special_pairs(source, None, None, len(vocabulary.tokens))]


class Glm(ChatGlm):
    """The same in transformers' spelling."""

    hf_architectures = ("GlmForCausalLM",)
    block_prefix = "model.layers."
    names: ClassVar[Mapping[str, str]] = DECODER_NAMES
    block_names: ClassVar[Mapping[str, str]] = {
        **DECODER_ATTENTION,
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    block_required = tuple(f"{name}.weight" for name in block_names.values())


def _describe_ranks(source: ModelSource, hparams: HParams) -> list[KeyValue]:
    ranks = read_ranks(source)
    vocabulary = read_rank_vocabulary(
        source, ranks, hparams.count("vocab_size", "padded_vocab_size"), _SPLITTING
    )
    ids = []
    for kind, token in _SPECIAL.items():
        if token not in vocabulary.tokens:
            raise RfctlError(
                "model.tokenizer-malformed", file="tokenizer_config.json", what=f"no token {token}"
            )
        ids.append((kind, vocabulary.tokens.index(token)))
    return [*vocabulary.list_pairs(), *list_special_pairs(source, None, list_merges(ranks), None, ids)]


def _list_behind(source: ModelSource) -> list[str]:
    """The tokens that the model's code puts behind the pieces: those it names, all where it is absent.

    The code is looked at as a text.
    """
    code = source.text(_CODE)
    return [token for token in _BEHIND if code is None or f'"{token}"' in code or f"'{token}'" in code]


FAMILIES = (ChatGlm(), Glm())
