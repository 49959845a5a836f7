"""Qwen3, dense and mixture of experts; Qwen3-Embedding and Qwen3-Reranker.

Source: `conversion/qwen.py` Qwen3Model and Qwen3MoeModel of llama.cpp b11434.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from rfctl.converter.expression import Blocks, Expression, Slice
from rfctl.converter.families.common import (
    DECODER_BLOCK,
    DECODER_BLOCK_REQUIRED,
    DECODER_REQUIRED,
    describe_bpe,
)
from rfctl.converter.families.qwen2 import EXPERTS, MOE_BLOCK, Qwen2, describe_expert_sizes
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import text, texts, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.converter.tokenizer import load_tokenizer
from rfctl.core.error import RfctlError

_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_CLASSIFIER = "cls.output.weight"
_DATA = Path(__file__).parent.parent / "data" / "rerank.json"
_RANK = 4  # llama.cpp include/llama.h, llama_pooling_type
_RANKS = "rfctl_rank_ids"  # where `prepare` leaves the ids of the two answers
_NORMS_REQUIRED = ("attn_q_norm.weight", "attn_k_norm.weight")


class Qwen3(Qwen2):
    """Qwen3."""

    hf_architectures: ClassVar[tuple[str, ...]] = ("Qwen3ForCausalLM", "Qwen3Model")
    architecture = "qwen3"
    block_names: ClassVar[Mapping[str, str]] = DECODER_BLOCK | _NORMS
    block_required = (*DECODER_BLOCK_REQUIRED, *_NORMS_REQUIRED)

    def prepare(self, source: ModelSource, hparams: HParams) -> HParams:
        if not _is_reranker(source, hparams):
            return hparams
        engine = load_tokenizer(source).engine
        ids = [engine.token_to_id(label) for label in _read_rerank()["labels"]]
        if None in ids:
            raise RfctlError("model.tokenizer-malformed", file="tokenizer.json", what="no token yes, no")
        return HParams({**hparams, _RANKS: ids})

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return (*DECODER_REQUIRED, _CLASSIFIER) if _RANKS in hparams else super().require(hparams)

    def arrange(self, name: str, tensor: SourceTensor, hparams: HParams) -> Iterator[tuple[str, Expression]]:
        is_tied = bool(hparams.get("tie_word_embeddings", False))
        is_head = name == ("token_embd.weight" if is_tied else "output.weight")
        ids = hparams.get(_RANKS)
        if ids and is_head:
            if len(tensor.shape) != 2 or max(ids) >= tensor.shape[0]:
                found = list(tensor.shape)
                raise RfctlError(
                    "model.tensor-shape", tensor=tensor.name, found=found, wanted=f"> {max(ids)}"
                )
            # The two answers' rows of the output matrix are the classifier.
            yield _CLASSIFIER, Blocks(Slice(tensor), 1, tuple(ids))
            if not is_tied:
                return
        yield from super().arrange(name, tensor, hparams)

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        pairs = super().describe(source, hparams, file_type)
        if _RANKS not in hparams:
            return pairs
        rerank = _read_rerank()
        return [
            *pairs,
            uint(f"{self.architecture}.pooling_type", _RANK),
            texts(f"{self.architecture}.classifier.output_labels", rerank["labels"]),
            text(f"tokenizer.chat_template.{rerank['name']}", rerank["template"]),
            texts("tokenizer.chat_templates", [rerank["name"]]),
        ]


def _is_reranker(source: ModelSource, hparams: HParams) -> bool:
    hints = (source.name, hparams.get("_name_or_path", ""), source.architecture)
    try:
        card = source.text("README.md") or ""
    except RfctlError:
        card = ""
    return "# qwen3-reranker" in card.lower() or any("qwen3-reranker" in str(hint).lower() for hint in hints)


@cache
def _read_rerank() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_DATA.read_text("utf-8"))
    return found


class Qwen3Moe(Qwen2):
    """Qwen3-MoE."""

    hf_architectures: ClassVar[tuple[str, ...]] = ("Qwen3MoeForCausalLM",)
    architecture = "qwen3moe"
    has_pooling = False
    numbered = (EXPERTS,)
    block_names: ClassVar[Mapping[str, str]] = MOE_BLOCK | _NORMS
    block_required = (
        *(f"{name}.weight" for name in block_names.values()),
        *(f"{name}.weight" for name in EXPERTS.names.values()),
    )

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        return [
            *super().describe(source, hparams, file_type),
            *describe_expert_sizes(self.architecture, hparams),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_bpe(source, hparams)


FAMILIES = (Qwen3(), Qwen3Moe())
