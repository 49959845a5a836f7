"""How an assistant answers: options with their limits, and their places in a chat of RAGFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rfctl.core.error import UsageError
from rfctl.ragflow_client.record import mapping

KNOWLEDGE = "{knowledge}"
# Short on purpose: RAGFlow adds about 1,500 tokens of rules for citations to every prompt.
SYSTEM = (
    "Answer the question from the passages below, in the language of the question. Keep to what they say and "
    "cite each passage you use as [ID:n]. If they do not hold the answer, say so.\n" + KNOWLEDGE
)
# Option -> (object of the chat, "" for the chat itself; key). Form of RAGFlow 0.25 and later (chat_api.py).
_PLACES = {
    "system": ("prompt_config", "system"),
    "opener": ("prompt_config", "prologue"),
    "empty_response": ("prompt_config", "empty_response"),
    "refine_multiturn": ("prompt_config", "refine_multiturn"),
    "temperature": ("llm_setting", "temperature"),
    "top_p": ("llm_setting", "top_p"),
    "top_n": ("", "top_n"),
    "top_k": ("", "top_k"),
    "similarity_threshold": ("", "similarity_threshold"),
    "vector_similarity_weight": ("", "vector_similarity_weight"),
}


@dataclass(frozen=True)
class ChatOptions:
    """How an assistant answers.

    system          instructions; `{knowledge}` stands for the passages and is added when missing
    empty_response  what is said, without a model, when nothing was found; "" lets the model answer freely
    top_n           passages per question; similarity_threshold and vector_similarity_weight are 0-1
    """

    system: str = SYSTEM
    opener: str = ""
    empty_response: str = ""
    top_n: int = 6
    similarity_threshold: float = 0.2
    vector_similarity_weight: float = 0.3
    top_k: int = 1024
    temperature: float = 0.1
    top_p: float = 0.3
    refine_multiturn: bool = False

    def check(self) -> None:
        """Raise UsageError `dataset.option-invalid`: RAGFlow does not look at these numbers."""
        for name, least, most in (
            ("top_n", 1, 100),
            ("top_k", 1, 2048),
            ("similarity_threshold", 0, 1),
            ("vector_similarity_weight", 0, 1),
            ("temperature", 0, 2),
            ("top_p", 0, 1),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise UsageError(
                    "dataset.option-invalid", option=name, value=value, allowed=f"{least}-{most}"
                )

    def to_body(self, *, knowledge: bool = True) -> dict[str, Any]:
        """The fields of a chat in the form of RAGFlow 0.25 and later, which older servers take too.

        knowledge: whether it answers from datasets; without them the system text stands alone.
        """
        body = place(dataclasses.asdict(self), knowledge=knowledge)
        body["prompt_config"] |= {**citing(knowledge=knowledge), "tts": False}
        # No frequency_penalty: LiteLLM makes it repeat_penalty, which below 1 rewards repetition.
        return {**body, "rerank_id": ""}


OPTIONS = tuple(field.name for field in dataclasses.fields(ChatOptions))


def check_options(options: Mapping[str, Any]) -> None:
    """Raise UsageError `dataset.option-invalid` for a value out of its range or of another type."""
    default = ChatOptions()
    for name, value in options.items():
        wanted = type(getattr(default, name))
        fits = isinstance(value, wanted) or (wanted is float and type(value) is int)
        if not fits or (wanted is int and isinstance(value, bool)):
            raise UsageError("dataset.option-invalid", option=name, value=value, allowed=wanted.__name__)
    dataclasses.replace(default, **options).check()


def place(options: Mapping[str, Any], *, knowledge: bool = True) -> dict[str, Any]:
    """The given options as fields of a chat."""
    body: dict[str, Any] = {}
    for name, value in options.items():
        section, key = _PLACES[name]
        target = body.setdefault(section, {}) if section else body
        target[key] = _prepare(value, knowledge) if name == "system" else value
    return body


def citing(*, knowledge: bool) -> dict[str, Any]:
    """What of `prompt_config` belongs to answering from datasets, or to answering without any."""
    return {
        "parameters": [{"key": "knowledge", "optional": False}] if knowledge else [],
        "quote": knowledge,
    }


def compare(row: Mapping[str, Any], options: Mapping[str, Any], *, knowledge: bool = True) -> tuple[str, ...]:
    """Names of the given options that a chat, as the server describes it, has otherwise."""
    different = []
    for name in options:
        section, key = _PLACES[name]
        wanted = place({name: options[name]}, knowledge=knowledge)
        have = mapping(row.get(section)) if section else row
        if have.get(key) != (wanted[section] if section else wanted)[key]:
            different.append(name)
    return tuple(different)


def read_options(row: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a chat as the server describes it; one that it does not hold is left out."""
    found = {}
    for name, (section, key) in _PLACES.items():
        have = mapping(row.get(section)) if section else row
        if have.get(key) is not None:
            value = have[key]
            found[name] = unescape_braces(value) if name == "system" and isinstance(value, str) else value
    return found


def escape_braces(text: str) -> str:
    """Braces doubled, but for `{knowledge}`: the server formats the system text (str.format)."""
    return KNOWLEDGE.join(part.replace("{", "{{").replace("}", "}}") for part in text.split(KNOWLEDGE))


def unescape_braces(text: str) -> str:
    """The text that `escape_braces` was given."""
    return KNOWLEDGE.join(part.replace("{{", "{").replace("}}", "}") for part in text.split(KNOWLEDGE))


def _prepare(system: str, knowledge: bool) -> str:
    if not knowledge:
        return system.replace(KNOWLEDGE, "").strip()
    escaped = escape_braces(system)
    return escaped if KNOWLEDGE in escaped else f"{escaped}\n{KNOWLEDGE}"
