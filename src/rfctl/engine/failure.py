"""What a request to the Ollama API can fail with, in Ollama's words."""

from __future__ import annotations


class ApiError(Exception):
    """An answer with HTTP `status` and `{"error": text}`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class WorkerError(ApiError):
    """A model could not be loaded, or its process ended while it was needed (HTTP 500)."""

    def __init__(self, text: str) -> None:
        super().__init__(500, text)
