"""`tokenizer.json` loaded.

Rules: what AutoTokenizer of transformers 4.57.6 does to the file when it loads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Tokenizer

from rfctl.converter.known_vocabulary import KnownVocabulary, find_by_body
from rfctl.converter.pre_tokenizer_table import list_inside
from rfctl.converter.source import ModelSource, read_text
from rfctl.converter.special import token_text
from rfctl.core.error import RfctlError

FILE = "tokenizer.json"
# Classes whose post-processor transformers 4 makes anew from add_bos_token and add_eos_token, with their
# defaults.
_REBUILT = {
    "Llama": (True, False),
    "CodeLlama": (True, False),
    "Gemma": (True, False),
    "Cohere": (True, False),
    "GPTNeoX": (False, False),
}
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass
class TokenizerFile:
    """A loaded tokenizer.json.

    head     the file without its model's vocabulary and merges
    kind     type of the model: "BPE", "WordPiece", "Unigram", ...
    merges   merges as GGUF has them, UTF-8 (BPE)
    config   tokenizer_config.json, {} if absent
    entries  token -> id of the file's vocabulary, without added tokens; None where it is no such table
    known    the vocabulary where it is a known one; the engine then lacks the merges and encodes single
             tokens only
    """

    head: Mapping[str, Any] = field(repr=False)
    kind: str
    merges: list[bytes] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    engine: Any = field(repr=False)
    entries: Mapping[str, int] | None = field(default=None, repr=False)
    known: KnownVocabulary | None = None

    def list_tokens(self) -> dict[int, str]:
        """Token of every id, added ones included."""
        if self.entries is None:
            return {id: token for token, id in self.engine.get_vocab(with_added_tokens=True).items()}
        # What the engine would give, without having it copy its whole table: a tenth of a second.
        by_id = dict(zip(self.entries.values(), self.entries, strict=True))
        by_id |= {id: token.content for id, token in self.engine.get_added_tokens_decoder().items()}
        return by_id

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids, as transformers' tokenizer of the class named in the configuration gives them."""
        name = str(self.config.get("tokenizer_class", "")).removesuffix("Fast").removesuffix("Tokenizer")
        if not add_special or name not in _REBUILT:
            return list(self.engine.encode(text, add_special_tokens=add_special).ids)
        ids = list(self.engine.encode(text, add_special_tokens=False).ids)
        for side, default in zip(("bos", "eos"), _REBUILT[name], strict=True):
            adds = self.config.get(f"add_{side}_token", default)
            id = self.engine.token_to_id(token_text(self.config.get(f"{side}_token")) or "")
            if adds and id is not None:
                ids = [id, *ids] if side == "bos" else [*ids, id]
        return ids


def load_tokenizer(source: ModelSource, *, encodes: bool = False) -> TokenizerFile:
    """Load tokenizer.json.

    encodes   the engine must be able to encode any text: with a known vocabulary it is not, since reading
              the merges takes half of the time
    Raises RfctlError `model.tokenizer-missing`, `model.tokenizer-malformed`, `model.json-malformed`, and
    `model.tokenizer-unread` where a check has read the head alone.
    """
    content = read_text(source.path / FILE)
    if content is None:
        raise RfctlError("model.tokenizer-missing", path=source.path, files=FILE)
    config = source.json("tokenizer_config.json")
    config = config if isinstance(config, dict) else {}
    if isinstance(config.get("extra_special_tokens"), list):
        raise RfctlError("model.extra-special-tokens", file="tokenizer_config.json")
    head, kind, merges, entries = _parse(content)
    adapted = _adapt_normalizer(head.get("normalizer"), config)
    if adapted is not None:
        content = json.dumps(json.loads(content) | {"normalizer": adapted})
    # As bytes: a text with Chinese in it takes three times the memory, and the engine wants UTF-8.
    data = content.encode("utf-8")
    del content
    known = None if encodes else _find_known(source, data, head, config)
    if known is not None:
        data = _drop_merges(data)
    try:
        engine = Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises nothing narrower for a file that it cannot read
        raise RfctlError("model.tokenizer-malformed", file=FILE, what=str(error)[:120]) from error
    engine.no_truncation()
    engine.no_padding()
    try:
        _add_tokens(engine, config)
    except UnicodeEncodeError as error:  # half a surrogate pair, which a JSON escape can hold
        raise RfctlError(
            "model.tokenizer-malformed", file="tokenizer_config.json", what=str(error)
        ) from error
    return TokenizerFile(head, kind, merges, config, engine, entries, known)


