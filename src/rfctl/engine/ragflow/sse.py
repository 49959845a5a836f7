"""Server-sent events as RAGFlow writes them: `data:` without a blank, one empty line between frames."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

# RAGFlow sends this value twice in one header, which no client needs.
MEDIA_TYPE = "text/event-stream"


def frame(value: Any) -> bytes:
    """One event with a JSON value."""
    return b"data:" + json.dumps(value, ensure_ascii=False).encode(errors="replace") + b"\n\n"


def respond(frames: AsyncIterator[bytes]) -> StreamingResponse:
    """The response that sends the frames as they come."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(frames, media_type=MEDIA_TYPE, headers=headers)
