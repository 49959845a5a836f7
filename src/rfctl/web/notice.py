"""Errors on the page: the same words as in the terminal, with the command that helps."""

from __future__ import annotations

import streamlit as st

from rfctl.core.error import RfctlError
from rfctl.web.markup import plain, quote, strip_controls
from rfctl.web.state import State


def draw_error(remembered: State, error: RfctlError) -> None:
    """Message and cause in a box; below it what to do next, to copy where it is a command."""
    text = error.text(remembered.language)
    body = f"**{quote(text.message)}**"
    if text.why:
        body += f"  \n{quote(text.why)}"
    st.error(body, icon=":material/error:")
    if text.next:
        if text.next.startswith("rfctl "):
            st.caption(plain(remembered.text("web.next")))
            st.code(strip_controls(text.next), language=None, wrap_lines=True)
        else:
            st.caption(quote(text.next))
