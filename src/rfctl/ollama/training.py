"""The prompt as a training run wrote it, by LLaMA-Factory's template names."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from rfctl.core.data import data_folder
from rfctl.core.error import UsageError
from rfctl.ollama.template import Message


@dataclass(frozen=True)
class TrainingTemplate:
    """Texts with {content}, {bos}, {eos}, {idx}. family: folder in `modelfiles/` ("": none); default_system:
    written when a conversation has no system message; default_left_out: there is such a text, but it is not
    kept here; system_in_user: the system text stands in the first user turn."""

    name: str
    user: str
    family: str = ""
    assistant: str = "{content}{eos}"
    system: str = "{content}"
    prefix: str = ""
    default_system: str = ""
    system_in_user: bool = False
    default_left_out: bool = False

    def knows(self, messages: Sequence[Message]) -> bool:
        """Whether the prompt of this conversation can be written here."""
        return not self.default_left_out or messages[0]["role"] == "system"

    def render(self, messages: Sequence[Message], *, bos: str = "", eos: str = "") -> str:
        """The text before the next answer. messages: system (optional, first), then user and assistant turns.

        Order and slots as LLaMA-Factory's Template and Llama2Template have them.
        """

        def fill(slot: str, content: str, number: int = 0) -> str:
            for name, token in (("{bos}", bos), ("{eos}", eos), ("{idx}", str(number // 2))):
                slot = slot.replace(name, token)
            return slot.replace("{content}", content)

        turns = list(messages)
        text = self.default_system
        if turns and turns[0]["role"] == "system":
            text = turns.pop(0)["content"]
        system = fill(self.system, text) if text else ""
        prompt = fill(self.prefix, "")
        if not self.system_in_user:
            prompt += system
        for number, message in enumerate(turns):
            if message["role"] == "assistant":
                prompt += fill(self.assistant, message["content"])
            else:
                before = system if self.system_in_user and number == 0 else ""
                prompt += fill(self.user, before + message["content"], number)
        return prompt


@cache
def training_templates() -> Mapping[str, TrainingTemplate]:
    """All templates of `modelfiles/llamafactory.toml` by every name they have."""
    with (data_folder("modelfiles") / "llamafactory.toml").open("rb") as file:
        table = tomllib.load(file)
    found = {}
    for name, facts in table.items():
        same = facts.pop("same", [])
        for each in (name, *same):
            found[each] = TrainingTemplate(each, **facts)
    return found


def find_training_template(name: str) -> TrainingTemplate:
    """The template of that name. Raises UsageError that lists the names."""
    known = training_templates()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=8, cutoff=0.4) or sorted(known)[:8]
        raise UsageError("verify.trained-with-unknown", name=name, known=", ".join(near))
    return known[name]
