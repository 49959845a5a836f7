"""The parse queue: rows of the table `task`, one worker."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from rfctl.engine.ragflow.state import State


@contextlib.asynccontextmanager
async def running(state: State) -> AsyncIterator[None]:
    """Run the worker while the block lasts."""
    yield
