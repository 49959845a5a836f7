"""Tables that several families share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rfctl.converter.description import check_number
from rfctl.converter.hparams import HParams, rope_parameters
from rfctl.converter.plan import KeyValue
from rfctl.converter.sentence import MODEL_FILE, read_sentencepiece
from rfctl.converter.source import ModelSource
from rfctl.converter.special import list_special_pairs
from rfctl.converter.tokenizer import load_tokenizer
from rfctl.converter.tokenizer_vocabulary import read_base_vocabulary
from rfctl.core.error import RfctlError

Factors = np.ndarray[tuple[int], np.dtype[np.float32]]

DECODER_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
DECODER_ATTENTION = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
COMPRESSED_ATTENTION = {
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
}
DECODER_BLOCK = {
    **DECODER_ATTENTION,
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

DECODER_REQUIRED = ("token_embd.weight", "output_norm.weight")
DECODER_BLOCK_REQUIRED = tuple(f"{name}.weight" for name in DECODER_BLOCK.values())


_BARE = ("embed_tokens.", "layers.", "norm.")


def complete_name(name: str) -> str:
    """The name of a tensor with the outer module that embedding models are saved without."""
    return f"model.{name}" if name.startswith(_BARE) else name


def require_output(hparams: HParams) -> tuple[str, ...]:
    """What stands outside the layers; an output matrix of its own unless the configuration ties it to the
    embedding.
    """
    return (
        DECODER_REQUIRED if hparams.get("tie_word_embeddings", True) else (*DECODER_REQUIRED, "output.weight")
    )


def head_size(hparams: HParams) -> int:
    """Size of an attention head."""
    if hparams.get("head_dim") is not None:
        return hparams.count("head_dim")
    return hparams.count("hidden_size") // hparams.count("num_attention_heads")


def read_rope_factors(hparams: HParams, half: float) -> tuple[Factors, Factors] | None:
    """Divisors of the frequencies for long and for short texts, None when the configuration has none.

    half   how many there must be: half of the rotary dimensions
    """
    rope = rope_parameters(hparams)
    if not rope.get("long_factor") and not rope.get("short_factor"):
        return None
    found = []
    for key in ("long_factor", "short_factor"):
        values = rope.get(key)
        if not isinstance(values, list) or len(values) != half:
            raise RfctlError("model.config-invalid", key=key, value=str(values)[:80])
        found.append(np.array([check_number(key, value) for value in values], dtype=np.float32))
    return found[0], found[1]


def decoder_shapes(hparams: HParams) -> Mapping[str, tuple[int, ...]]:
    """Shapes of a decoder with gated feed-forward and grouped attention."""
    hidden, inner = hparams.count("hidden_size"), hparams.count("intermediate_size")
    head = head_size(hparams)
    heads = hparams.count("num_attention_heads")
    grouped = heads if hparams.get("num_key_value_heads") is None else hparams.count("num_key_value_heads")
    query, key = heads * head, grouped * head
    return {
        "output_norm.weight": (hidden,),
        "attn_norm.weight": (hidden,),
        "ffn_norm.weight": (hidden,),
        "attn_q.weight": (query, hidden),
        "attn_k.weight": (key, hidden),
        "attn_v.weight": (key, hidden),
        "attn_q.bias": (query,),
        "attn_k.bias": (key,),
        "attn_v.bias": (key,),
        "attn_output.weight": (hidden, query),
        "ffn_gate.weight": (inner, hidden),
        "ffn_up.weight": (inner, hidden),
        "ffn_down.weight": (hidden, inner),
    }


def describe_bpe(
    source: ModelSource, hparams: HParams, extra: Mapping[str, str] | None = None
) -> list[KeyValue]:
    """The pairs of a byte-level BPE vocabulary in tokenizer.json (`conversion/base.py` _set_vocab_gpt2).

    extra   kind of special token -> added token, for kinds that the files do not give
    Raises RfctlError `model.tokenizer-missing`, `model.tokenizer-kind` and as `read_base_vocabulary`.
    """
    tokenizer = load_tokenizer(source)
    if tokenizer.kind != "BPE":
        raise RfctlError("model.tokenizer-kind", kind=tokenizer.kind, wanted="BPE")
    vocabulary = read_base_vocabulary(tokenizer, hparams)
    ids = []
    for kind, token in (extra or {}).items():
        id = tokenizer.engine.token_to_id(token)
        if id is None:
            raise RfctlError("model.tokenizer-malformed", file="tokenizer.json", what=f"no token {token}")
        ids.append((kind, id))
    return [
        *vocabulary.list_pairs(),
        *list_special_pairs(source, tokenizer.head, tokenizer.merges, None, ids),
    ]


def describe_sentencepiece(
    source: ModelSource, hparams: HParams, *, is_plain: bool = False
) -> list[KeyValue]:
    """The pairs of a vocabulary in tokenizer.model (`conversion/base.py` _set_vocab_sentencepiece).

    Raises RfctlError `model.tokenizer-missing` and as `read_sentencepiece`.
    """
    if not source.has(MODEL_FILE):
        raise RfctlError("model.tokenizer-missing", path=source.path, files=MODEL_FILE)
    vocabulary = read_sentencepiece(source, hparams, is_plain=is_plain)
    head = source.json("tokenizer.json")
    return [*vocabulary.list_pairs(), *list_special_pairs(source, head, None, len(vocabulary.tokens))]
