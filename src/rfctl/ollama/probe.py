"""Ask a server whether it can load a model, without sending the model.

A GGUF with all key/values of the real file and a single tensor named `mm.probe` is created: that prefix makes
Ollama from 0.30 skip its rewrite. Loading it fails in any case, and the error says how far the server's
llama.cpp came: at a missing weight, everything before it (architecture, hyperparameters, tokenizer) is
supported (golden exchanges `probe-header-only`, Ollama v0.33.0-rc2).
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rfctl.core.error import RfctlError
from rfctl.core.gguf_header import GgufHeader, read_header
from rfctl.ollama.blob import Content, upload_blob
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.creation import create_model

_PROBE_TENSOR = b"mm.probe"
_PROBE_ELEMENTS = 32
_CAUSES = ("ollama.architecture-unknown", "ollama.pre-tokenizer-unknown", "ollama.gguf-incomplete")


class Support(enum.Enum):
    SUPPORTED = "supported"
    UNSUPPORTED = "unsupported"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Probe:
    """answer, and for UNSUPPORTED the error that says why."""

    answer: Support
    cause: RfctlError | None = None


def probe(client: OllamaClient, gguf: Path) -> Probe:
    """Probe the server with the header of `gguf`; nothing remains on the server.

    Raises GgufError, UnreachableError; an answer that says nothing is UNKNOWN.
    """
    data = make_probe(gguf)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    name = f"rfctl-probe-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="rfctl-probe-") as folder:
        path = Path(folder) / "probe.gguf"
        path.write_bytes(data)
        upload_blob(client, Content.of_file(path), digest)
    try:
        create_model(client, {"model": name, "files": {"probe.gguf": digest}})
        client.generate(name, "")
    except RfctlError as error:
        return _judge(error)
    finally:
        with contextlib.suppress(RfctlError):
            client.delete(name)
    return Probe(Support.UNKNOWN)


def make_probe(gguf: Path) -> bytes:
    """The bytes of a GGUF with the key/values of `gguf` and one tensor of 32 zeros. Raises GgufError."""
    header = read_header(gguf)
    with gguf.open("rb") as file:
        data = file.read(header.data_offset)
    end = _find_end_of_values(header, data, gguf)
    head = data[:8] + (1).to_bytes(8, "little") + data[16:end]
    head += len(_PROBE_TENSOR).to_bytes(8, "little") + _PROBE_TENSOR
    head += (1).to_bytes(4, "little") + _PROBE_ELEMENTS.to_bytes(8, "little")
    head += (0).to_bytes(4, "little") + (0).to_bytes(8, "little")  # F32, at the start of the data
    head += bytes(-len(head) % header.alignment)
    return head + bytes(4 * _PROBE_ELEMENTS)


def _judge(error: RfctlError) -> Probe:
    if error.id == "ollama.gguf-incomplete" and "tensor" in error.params:
        return Probe(Support.SUPPORTED)
    if error.id in _CAUSES:
        return Probe(Support.UNSUPPORTED, error)
    return Probe(Support.UNKNOWN)


def _find_end_of_values(header: GgufHeader, data: bytes, gguf: Path) -> int:
    """Where the key/values end: the tensor infos have a known length, the padding behind them has not."""
    size = sum(8 + len(t.name.encode()) + 4 + 8 * len(t.shape) + 4 + 8 for t in header.tensors)
    latest = header.data_offset - size
    if not header.tensors:
        return latest
    first = header.tensors[0]
    info = len(first.name.encode()).to_bytes(8, "little") + first.name.encode()
    info += len(first.shape).to_bytes(4, "little")
    info += b"".join(extent.to_bytes(8, "little") for extent in first.shape)
    earliest = max(0, latest - header.alignment + 1)
    at = data.find(info, earliest, latest + len(info))
    if at < 0:
        raise RfctlError("ollama.header-unusual", path=gguf)
    return at
