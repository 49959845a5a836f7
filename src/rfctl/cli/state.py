"""`rfctl` alone and `rfctl --version`: what state things are in and what to type next."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from rfctl.cli.app import App
from rfctl.core.version import __version__

_PARTS = ("ollama", "ragflow-sdk", "gguf", "huggingface_hub", "xllamacpp", "pypdfium2", "tokenizers")
REFERENCE = {"llama.cpp": "b11434", "transformers": "4.57.6"}


def versions(cache: Path | None = None) -> dict[str, Any]:
    """rfctl's own version, the pinned converter reference, and the installed parts."""
    parts: dict[str, str | None] = {}
    for name in _PARTS:
        try:
            parts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            parts[name] = None
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "converter_reference": REFERENCE,
        "packages": parts,
        "kernels": kernels(cache),
    }


def kernels(cache: Path | None = None) -> dict[str, str]:
    """Which code quantizes each type here; what was compiled into `cache` counts, nothing is built."""
    from rfctl.converter.quantization.kernel import kernel_info, use_kernel

    use_kernel(cache=cache, build=False)
    return dict(kernel_info())


def print_version(app: App) -> None:
    if not app.out.is_human:
        app.out.report(versions(app.directories.cache))
        return
    app.out.line(f"rfctl {__version__}")


def print_state(app: App) -> None:
    from rfctl.engine import daemon

    endpoints = app.settings.endpoints()
    status = daemon.status(app.directories.engine)
    embedded = not endpoints.ollama_url or not endpoints.ragflow_url
    report = {
        "version": __version__,
        "profile": endpoints.name,
        "ollama_url": endpoints.ollama_url or None,
        "ragflow_url": endpoints.ragflow_url or None,
        "engine_running": status.running,
        "engine_url": status.url or None,
        "next": _next(status.running, embedded),
    }
    app.out.report(report)
    out = app.out
    out.line(f"rfctl {__version__}")
    engine = (
        out.text("state.engine-running", url=status.url) if status.running else out.text("state.engine-off")
    )
    for label, url in (("state.ollama", endpoints.ollama_url), ("state.ragflow", endpoints.ragflow_url)):
        out.line(f"  {out.text(label)}: {url or engine}")
    out.line()
    for command, id in _NEXT_STEPS if not (embedded and not status.running) else _FIRST_STEPS:
        out.line(f"  {command.ljust(44)} {out.text(id)}")


_FIRST_STEPS = (
    ("rfctl demo", "state.step-demo"),
    ("rfctl model check DIR", "state.step-check"),
    ("rfctl --help", "state.step-help"),
)
_NEXT_STEPS = (
    ("rfctl model push DIR NAME", "state.step-push"),
    ("rfctl kb upload manual.pdf", "state.step-upload"),
    ("rfctl chat ask QUESTION", "state.step-ask"),
    ("rfctl --help", "state.step-help"),
)


def _next(running: bool, embedded: bool) -> str:
    return "rfctl demo" if embedded and not running else "rfctl kb upload manual.pdf"
