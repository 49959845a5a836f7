"""A loaded model for the time of one request."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from rfctl.engine.ollama import state, template_check
from rfctl.engine.ollama.backend import Backend
from rfctl.engine.ollama.completion import Clock
from rfctl.engine.ollama.model import Model
from rfctl.engine.ollama.option import Options, make_spec


@contextlib.asynccontextmanager
async def open_backend(
    shared: state.State, model: Model, options: Options, keep_alive: float | None, clock: Clock
) -> AsyncIterator[Backend]:
    """Load `model` as `options` want it, if it is not; the clock gets the seconds that this took.

    keep_alive: seconds, as `Pool.use` takes it. Raises ApiError (cannot be loaded, no room in time).
    """
    spec = make_spec(model, options)
    await template_check.ensure(shared.models, model)
    async with shared.pool.use(spec, str(model.name), keep_alive) as lease:
        clock.load_seconds = lease.load_seconds
        yield Backend(shared.pool, lease.worker)
