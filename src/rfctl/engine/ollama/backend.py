"""The calls to a worker's HTTP API (llama-server of llama.cpp b11549) with its errors in Ollama's form."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from rfctl.engine.failure import ApiError, WorkerError
from rfctl.engine.pool import Pool
from rfctl.engine.process import Worker

# Rendering takes milliseconds; on a machine that is busy, a second.
TEMPLATE_SECONDS = 30.0


class Backend:
    """One leased worker. Every method raises ApiError: the server's own refusal with its status, or
    WorkerError when the process ended."""

    def __init__(self, pool: Pool, worker: Worker) -> None:
        self.pool = pool
        self.worker = worker
        self.num_ctx = worker.spec.num_ctx

    async def apply_template(self, messages: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]) -> str:
        """The prompt as llama.cpp renders it (without a BOS that the tokenizer adds).

        A template comes with the model and can loop for ever, which nothing but the end of the process stops.
        """
        try:
            async with asyncio.timeout(TEMPLATE_SECONDS):
                answer = await self._post("/apply-template", {"messages": list(messages), **extra})
        except TimeoutError:
            await self.pool.abandon(self.worker)
            raise WorkerError(f"the model's chat template took more than {TEMPLATE_SECONDS:g} s") from None
        return str(answer["prompt"])

    async def tokenize(self, text: str) -> list[int]:
        """Token ids, special tokens of the text recognised, BOS and EOS as the model wants them."""
        body = {"content": text, "add_special": True, "parse_special": True}
        tokens: list[int] = (await self._post("/tokenize", body))["tokens"]
        return tokens

    async def embed(self, inputs: Sequence[str | list[int]]) -> tuple[NDArray[np.float32], int]:
        """Vectors [len(inputs), dimension], normalised as the server does, and the number of tokens."""
        body = {"input": list(inputs), "encoding_format": "base64"}
        answer = await self._post("/v1/embeddings", body)
        rows = sorted(answer["data"], key=lambda row: int(row["index"]))
        vectors = [np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in rows]
        return np.stack(vectors), int(answer["usage"]["prompt_tokens"])

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The events of a streamed completion; closing the generator frees the slot."""
        try:
            async with self.worker.http.stream("POST", path, json={**body, "stream": True}) as response:
                if response.status_code != 200:
                    raise _refusal(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    name, _, data = line.partition(": ")
                    if name == "error":
                        raise _refusal(500, data.encode())
                    if name != "data" or data == "[DONE]":
                        continue
                    event = json.loads(data)
                    if "error" in event:
                        raise _refusal(int(event["error"].get("code", 500)), data.encode())
                    yield event
        except httpx.HTTPError:
            raise await self.pool.report_crash(self.worker) from None

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            response = await self.worker.http.post(path, json=body)
        except httpx.HTTPError:
            raise await self.pool.report_crash(self.worker) from None
        if response.status_code != 200:
            raise _refusal(response.status_code, response.content)
        answer: dict[str, Any] = response.json()
        return answer


def _refusal(status: int, content: bytes) -> ApiError:
    """llama-server's error object is the text of Ollama's error (a 501 passes on only its message)."""
    text = content.decode("utf-8", errors="replace").strip()
    try:
        error = json.loads(text)["error"]
        message = str(error["message"])
    except (ValueError, KeyError, TypeError):
        return WorkerError(text)
    if status in (501, 500):
        return ApiError(status, message)
    return ApiError(status, json.dumps({"error": error}, ensure_ascii=False, separators=(",", ":")))
