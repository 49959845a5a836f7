"""One worker process as the parent sees it: start, address, last words, end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
import signal
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import httpx

from rfctl.engine.failure import WorkerError

LOAD_SECONDS = 300.0
STOP_SECONDS = 5.0
_STDERR_LINES = 40
_REASON_SECONDS = 2.0
_LAST_WORD = "exiting due to"
_LINE_BYTES = 1 << 16
# No read timeout: a long prompt is silent for minutes; the end of the process is seen at once.
_TIMEOUT = httpx.Timeout(None, connect=10.0)
_CAUSE = re.compile(
    r"(error loading model: .*|GGML_ASSERT\(.*\) failed.*|(?<!parsing )error: .*|terminate called .*"
    r"|.*out of memory.*)"
)


@dataclass(frozen=True)
class Spec:
    """How a model is loaded. path: the GGUF; num_* in tokens, num_thread in threads."""

    path: str
    digest: str
    num_ctx: int
    num_batch: int
    num_ubatch: int
    num_keep: int
    num_thread: int
    is_embedding: bool


class Worker:
    """A running child. `http` has its address and key."""

    def __init__(self, spec: Spec, process: asyncio.subprocess.Process) -> None:
        self.spec = spec
        self.process = process
        self.http = httpx.AsyncClient()
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._said_last_word = asyncio.Event()
        self._reader = asyncio.create_task(self._read_stderr())

    @classmethod
    async def start(cls, spec: Spec, *, module: str = "rfctl.engine.worker") -> Worker:
        """Load the model. Raises WorkerError with llama.cpp's reason, or when it takes over five minutes."""
        key = secrets.token_hex(16)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
        )
        worker = cls(spec, process)
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                await worker._connect(key)
        except TimeoutError:
            await worker.stop()
            raise WorkerError("timed out waiting for llama runner to start - progress 0.00 - ") from None
        except BaseException:
            await worker.stop()
            raise
        return worker

    async def _connect(self, key: str) -> None:
        assert self.process.stdin and self.process.stdout
        line = b""
        with contextlib.suppress(ConnectionError):
            self.process.stdin.write(json.dumps(asdict(self.spec) | {"api_key": key}).encode() + b"\n")
            await self.process.stdin.drain()
            line = await self.process.stdout.readline()
        answer = json.loads(line) if line else {}
        if "error" in answer:
            await self._await_reason()
            self.process.stdin.close()
        if "port" not in answer:
            raise await self.death()
        await self.http.aclose()
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{answer['port']}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=_TIMEOUT,
            trust_env=False,
            limits=httpx.Limits(max_connections=None),
        )

    async def _await_reason(self) -> None:
        """llama.cpp logs from a thread: wait for its last word on a failed load, but not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REASON_SECONDS):
                await self._said_last_word.wait()

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None

    async def death(self) -> WorkerError:
        """The error that says how the process ended (it has ended or is about to)."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                code = await self.process.wait()
                await self._reader
        except TimeoutError:
            return WorkerError("llama-server process does not answer")
        cause = describe_cause(self._stderr)
        text = f"llama-server process has terminated: {_describe_code(code)}"
        return WorkerError(f"{text}: {cause}" if cause else text)

    async def stop(self) -> None:
        """End the process; its memory is free when this returns."""
        await self.http.aclose()
        if self.process.stdin:
            with contextlib.suppress(ConnectionError):
                self.process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self.process.wait()
        except TimeoutError:
            self.kill()
            await self.process.wait()
        await self._reader

    def kill(self) -> None:
        """End the process without asking it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def _read_stderr(self) -> None:
        assert self.process.stderr
        while True:
            try:
                line = await self.process.stderr.readline()
            except ValueError:  # a line longer than the limit; its rest comes next
                continue
            if not line:
                return
            self._stderr.append(line.decode("utf-8", errors="replace").rstrip())
            if _LAST_WORD in self._stderr[-1]:
                self._said_last_word.set()

    @property
    def last_words(self) -> Sequence[str]:
        """The last lines of llama.cpp's messages."""
        return tuple(self._stderr)


def describe_cause(lines: Sequence[str]) -> str:
    """The lines among llama.cpp's messages that say why; the last line when none does."""
    causes = list(dict.fromkeys(match[1] for line in lines if (match := _CAUSE.search(line))))
    if causes:
        return "\n".join(causes[:3])
    return lines[-1] if lines else ""


def _describe_code(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):
        return f"signal: {signal.strsignal(-code) or -code}".lower()
    return f"signal: {-code}"
