"""BERT as an embedding model: MiniLM, BGE, E5 and others with a WordPiece vocabulary.

Source: `conversion/bert.py` BertModel of llama.cpp b11434. The pooler is left out: embeddings are pooled
from the last layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar

from rfctl.converter.family import Family
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import flag, texts, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.converter.special import list_special_pairs
from rfctl.converter.tokenizer import load_tokenizer
from rfctl.converter.tokenizer_vocabulary import read_wordpiece
from rfctl.core.error import RfctlError

_DROPPED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
_DROPPED_PREFIXES = ("cls.predictions", "cls.seq_relationship")
_CLASSIFIER = "classifier."
_POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}  # llama.cpp include/llama.h, llama_pooling_type
_MODES = (
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_lasttoken", "lasttoken"),
)
_LINEAR = (
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "attn_output_norm",
    "ffn_up",
    "ffn_down",
    "layer_output_norm",
)


class Bert(Family):
    """BERT encoders."""

    hf_architectures: ClassVar[tuple[str, ...]] = (
        "BertModel",
        "BertForMaskedLM",
        "BertForSequenceClassification",
    )
    architecture: ClassVar[str] = "bert"
    block_prefix: ClassVar[str] = "encoder.layer."
    names: ClassVar[Mapping[str, str]] = {
        "embeddings.word_embeddings": "token_embd",
        "embeddings.position_embeddings": "position_embd",
        "embeddings.token_type_embeddings": "token_types",
        "embeddings.LayerNorm": "token_embd_norm",
        "classifier": "cls",
        "classifier.dense": "cls",
        "classifier.out_proj": "cls.output",
    }
    block_names: ClassVar[Mapping[str, str]] = {
        "attention.self.query": "attn_q",
        "attention.self.key": "attn_k",
        "attention.self.value": "attn_v",
        "attention.output.dense": "attn_output",
        "attention.output.LayerNorm": "attn_output_norm",
        "intermediate.dense": "ffn_up",
        "output.dense": "ffn_down",
        "output.LayerNorm": "layer_output_norm",
    }
    float_names = frozenset({"position_embd.weight", "token_types.weight"})
    block_required: ClassVar[tuple[str, ...]] = tuple(
        f"{name}.{suffix}" for name in _LINEAR for suffix in ("weight", "bias")
    )

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return ("token_embd.weight", "position_embd.weight", "token_embd_norm.weight", "token_embd_norm.bias")

    def adapt_name(self, name: str) -> str | None:
        name = name.removeprefix("bert.")
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            if name.endswith(old):
                name = name.removesuffix(old) + new
        if name in _DROPPED or name.startswith(_DROPPED_PREFIXES):
            return None
        return super().adapt_name(name)

    def place(self, name: str, hparams: HParams) -> str:
        # A classifier of one layer is the projection to the labels.
        if name.startswith(_CLASSIFIER) and name.count(".") == 1 and _read_labels(hparams):
            return name.replace(_CLASSIFIER, f"{_CLASSIFIER}out_proj.")
        return name

    def shapes(self, hparams: HParams) -> Mapping[str, tuple[int, ...]]:
        hidden, inner = hparams.count("hidden_size"), hparams.count("intermediate_size")
        square, vector = (hidden, hidden), (hidden,)
        return {
            "position_embd.weight": (hparams.count("max_position_embeddings"), hidden),
            "token_types.weight": (hparams.count("type_vocab_size"), hidden),
            "token_embd_norm.weight": vector,
            "token_embd_norm.bias": vector,
            **{f"{name}.weight": square for name in ("attn_q", "attn_k", "attn_v", "attn_output")},
            **{f"{name}.bias": vector for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_down")},
            **{
                f"{name}.{suffix}": vector
                for name in _LINEAR
                if name.endswith("_norm")
                for suffix in ("weight", "bias")
            },
            "ffn_up.weight": (inner, hidden),
            "ffn_up.bias": (inner,),
            "ffn_down.weight": (hidden, inner),
        }

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        pairs = [
            *super().describe(source, hparams, file_type),
            flag(f"{self.architecture}.attention.causal", False),
        ]
        pooling = read_pooling(source)
        if pooling is not None:
            pairs.append(uint(f"{self.architecture}.pooling_type", pooling))
        labels = _read_labels(hparams)
        if labels:
            pairs.append(texts(f"{self.architecture}.classifier.output_labels", labels))
        return pairs

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        tokenizer = load_tokenizer(source)
        if tokenizer.kind != "WordPiece":
            raise RfctlError("model.tokenizer-kind", kind=tokenizer.kind, wanted="WordPiece")
        vocabulary = read_wordpiece(tokenizer, hparams)
        return [
            uint("tokenizer.ggml.token_type_count", hparams.get("type_vocab_size", 1)),
            *vocabulary.list_pairs(),
            *list_special_pairs(source, tokenizer.head, None, len(vocabulary.tokens)),
        ]


def read_pooling(source: ModelSource) -> int | None:
    """Pooling type that sentence-transformers' modules.json leads to, None when there is no pooling module.

    Raises RfctlError `model.pooling-unsupported`.
    """
    modules = source.json("modules.json")
    folder = None
    for module in modules if isinstance(modules, list) else ():
        if isinstance(module, dict) and str(module.get("type", "")).endswith("Pooling"):
            folder = str(module.get("path", ""))
            break
    if folder is None:
        return None
    path = PurePosixPath(folder)
    if path.is_absolute() or ".." in path.parts:
        raise RfctlError("model.pooling-unsupported", mode=folder[:80])
    pooling: Any = source.json(str(path / "config.json"))
    if isinstance(pooling, dict):
        for key, mode in _MODES:
            if pooling.get(key):
                return _POOLING[mode]
        if pooling.get("pooling_mode") in _POOLING:
            return _POOLING[pooling["pooling_mode"]]
    raise RfctlError("model.pooling-unsupported", mode=str(pooling)[:80])


def _read_labels(hparams: HParams) -> list[str]:
    """Labels of a classifier; the two placeholders that every configuration has do not count."""
    labels = hparams.get("id2label")
    if not isinstance(labels, dict) or (len(labels) == 2 and labels.get("0") == "LABEL_0"):
        return []
    try:
        return [str(labels[key]) for key in sorted(labels, key=int)]
    except ValueError as error:
        raise RfctlError("model.config-invalid", key="id2label", value=str(labels)[:80]) from error


FAMILIES = (Bert(),)
