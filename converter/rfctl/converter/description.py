"""The pairs that every text model has, read from the configuration.

Rules and order: `conversion/base.py` TextModel.set_gguf_parameters, llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Iterator

from rfctl.converter.hparams import HParams, local_rope_theta, rope_parameters
from rfctl.converter.pair import flag, real, sints, text, uint
from rfctl.converter.plan import KeyValue
from rfctl.core.error import RfctlError

_COUNTS = (
    ("context_length", "max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length",
     "model_max_length"),
    ("embedding_length", "hidden_size", "n_embd", "dim"),
    ("feed_forward_length", "prefix_dense_intermediate_size", "dense_intermediate_size", "intermediate_size",
     "n_inner", "hidden_dim"),
    ("attention.head_count", "num_attention_heads", "n_head", "n_heads"),
    ("attention.head_count_kv", "num_key_value_heads", "n_kv_heads"),
)  # fmt: skip
_EPSILONS = (
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps", "norm_eps"),
    ("attention.layer_norm_epsilon", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
)
_EXPERTS = (
    ("expert_count", "num_local_experts", "num_experts", "n_routed_experts"),
    ("expert_used_count", "num_experts_per_tok", "num_experts_per_token", "top_k_experts"),
    ("expert_group_count", "n_group"),
    ("expert_group_used_count", "topk_group"),
)
_GATING = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}  # gguf-py ExpertGatingFuncType
_SCORES = ("score_function", "scoring_func", "score_func", "moe_router_activation",
           "moe_router_activation_func", "expert_selection_fn")  # fmt: skip


def describe_text_model(prefix: str, block_count: int, hparams: HParams) -> Iterator[KeyValue]:
    """Pairs `prefix`.block_count up to the key length, `general.file_type` excluded.

    Raises RfctlError `model.config-invalid`.
    """
    yield uint(f"{prefix}.block_count", block_count)
    for key, *names in _COUNTS:
        if hparams.find(*names) is not None:
            yield uint(f"{prefix}.{key}", hparams.count(*(name for name in names if name in hparams)))
    if hparams.get("is_causal") is False:
        yield flag(f"{prefix}.attention.causal", False)
    yield from _describe_rope(prefix, hparams)
    for key, *names in _EPSILONS:
        value = hparams.find(*names)
        if value is not None:
            yield real(f"{prefix}.{key}", check_number(names[0], value))
    for key, *names in _EXPERTS:
        if hparams.find(*names) is not None:
            yield uint(f"{prefix}.{key}", hparams.count(*names))
    score = hparams.find(*_SCORES)
    if score is not None:
        if score not in _GATING:
            raise RfctlError("model.config-invalid", key="scoring_func", value=str(score)[:80])
        yield uint(f"{prefix}.expert_gating_func", _GATING[score])
    if hparams.get("head_dim") is not None:
        yield uint(f"{prefix}.attention.key_length", hparams.count("head_dim"))
        yield uint(f"{prefix}.attention.value_length", hparams.count("head_dim"))


def _describe_rope(prefix: str, hparams: HParams) -> Iterator[KeyValue]:
    rope = rope_parameters(hparams)
    kind, factor = rope.get("rope_type"), rope.get("factor")
    scaling = f"{prefix}.rope.scaling"
    if kind in ("linear", "yarn") and factor is not None:
        yield text(f"{scaling}.type", str(kind))
        yield real(f"{scaling}.factor", check_number("factor", factor))
    if kind == "yarn" and factor is not None:
        original = rope.get("original_max_position_embeddings")
        if type(original) is not int or not 0 < original < 1 << 31:
            raise RfctlError(
                "model.config-invalid", key="original_max_position_embeddings", value=str(original)
            )
        yield uint(f"{scaling}.original_context_length", original)
        for key, *names in (
            ("yarn_ext_factor", "extrapolation_factor"),
            ("yarn_attn_factor", "attention_factor", "attn_factor"),
            ("yarn_beta_fast", "beta_fast"),
            ("yarn_beta_slow", "beta_slow"),
        ):
            value = next((rope[name] for name in names if name in rope), None)
            if value is not None:
                yield real(f"{scaling}.{key}", check_number(names[0], value))
    elif kind in ("su", "longrope"):
        yield text(f"{scaling}.type", "longrope")
    sections = rope.get("mrope_section")
    if sections is not None:
        yield sints(f"{prefix}.rope.dimension_sections", _pad_sections(sections))
    theta = rope.get("rope_theta")
    if theta is not None:
        yield real(f"{prefix}.rope.freq_base", check_number("rope_theta", theta))
    local = local_rope_theta(hparams)
    if local is not None:
        yield real(f"{prefix}.rope.freq_base_swa", check_number("rope_local_base_freq", local))


def _pad_sections(sections: object) -> list[int]:
    """Dimensions of time, height and width, and a fourth of nothing."""
    if not isinstance(sections, list) or any(
        type(part) is not int or not 0 <= part < 1 << 31 for part in sections
    ):
        raise RfctlError("model.config-invalid", key="mrope_section", value=str(sections)[:80])
    return [*sections, 0, 0, 0, 0][:4] if len(sections) < 4 else sections[:4]


def check_number(key: str, value: object) -> float:
    """`value` of the configuration as a float32 can hold it; raises RfctlError `model.config-invalid`."""
    # The comparison is false for NaN too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 3e38:
        raise RfctlError("model.config-invalid", key=key, value=str(value)[:80])
    return float(value)
