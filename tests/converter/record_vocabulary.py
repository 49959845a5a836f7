"""Record vocabularies that many models share: `data/known-vocabulary.json`.

    python tests/converter/record_vocabulary.py NAME=TOKENIZER.JSON ... [NAME=RANKS:PATTERN ...] > FILE

NAME is the name of the vocabulary, TOKENIZER.JSON a whole file; files of one name must have one vocabulary
and differ in form. RANKS is a file of ranks as tiktoken has them and PATTERN a file with its regular
expression: the tokenizer.json is then made of the two in all forms that are seen. For every file the ids of
the check text are those of the `tokenizers` library; the hash must be one that llama.cpp
knows, with or without the first special token.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

import rfctl.converter
from rfctl.converter.known_vocabulary import BEGIN_BYTES, END_BYTES, hash_form
from rfctl.converter.pre_tokenizer_table import list_inside
from rfctl.converter.rank import list_merges, list_spellings, read_ranks, spell
from rfctl.converter.source import ModelSource

DATA = Path(next(iter(rfctl.converter.__path__))) / "data"
TABLE = json.loads((DATA / "pre-tokenizer.json").read_text("utf-8"))


def read(text: str) -> list[dict[str, Any]]:
    """The documents of one argument."""
    path, _, pattern = text.partition(":")
    if not pattern:
        return [json.loads(Path(path).read_text("utf-8"))]
    return build(Path(path), Path(pattern).read_text("utf-8").strip())


def build(ranks: Path, pattern: str) -> list[dict[str, Any]]:
    """tokenizer.json of a file of ranks, in the forms that are seen: with and without normalizer, tokens
    taken whole or not, one merge for every token or all that lead to it."""
    spelling = list_spellings()
    found = read_ranks(ModelSource(ranks.parent, {}, {}))
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocabulary = {spell(spelling, token): rank for token, rank in found.items()}
    return [
        {
            "added_tokens": [],
            "normalizer": normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
            "model": {"type": "BPE", "ignore_merges": is_whole, "vocab": vocabulary, "merges": merges},
        }
        for merges in ([item.decode() for item in list_merges(found)], list_all_merges(found, spelling))
        for normalizer in (None, {"type": "NFC"})
        for is_whole in (False, True)
    ]


def list_all_merges(ranks: dict[bytes, int], spelling: list[str]) -> list[str]:
    """Every pair of tokens that makes a token, by the ranks of the whole, the left and the right part."""
    merges = []
    for token in ranks:
        pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
        for pair in sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]])):
            merges.append(" ".join(spell(spelling, part) for part in pair))
    return merges


def list_bodies(model: dict[str, Any]) -> list[dict[str, Any]]:
    """The body in the forms in which files have it: indented or not, merges as pairs or as text."""
    merges = model.get("merges") or []
    texts = [item if isinstance(item, str) else " ".join(item) for item in merges]
    pairs = [item.split(" ") if isinstance(item, str) else item for item in merges]
    forms = [
        (kind, items, indent) for kind, items in (("pairs", pairs), ("text", texts)) for indent in (2, 0)
    ]
    bodies = []
    for kind, items, indent in forms:
        document = {"model": {"vocab": model["vocab"], "merges": items}}
        text = json.dumps(
            document,
            ensure_ascii=False,
            indent=indent or None,
            separators=(",", ": ") if indent else (",", ":"),
        ).encode()
        body = text[text.find(b'"vocab"') :]
        bodies.append(
            {
                "merges": kind,
                "bytes": len(body),
                "begin": hashlib.sha256(body[:BEGIN_BYTES]).hexdigest()[:32],
                "end": hashlib.sha256(body[-END_BYTES:]).hexdigest()[:32],
                "sha256": hashlib.sha256(body).hexdigest(),
            }
        )
    return bodies


def encode(document: dict[str, Any]) -> tuple[list[int], str]:
    """Ids of the check text and what llama.cpp calls them."""
    text = TABLE["check_text"]
    engine = Tokenizer.from_str(json.dumps(document))
    engine.no_truncation()
    engine.no_padding()
    ids = engine.encode(text, add_special_tokens=False).ids
    forms = [ids, engine.encode(text).ids]
    if not document["added_tokens"]:
        forms.append([len(document["model"]["vocab"]), *ids])  # ranks: the first special token follows them
    names = [TABLE["hash"].get(hashlib.sha256(str(form).encode()).hexdigest()) for form in forms]
    return ids, next((name for name in names if name), "")


def record(entries: dict[str, dict[str, Any]], name: str, document: dict[str, Any]) -> None:
    """Add what `document` shows of the vocabulary `name`."""
    model = document["model"]
    ids, pre = encode(document)
    count = len(model["merges"])
    print(f"{name}: {len(model['vocab'])} tokens, {count} merges, {len(ids)} ids, {pre}", file=sys.stderr)
    if not pre:
        raise SystemExit(f"{name}: the hash is not in the table")
    assert sorted(model["vocab"].values()) == list(range(len(model["vocab"])))
    entry = entries.setdefault(name, {"name": name, "size": len(model["vocab"]), "forms": {}, "bodies": []})
    entry["bodies"] += [body for body in list_bodies(model) if body not in entry["bodies"]]
    inside = list_inside(token["content"] for token in document["added_tokens"])
    if inside:
        entry["inside"] = inside
    assert entry["forms"].setdefault(hash_form(document), ids) == ids, name
    assert entry.get("inside", ()) == inside, name


def main() -> None:
    entries: dict[str, dict[str, Any]] = {}
    for argument in sys.argv[1:]:
        name, _, text = argument.partition("=")
        for document in read(text):
            record(entries, name, document)
    json.dump(list(entries.values()), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
