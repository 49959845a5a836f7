"""`rfctl model show FILE`: what the header of a GGUF file says, without a server."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rfctl.cli.app import App
from rfctl.cli.model_provenance import name_values
from rfctl.cli.output import human_bytes
from rfctl.core.catalog import quote_path
from rfctl.core.gguf_header import GgufArray, GgufHeader, read_header

# Longer arrays are vocabularies: their length says enough.
_ITEMS = 16
_TEMPLATE_WIDTH = 60


def show_file(app: App, path: Path) -> None:
    """Print the model, its types and its template; with --json every key. Raises GgufError, OSError."""
    header = read_header(path, array_limit=_ITEMS)
    types = Counter(tensor.type_name for tensor in header.tensors)
    template = header.string("tokenizer.chat_template")
    context = header.integer(f"{header.architecture}.context_length")
    dimensions = header.integer(f"{header.architecture}.embedding_length")
    tokenizer = [header.string(f"tokenizer.ggml.{name}") for name in ("model", "pre")]
    app.out.report(
        {
            "path": path,
            "size": header.file_size,
            "architecture": header.architecture,
            "parameter_count": header.parameter_count,
            "types": types,
            "context_length": context,
            "embedding_length": dimensions,
            "template": template,
            "provenance": name_values(header.values),
            "keys": _plain(header),
            "tensor_count": len(header.tensors),
        }
    )
    line = " ".join(template.split())
    rows = [
        ("ollama.column-architecture", header.architecture or "-"),
        ("ollama.column-parameters", f"{header.parameter_count:,}"),
        ("ollama.column-quantization", ", ".join(f"{count} {name}" for name, count in types.most_common())),
        ("ollama.column-size", human_bytes(header.file_size)),
        ("ollama.column-context", context or "-"),
        ("ollama.column-dimensions", dimensions or "-"),
        ("check.tokenizer", ", ".join(filter(None, tokenizer)) or "-"),
        ("ollama.column-template", line[:_TEMPLATE_WIDTH] + "…" * (len(line) > _TEMPLATE_WIDTH) or "-"),
    ]
    title = header.string("general.name") or "-"
    app.out.table(
        [app.out.text("ollama.column-name"), title], [(app.out.text(id), text) for id, text in rows]
    )
    app.out.note("ollama.show-file-next", path=quote_path(path))


def _plain(header: GgufHeader) -> dict[str, object]:
    return {
        key: (value.values if value.values is not None else {"type": value.item_type, "length": value.length})
        if isinstance(value, GgufArray)
        else value
        for key, value in header.values.items()
    }
