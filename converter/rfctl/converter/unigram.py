"""SentencePiece's Unigram vocabulary as XLM-RoBERTa uses it: `sentencepiece.bpe.model`.

Rules: `conversion/bert.py` _xlmroberta_set_vocab, llama.cpp b11434. The ids are those of the Hugging Face
tokenizer, which puts four tokens of its own in front and leaves out the first three pieces.
"""

from __future__ import annotations

import numpy as np

from rfctl.converter.hparams import HParams
from rfctl.converter.pair import flag, reals, sints, text, texts, uint
from rfctl.converter.plan import KeyValue, ValueType
from rfctl.converter.protobuf import list_fields
from rfctl.converter.sentence import load_processor, piece_type
from rfctl.converter.source import ModelSource
from rfctl.converter.special import list_special_pairs
from rfctl.converter.vocabulary import TokenType, check_size
from rfctl.core.error import RfctlError

UNIGRAM_FILE = "sentencepiece.bpe.model"
_FIRST = ("<s>", "<pad>", "</s>", "<unk>")
_DROPPED = 3
_ABSENT_SCORE = -10000.0
# Field numbers of sentencepiece_model.proto.
_TRAINER, _NORMALIZER = 2, 3
_MODEL_TYPE = 3
_CHARSMAP, _DUMMY_PREFIX, _EXTRA_SPACES = 2, 3, 4
_UNIGRAM = 1


def describe_unigram(source: ModelSource, hparams: HParams) -> list[KeyValue]:
    """The pairs tokenizer.* of the vocabulary.

    Raises RfctlError `model.tokenizer-missing`, `model.tokenizer-malformed`, `model.tokenizer-kind`.
    """
    if not source.has(UNIGRAM_FILE):
        raise RfctlError("model.tokenizer-missing", path=source.path, files=UNIGRAM_FILE)
    processor = load_processor(source, UNIGRAM_FILE)
    spec = dict(list_fields((source.path / UNIGRAM_FILE).read_bytes()))
    trainer, normalizer = (_read_message(spec.get(number)) for number in (_TRAINER, _NORMALIZER))
    if trainer.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM:
        raise RfctlError("model.tokenizer-kind", kind="SentencePiece BPE", wanted="Unigram")
    pieces = processor.vocab_size()
    size = check_size(max(hparams.get("vocab_size", 0), pieces))
    tokens = [processor.IdToPiece(number) for number in range(pieces)]
    scores = [processor.GetScore(number) for number in range(pieces)]
    types = [int(piece_type(processor, number)) for number in range(pieces)]
    tokens += [f"[PAD{number}]" for number in range(pieces, size)]
    scores += [_ABSENT_SCORE] * (size - pieces)
    types += [int(TokenType.UNUSED)] * (size - pieces)
    tokens = [*_FIRST, *tokens[_DROPPED:-1]]
    scores = [0.0] * len(_FIRST) + scores[_DROPPED:-1]
    first = [TokenType.CONTROL] * 3 + [TokenType.UNKNOWN]
    types = [int(kind) for kind in first] + types[_DROPPED:-1]
    kinds = hparams.count("type_vocab_size") if "type_vocab_size" in hparams else 1
    pairs = [
        text("tokenizer.ggml.model", "t5"),
        text("tokenizer.ggml.pre", "default"),
        texts("tokenizer.ggml.tokens", tokens),
        reals("tokenizer.ggml.scores", np.array(scores, dtype=np.float32)),
        sints("tokenizer.ggml.token_type", np.array(types, dtype=np.int32)),
        flag("tokenizer.ggml.add_space_prefix", bool(normalizer.get(_DUMMY_PREFIX, 1))),
        uint("tokenizer.ggml.token_type_count", kinds),
        flag("tokenizer.ggml.remove_extra_whitespaces", bool(normalizer.get(_EXTRA_SPACES, 1))),
    ]
    charsmap = normalizer.get(_CHARSMAP)
    if isinstance(charsmap, bytes) and charsmap:
        values = np.frombuffer(charsmap, dtype=np.uint8)
        key = "tokenizer.ggml.precompiled_charsmap"
        pairs.append(KeyValue(key, ValueType.ARRAY, values, ValueType.UINT8))
    head = source.json("tokenizer.json")
    return [*pairs, *list_special_pairs(source, head, None, len(tokens))]


def _read_message(value: int | bytes | None) -> dict[int, int | bytes]:
    return dict(list_fields(value)) if isinstance(value, bytes) else {}
