"""The loaded models: one worker per model file, ended when idle for its keep-alive or when others need room.

Rules of Ollama v0.33.0-rc2 (server/sched.go): another context length or batch reloads the model, at most
`max_loaded` models at a time, a keep-alive of 0 unloads after the request, a negative one never.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from rfctl.engine.failure import ApiError, WorkerError
from rfctl.engine.process import Spec, Worker

MAX_LOADED = 3
KEEP_ALIVE_SECONDS = 300.0
WAIT_SECONDS = 600.0
CRASH_LIMIT = 3
CRASH_WINDOW_SECONDS = 60.0

_log = logging.getLogger(__name__)


@dataclass
class _Slot:
    """A loaded model. name: its full name at the last request; is_doomed: ends with its last user;
    deadline: clock time of its end, None = never."""

    worker: Worker
    name: str
    users: int = 0
    keep_alive: float = KEEP_ALIVE_SECONDS
    is_doomed: bool = False
    used: float = field(default_factory=time.monotonic)

    @property
    def deadline(self) -> float | None:
        return None if self.keep_alive < 0 else self.used + self.keep_alive


@dataclass(frozen=True)
class Loaded:
    """A line of `/api/ps`. name: full model name; expires: when it will be unloaded."""

    name: str
    spec: Spec
    expires: datetime


@dataclass(frozen=True)
class Lease:
    """The use of a loaded model. load_seconds: what getting it took."""

    worker: Worker
    load_seconds: float


class Pool:
    """Workers by blob digest. All methods run in one event loop."""

    def __init__(
        self,
        *,
        max_loaded: int = MAX_LOADED,
        start: Callable[[Spec], Awaitable[Worker]] = Worker.start,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_loaded = max_loaded
        self._start = start
        self._clock = clock
        self._slots: dict[str, _Slot] = {}
        self._loading: set[str] = set()
        self._changed = asyncio.Condition()
        self._crashes: dict[str, deque[float]] = {}
        self._reaper: asyncio.Task[None] | None = None
        self._wakers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Pool:
        self._reaper = asyncio.create_task(self._reap())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reaper:
            self._reaper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reaper
        slots, self._slots = list(self._slots.values()), {}
        await asyncio.gather(*(slot.worker.stop() for slot in slots))

    @contextlib.asynccontextmanager
    async def use(self, spec: Spec, name: str, keep_alive: float | None = None) -> AsyncIterator[Lease]:
        """The model for the time of one request, loaded first if need be.

        keep_alive: seconds of idleness until it is unloaded (0 at once, negative never, None the default).
        Raises WorkerError (cannot be loaded, crashes again and again), ApiError 503 (no room in time).
        """
        begin = self._clock()
        slot = await self._acquire(spec, name)
        try:
            yield Lease(slot.worker, self._clock() - begin)
        finally:
            slot.keep_alive = KEEP_ALIVE_SECONDS if keep_alive is None else keep_alive
            # Shielded: a cancelled request must give its model back completely.
            await asyncio.shield(self._release(slot))

    def loaded(self) -> list[Loaded]:
        """The loaded models, the one that lives longest first."""
        now, wall = self._clock(), datetime.now(UTC).astimezone()
        lines = [
            Loaded(slot.name, slot.worker.spec, wall + timedelta(seconds=_remaining(slot, now)))
            for slot in self._slots.values()
            if slot.worker.is_alive
        ]
        return sorted(lines, key=lambda line: line.expires, reverse=True)

    async def unload(self, digest: str) -> None:
        """End the model of that blob as soon as nobody uses it."""
        slot = self._slots.get(digest)
        if slot is not None:
            slot.is_doomed = True
            await self._end_if_idle(slot)

    async def report_crash(self, worker: Worker) -> WorkerError:
        """For a request whose worker broke off: notes the crash and gives the error to answer."""
        error = await worker.death()
        _log.error("model %s: %s", worker.spec.digest, error.text)
        if not worker.is_alive:
            await self._forget(worker)
        return error

    async def abandon(self, worker: Worker) -> None:
        """End a worker that hangs, whoever uses it; that counts as a crash."""
        worker.kill()
        await worker.process.wait()
        await self._forget(worker)

    # -- inside ---------------------------------------------------------------------------------

    async def _acquire(self, spec: Spec, name: str) -> _Slot:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    async with self._changed:
                        slot = self._slots.get(spec.digest)
                        if slot is not None and slot.worker.is_alive and slot.worker.spec == spec:
                            slot.is_doomed = False
                            slot.users += 1
                            slot.name = name
                            return slot
                        if spec.digest not in self._loading and await self._make_room(spec.digest):
                            self._check_crashes(spec.digest)
                            self._loading.add(spec.digest)
                            break
                        await self._changed.wait()
        except TimeoutError:
            raise ApiError(503, "server busy, please try again.  maximum pending requests exceeded") from None
        return await self._load(spec, name)

    async def _load(self, spec: Spec, name: str) -> _Slot:
        _log.info("loading %s (num_ctx %d)", name, spec.num_ctx)
        try:
            worker = await self._start(spec)
        except WorkerError as error:
            # A model that cannot be loaded fails the same way each time: only sudden ends count as crashes.
            if "signal" in error.text:
                self._note_crash(spec.digest)
            _log.error("model %s: %s", name, error.text)
            raise
        finally:
            self._loading.discard(spec.digest)
            self._wake()
        # No await from here to the caller's `try`: a cancelled request must not lose its slot.
        slot = _Slot(worker, name, users=1)
        self._slots[spec.digest] = slot
        return slot

    def _wake(self) -> None:
        """Notify the waiting requests, from code that must not wait itself."""

        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.create_task(notify())
        self._wakers.add(task)
        task.add_done_callback(self._wakers.discard)

    async def _make_room(self, digest: str) -> bool:
        """End what stands in the way if it is idle; False when that is in use. Holds the condition."""
        former = self._slots.get(digest)
        if former is not None:
            if former.worker.is_alive and former.users:
                return False
            await self._end(former)
        while len(self._slots) + len(self._loading) >= self.max_loaded:
            idle = [slot for slot in self._slots.values() if not slot.users or not slot.worker.is_alive]
            if not idle:
                return False
            await self._end(min(idle, key=lambda slot: slot.used))
        return True

    async def _release(self, slot: _Slot) -> None:
        async with self._changed:
            slot.users -= 1
            slot.used = self._clock()
            self._changed.notify_all()
        if slot.keep_alive == 0 or slot.is_doomed:
            await self._end_if_idle(slot)

    async def _end_if_idle(self, slot: _Slot) -> None:
        async with self._changed:
            if not slot.users and self._slots.get(slot.worker.spec.digest) is slot:
                await self._end(slot)

    async def _end(self, slot: _Slot) -> None:
        """Holds the condition."""
        if not slot.worker.is_alive:
            self._note_crash(slot.worker.spec.digest)
        self._slots.pop(slot.worker.spec.digest, None)
        _log.info("unloading %s", slot.name)
        await slot.worker.stop()
        self._changed.notify_all()

    async def _forget(self, worker: Worker) -> None:
        async with self._changed:
            slot = self._slots.get(worker.spec.digest)
            if slot is not None and slot.worker is worker:
                await self._end(slot)

    async def _reap(self) -> None:
        while True:
            now = self._clock()
            for slot in list(self._slots.values()):
                if not slot.users and slot.deadline is not None and slot.deadline <= now:
                    await self._end_if_idle(slot)
            await asyncio.sleep(min(1.0, self._next_deadline(now)))

    def _next_deadline(self, now: float) -> float:
        waits = [slot.deadline - now for slot in self._slots.values() if slot.deadline and not slot.users]
        return max(0.02, min(waits, default=1.0))

    def _note_crash(self, digest: str) -> None:
        self._crashes.setdefault(digest, deque(maxlen=CRASH_LIMIT)).append(self._clock())

    def _check_crashes(self, digest: str) -> None:
        times = self._crashes.get(digest)
        if times and len(times) == CRASH_LIMIT:
            wait = times[0] + CRASH_WINDOW_SECONDS - self._clock()
            if wait > 0:
                raise WorkerError(
                    f"llama-server process has terminated {CRASH_LIMIT} times within a minute;"
                    f" the model is tried again in {wait:.0f} s"
                )


def _remaining(slot: _Slot, now: float) -> float:
    # Ollama shows a pinned model as expiring in about three centuries.
    return 9.2e9 if slot.deadline is None else max(0.0, slot.deadline - now)
