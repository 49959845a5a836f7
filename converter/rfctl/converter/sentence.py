"""SentencePiece vocabularies: `tokenizer.model`, with the tokens added behind it.

Rules: `conversion/base.py` _create_vocab_sentencepiece, b11434.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rfctl.converter.hparams import HParams
from rfctl.converter.protobuf import list_fields
from rfctl.converter.source import ModelSource
from rfctl.converter.vocabulary import SPACE, TokenType, Vocabulary, check_size, is_special_looking
from rfctl.core.error import RfctlError

MODEL_FILE = "tokenizer.model"
_MAX_MODEL = 128 * 1024 * 1024
_ADDED_SCORE = -1000.0
_ABSENT_SCORE = -10000.0
_FIRST = ("<unk>", "<bos>", "<eos>")
_NORMALIZER = _DUMMY_PREFIX = 3


def read_sentencepiece(source: ModelSource, hparams: HParams, *, is_plain: bool = False) -> Vocabulary:
    """The vocabulary of `tokenizer.model`, filled up to `vocab_size` with unused tokens.

    is_plain   added tokens stay as they are written, and those of tokenizer.json count too
               (`conversion/phi.py` Phi3MiniModel)
    Raises RfctlError `model.tokenizer-malformed` and `model.config-invalid`.
    """
    processor = load_processor(source, MODEL_FILE)
    pieces = processor.vocab_size()
    size = check_size(hparams.find("vocab_size") or pieces)
    tokens = [f"[PAD{number}]" for number in range(size)]
    types: list[int] = [TokenType.UNUSED] * size
    scores = [_ABSENT_SCORE] * size
    for number in range(min(pieces, size)):
        tokens[number] = read_piece(processor, number, MODEL_FILE)
        scores[number] = processor.GetScore(number)
        types[number] = piece_type(processor, number)
    for number, token, is_special in list_added(source, with_tokenizer=is_plain):
        if number >= size:
            continue
        if is_special is None:
            types[number] = TokenType.USER_DEFINED
        elif is_special or (not is_plain and is_special_looking(token)):
            types[number] = TokenType.CONTROL
        else:
            token = token if is_plain else token.replace(SPACE, " ")
            types[number] = TokenType.USER_DEFINED
        tokens[number], scores[number] = token, _ADDED_SCORE
    return Vocabulary("llama", "default", tokens, types, scores)


def read_chat_pieces(source: ModelSource, size: object, behind: Sequence[str]) -> Vocabulary:
    """The vocabulary of a `tokenizer.model` whose own code puts control tokens behind the pieces.

    size     ids in all; the rest is unused; None: as many as there are tokens
    behind   the control tokens, from the first free id on
    Rule: `conversion/chatglm.py` set_vocab_chatglm3, b11434. The first three ids have fixed names, and the
    code gives no text for the model's own unknown, beginning and end.
    Raises RfctlError `model.tokenizer-malformed`, `model.config-invalid`, `model.vocabulary-too-small`.
    """
    processor = load_processor(source, MODEL_FILE)
    pieces = processor.vocab_size()
    count = pieces + len(behind)
    size = check_size(count if size is None else size)
    if count > size:
        token = behind[-1] if behind else read_piece(processor, pieces - 1, MODEL_FILE)
        raise RfctlError("model.vocabulary-too-small", vocab_size=size, highest=count - 1, token=token)
    silent = {processor.unk_id(), processor.bos_id(), processor.eos_id()}
    tokens, scores = [], []
    for number in range(pieces):
        token = "" if number in silent else read_piece(processor, number, MODEL_FILE)
        tokens.append(_FIRST[number] if number < len(_FIRST) else token)
        scores.append(processor.GetScore(number) if tokens[number] else 0.0)
    types = [int(piece_type(processor, number)) for number in range(pieces)]
    tokens += [*behind, *(f"[PAD{number}]" for number in range(count, size))]
    types += [TokenType.CONTROL] * len(behind) + [TokenType.UNUSED] * (size - count)
    scores += [0.0] * (size - pieces)
    return Vocabulary("llama", "chatglm-spm", tokens, types, scores)


def adds_dummy_prefix(source: ModelSource) -> bool:
    """Does the model of `tokenizer.model` put a space in front of a text?

    Fields: ModelProto.normalizer_spec (3), NormalizerSpec.add_dummy_prefix (3, true by default).
    """
    data = (source.path / MODEL_FILE).read_bytes()
    normalizer = next((value for number, value in list_fields(data) if number == _NORMALIZER), b"")
    fields = list_fields(normalizer) if isinstance(normalizer, bytes) else iter(())
    return all(bool(value) for number, value in fields if number == _DUMMY_PREFIX)


def load_processor(source: ModelSource, file: str) -> Any:
    """The SentencePiece model in `file`; raises RfctlError `model.tokenizer-malformed`."""
    path = source.path / file
    if path.stat().st_size > _MAX_MODEL:
        raise RfctlError("model.tokenizer-malformed", file=file, what=f"> {_MAX_MODEL} bytes")
    from sentencepiece import SentencePieceProcessor  # only models with a tokenizer.model pay for it

    processor = SentencePieceProcessor()
    try:
        processor.LoadFromFile(str(path))
    except (RuntimeError, OSError) as error:
        raise RfctlError("model.tokenizer-malformed", file=file, what=str(error)[:120]) from error
    return processor


def read_piece(processor: Any, number: int, file: str) -> str:
    """Text of a piece of the model in `file`; raises RfctlError `model.tokenizer-malformed`."""
    try:
        return str(processor.IdToPiece(number))
    except UnicodeDecodeError as error:
        raise RfctlError("model.tokenizer-malformed", file=file, what=f"piece {number}") from error


def piece_type(processor: Any, number: int) -> TokenType:
    """Type of a piece."""
    if processor.IsUnknown(number):
        return TokenType.UNKNOWN
    if processor.IsControl(number):
        return TokenType.CONTROL
    if processor.IsUnused(number):
        return TokenType.UNUSED
    return TokenType.BYTE if processor.IsByte(number) else TokenType.NORMAL


def list_added(source: ModelSource, *, with_tokenizer: bool = False) -> list[tuple[int, str, bool | None]]:
    """(id, text, special) of added_tokens.json (special unknown: None), then of tokenizer_config.json."""
    found: list[tuple[int, str, bool | None]] = []
    added = source.json("added_tokens.json")
    if isinstance(added, dict):
        found += [(_number(number), token, None) for token, number in added.items()]
    config = source.json("tokenizer_config.json")
    decoder = config.get("added_tokens_decoder") if isinstance(config, dict) else None
    if isinstance(decoder, dict):
        for number, entry in decoder.items():
            if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
                raise RfctlError(
                    "model.tokenizer-malformed", file="tokenizer_config.json", what="added_tokens_decoder"
                )
            found.append((_number(number), entry["content"], bool(entry.get("special"))))
    tokenizer = source.json("tokenizer.json") if with_tokenizer else None
    entries = tokenizer.get("added_tokens") if isinstance(tokenizer, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise RfctlError("model.tokenizer-malformed", file="tokenizer.json", what="added_tokens")
        found.append((_number(entry.get("id")), entry["content"], bool(entry.get("special"))))
    return found


def _number(value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if number < 0:
        raise RfctlError("model.tokenizer-malformed", file="added_tokens.json", what=f"id {value!r}"[:80])
    return number
