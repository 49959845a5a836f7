"""What one visitor's page remembers between two clicks."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import streamlit as st

from rfctl.core.catalog import render
from rfctl.core.error import RfctlError
from rfctl.ragflow_client.answer import Session
from rfctl.ragflow_client.chat import Chat
from rfctl.web.asking import Asking, Turn

_KEY = "rfctl"
_MAX_PICTURES = 12


@dataclass
class State:
    """chat: the chosen assistant; session: None until the first question; asking: the question on its way.

    notice: the last error outside of a question. pictures: pages drawn so far, by passage. epoch: counts
    conversations, so that no widget of one keeps its value in the next.
    """

    language: str
    chat: Chat | None = None
    session: Session | None = None
    turns: list[Turn] = field(default_factory=list)
    asking: Asking | None = None
    notice: RfctlError | None = None
    pictures: OrderedDict[str, tuple[bytes, ...]] = field(default_factory=OrderedDict)
    epoch: int = 0
    is_restored: bool = False

    def text(self, id: str, /, **params: object) -> str:
        """A text of the page from the catalog, as it is (not yet safe as Markdown if `params` are not)."""
        return render(id, self.language, params).message

    def begin(self, chat: Chat, session: Session | None = None, turns: list[Turn] | None = None) -> None:
        """Turn to another conversation; what is on its way is stopped (the server keeps no half answer)."""
        if self.asking is not None:
            self.asking.stop()
        self.asking = None
        self.chat, self.session, self.turns = chat, session, turns or []
        self.notice = None
        self.epoch += 1

    def keep_picture(self, key: str, picture: tuple[bytes, ...]) -> None:
        self.pictures[key] = picture
        while len(self.pictures) > _MAX_PICTURES:
            self.pictures.popitem(last=False)


def state(language: str) -> State:
    """The state of this visitor; `language` is that of a new one."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = State(language)
    found: State = st.session_state[_KEY]
    return found
