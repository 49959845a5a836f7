"""Tables that several families share."""

from __future__ import annotations

from collections.abc import Mapping

from rfctl.converter.hparams import HParams

DECODER_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
DECODER_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

DECODER_REQUIRED = ("token_embd.weight", "output_norm.weight")
DECODER_BLOCK_REQUIRED = tuple(f"{name}.weight" for name in DECODER_BLOCK.values())


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