def _find_known(
    source: ModelSource, data: bytes, head: Mapping[str, Any], config: Mapping[str, Any]
) -> KnownVocabulary | None:
    """The known vocabulary of the file, if what was added to it leaves the check text as it is recorded."""
    known = source.head.known if source.head is not None else find_by_body(data)
    if known is not None and list_inside(_list_added(head, config)) == known.inside:
        return known
    if source.head is not None:
        raise RfctlError("model.tokenizer-unread", file=FILE)
    return None


def _list_added(head: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    entries = head.get("added_tokens")
    decoder = config.get("added_tokens_decoder")
    found = [*(entries if isinstance(entries, list) else ()), *(config.get(name) for name in SPECIAL_TOKENS)]
    found += decoder.values() if isinstance(decoder, dict) else ()
    return [text for entry in found if (text := token_text(entry))]


def _drop_merges(data: bytes) -> bytes:
    """tokenizer.json without its merges, the last of it."""
    return data[: data.rindex(b'"merges":')] + b'"merges":[]}}'


def _encode_merges(merges: Any) -> list[bytes]:
    if not isinstance(merges, list):
        raise RfctlError("model.tokenizer-malformed", file=FILE, what="merges")
    if merges and isinstance(merges[0], str):
        return _encode_all(merges)
    joined = list(map(" ".join, merges))
    if {len(pair) for pair in merges} - {2}:
        raise ValueError("a merge is not a pair")
    if "".join(joined).count(" ") != len(joined):
        # A space inside a half would be taken for the one between the halves.
        joined = [" ".join(half.replace(" ", "\u0120") for half in pair) for pair in merges]
    return _encode_all(joined)


def _encode_all(texts: list[str]) -> list[bytes]:
    """Every text in UTF-8: in one go where no text holds what stands between them."""
    whole = "\n".join(texts)
    if whole.count("\n") != len(texts) - 1:
        return [text.encode() for text in texts]
    return whole.encode().split(b"\n")


def _parse(content: str) -> tuple[dict[str, Any], str, list[bytes], Mapping[str, int] | None]:
    """tokenizer.json without vocabulary and merges, the kind of its model, its merges and its vocabulary."""
    try:
        parsed = json.loads(content)
        model = parsed["model"]
        kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
        merges = _encode_merges(model.get("merges") or [])
        entries = _read_entries(model.get("vocab"))
        parsed["model"] = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RfctlError("model.tokenizer-malformed", file=FILE, what=str(error)[:120]) from error
    return parsed, str(kind), merges, entries


def _read_entries(vocabulary: Any) -> Mapping[str, int] | None:
    """The vocabulary as it is read by the engine; None where that takes care of oddities (ids used twice)."""
    if not isinstance(vocabulary, dict) or set(map(type, vocabulary.values())) - {int}:
        return None
    return vocabulary if len(set(vocabulary.values())) == len(vocabulary) else None


def _adapt_normalizer(normalizer: Any, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The normalizer as BertTokenizerFast sets it by the configuration, None when the file's stays."""
    name = str(config.get("tokenizer_class", "")).removesuffix("Fast")
    if name != "BertTokenizer" or not isinstance(normalizer, dict):
        return None
    if normalizer.get("type") != "BertNormalizer":
        return None
    wanted = normalizer | {
        "lowercase": config.get("do_lower_case", True),
        "strip_accents": config.get("strip_accents"),
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
    }
    return None if wanted == normalizer else wanted


def _add_tokens(engine: Any, config: Mapping[str, Any]) -> None:
    """Add what tokenizer_config.json names and tokenizer.json lacks, as transformers does."""
    known = {token.content for token in engine.get_added_tokens_decoder().values()}
    wanted: list[Any] = []
    decoder = config.get("added_tokens_decoder")
    entries = decoder.items() if isinstance(decoder, dict) else ()
    for _, entry in sorted(((str(id).zfill(12), entry) for id, entry in entries), key=lambda item: item[0]):
        content = token_text(entry)
        if content is not None and content not in known:
            flags = {
                name: bool(entry.get(name))
                for name in ("lstrip", "rstrip", "single_word", "normalized", "special")
            }
            wanted.append(AddedToken(content, **flags))
            known.add(content)
    for name in SPECIAL_TOKENS:
        content = token_text(config.get(name))
        if content and content not in known:
            wanted.append(AddedToken(content, special=True, normalized=False))
            known.add(content)
    for token in wanted:
        (engine.add_special_tokens if token.special else engine.add_tokens)([token])
