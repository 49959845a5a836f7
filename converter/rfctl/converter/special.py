"""Special tokens, whether they are added by themselves, normalisation, and the chat template.

Rules: gguf-py `vocab.py` SpecialVocab of llama.cpp b11434. Against gguf 0.19 of the index it has two more:
a ByteLevel post-processor says that nothing is added, and the normalizer's `lowercase`/`strip_accents` are
written.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rfctl.converter.pair import flag, text, texts, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError

_KEYS = {  # kind -> GGUF key; a kind without a key is looked up but not written
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "mask": "mask",
    "eot": "eot",
    "eom": "eom",
    "prefix": "prefix",
    "suffix": "suffix",
    "middle": "middle",
}
_KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_LETTERS = frozenset(string.ascii_letters + string.digits)


@dataclass
class _State:
    config: dict[str, Any]
    has_config: bool
    kinds: list[str] = field(default_factory=lambda: list(_KINDS))
    adds: dict[str, bool] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)


def list_special_pairs(
    source: ModelSource,
    tokenizer: Mapping[str, Any] | None,
    merges: list[bytes] | None,
    token_count: int | None,
    extra: Sequence[tuple[str, int]] = (),
) -> list[KeyValue]:
    """The pairs behind the token types: merges, ids, what is added, template, normalizer.

    tokenizer     tokenizer.json (`model` may be left out), None if there is none
    merges        merges of a BPE vocabulary, None for other kinds
    token_count   ids from here on are ignored; None: no limit
    extra         (kind, id) that the family itself knows, for kinds that the files do not give
    """
    config = source.json("tokenizer_config.json")
    has_config = isinstance(config, dict)
    state = _State(dict(config) if has_config else {}, has_config)
    if tokenizer is not None:
        _read_processors(state, tokenizer)
    if has_config:
        _read_config(state, tokenizer, token_count)
    inner = source.config.get("text_config")
    inner = inner if isinstance(inner, dict) else {}
    for kind in state.kinds:
        id = source.config.get(f"{kind}_token_id")
        _set_id(state, kind, inner.get(f"{kind}_token_id") if id is None else id, token_count)
    for kind, id in extra:
        _set_id(state, kind, id, token_count)
    pairs = [texts("tokenizer.ggml.merges", merges)] if merges else []
    pairs += [
        uint(f"tokenizer.ggml.{_KEYS[kind]}_token_id", id) for kind, id in state.ids.items() if kind in _KEYS
    ]
    pairs += [
        flag(f"tokenizer.ggml.add_{kind}_token", state.adds[kind])
        for kind in state.adds
        if kind in ("bos", "eos", "sep")
    ]
    if has_config:
        pairs += _list_templates(source, state.config)
    pairs += _list_normalizer(tokenizer)
    return pairs


def token_text(entry: Any) -> str | None:
    """The text of a special token in tokenizer_config.json: a string, or an object with `content`."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _read_config(state: _State, tokenizer: Mapping[str, Any] | None, token_count: int | None) -> None:
    added = tokenizer.get("added_tokens") if tokenizer else None
    known: dict[str, Any] = {}
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("content"), str):
            known.setdefault(entry["content"], entry.get("id"))
    for kind in state.kinds:
        adds = state.config.get(f"add_{kind}_token")
        if isinstance(adds, bool):
            state.adds.setdefault(kind, adds)
        content = token_text(state.config.get(f"{kind}_token"))
        if content is not None:
            _set_id(state, kind, known.get(content), token_count)


def _set_id(state: _State, kind: str, id: Any, token_count: int | None) -> None:
    if type(id) is not int or kind in state.ids:
        return
    if id < 0 or id >= 1 << 32:
        raise RfctlError("model.config-invalid", key=f"{kind}_token_id", value=str(id))
    if token_count is None or id < token_count:
        state.ids[kind] = id


def _read_processors(state: _State, tokenizer: Mapping[str, Any]) -> None:
    config = state.config
    for first, second in (("bos_token", "cls_token"), ("eos_token", "sep_token")):
        if not config.get(first) and config.get(second) and state.has_config:
            config[first] = config[second]
    processor = tokenizer.get("post_processor")
    if not isinstance(processor, dict):
        return
    listed = processor.get("processors", [processor])
    for step in listed if isinstance(listed, list) else ():
        kind = step.get("type") if isinstance(step, dict) else None
        if kind == "ByteLevel":
            state.adds.setdefault("bos", False)
            state.adds.setdefault("eos", False)
        elif kind == "RobertaProcessing":
            state.adds |= {"bos": True, "eos": True, "sep": True}
            for name in ("cls", "sep"):
                pair = step.get(name)
                if not config.get(f"{name}_token") and state.has_config and isinstance(pair, list) and pair:
                    config[f"{name}_token"] = pair[0]
        elif kind == "TemplateProcessing":
            _read_template_processor(state, step)


def _read_template_processor(state: _State, step: Mapping[str, Any]) -> None:
    config = state.config
    single, pair = _items(step.get("single")), _items(step.get("pair"))
    bos, cls, eos, sep = (token_text(config.get(f"{kind}_token")) for kind in ("bos", "cls", "eos", "sep"))
    first = last = None
    if len(single) > 1:
        first, last = _special(single[0]), _special(single[-1])
        if first is not None:
            if not state.has_config:
                bos = first
            state.adds["bos"] = first in (bos, cls)
        if last is not None:
            if state.has_config and last != eos:
                _move_eos(state, eos)
                config["eos_token"] = last
            eos = last
            state.adds["eos"] = True
    begin = 1 if first and pair and _special(pair[0]) == first else 0
    end = len(pair) - 1 if last and pair and _special(pair[-1]) == last else len(pair)
    middle = pair[begin:end]
    if len(middle) > 2 and _sequence(middle[0]) == "A" and _sequence(middle[-1]) == "B":
        between = [_special(item) for item in middle[1:-1]]
        adds_sep = between[0] is not None and between[0] in (sep, eos) and not last
        if len(between) == 2 and between[1] is not None and between[1] in (sep, eos):
            adds_sep = True
        state.adds["sep"] = adds_sep
        if adds_sep and not sep and state.has_config:
            config["sep_token"] = eos


def _move_eos(state: _State, eos: str | None) -> None:
    """The token that the template ends with becomes eos; what was eos becomes end of turn, or of message."""
    for kind in ("eot", "eom"):
        if kind not in state.kinds:
            state.kinds.append(kind)
            state.config[f"{kind}_token"] = eos
            return


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _special(item: Any) -> str | None:
    inner = item.get("SpecialToken") if isinstance(item, dict) else None
    id = inner.get("id") if isinstance(inner, dict) else None
    return id if isinstance(id, str) else None


def _sequence(item: Any) -> Any:
    inner = item.get("Sequence") if isinstance(item, dict) else None
    return inner.get("id") if isinstance(inner, dict) else None


def _list_templates(source: ModelSource, config: Mapping[str, Any]) -> Iterator[KeyValue]:
    template = config["chat_template"] if "chat_template" in config else _read_template_file(source)
    if isinstance(template, str):
        yield text("tokenizer.chat_template", template)
        return
    if not isinstance(template, list):
        return
    default, names = None, set()
    for choice in template:
        name, body = (
            (choice.get("name"), choice.get("template")) if isinstance(choice, dict) else (None, None)
        )
        if not isinstance(name, str) or not name or not isinstance(body, str):
            continue
        name = "".join(letter if letter in _LETTERS else "_" for letter in name)
        if name == "default":
            default = body
        else:
            names.add(name)
            yield text(f"tokenizer.chat_template.{name}", body)
    if names:
        yield texts("tokenizer.chat_templates", sorted(names))
    if default is not None:
        yield text("tokenizer.chat_template", default)


def _read_template_file(source: ModelSource) -> Any:
    jinja = source.text("chat_template.jinja")
    if jinja is not None:
        # As a text file is read: every line end becomes \n.
        jinja = jinja.replace("\r\n", "\n").replace("\r", "\n")
        others = sorted((source.path / "additional_chat_templates").glob("*.jinja"))
        if not others:
            return jinja
        named = [{"name": "default", "template": jinja}]
        for path in others:
            named.append(
                {"name": path.stem, "template": source.text(f"additional_chat_templates/{path.name}") or ""}
            )
        return named
    other = source.json("chat_template.json")
    return other.get("chat_template") if isinstance(other, dict) else None


def _list_normalizer(tokenizer: Mapping[str, Any] | None) -> Iterator[KeyValue]:
    normalizer = tokenizer.get("normalizer") if tokenizer else None
    if not isinstance(normalizer, dict):
        return
    listed = normalizer.get("normalizers", [normalizer])
    for step in listed if isinstance(listed, list) else ():
        if isinstance(step, dict) and step.get("type") == "BertNormalizer":
            for name in ("lowercase", "strip_accents"):
                if isinstance(step.get(name), bool):
                    yield flag(f"tokenizer.ggml.normalizer.{name}", step[name])
