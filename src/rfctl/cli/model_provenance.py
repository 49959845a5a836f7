"""The provenance that `rfctl model convert --provenance` and `rfctl model push` write into a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rfctl.cli.app import App
from rfctl.cli.model_verify import LEDGER

if TYPE_CHECKING:
    from rfctl.converter.provenance import Provenance

_VARIANT = "source"
_NAMES = {
    "general.source.sha256": "source_sha256",
    "general.source.adapter.sha256": "adapter_sha256",
    "general.source.converter": "converter",
    "general.source.reference": "reference",
    "general.source.options": "options",
}


def name_values(pairs: Mapping[str, object]) -> dict[str, str]:
    """GGUF pairs of a file's origin under the names of the ledger; other pairs are left out."""
    return {name: str(pairs[key]) for key, name in _NAMES.items() if isinstance(pairs.get(key), str)}


def find_provenance(app: App, source: Path, adapter: Path | None, outtype: str) -> Provenance:
    """Hash the model directory and the adapter, or take their hashes from the ledger, which knows files by
    inode, size and time. Raises RfctlError."""
    from rfctl.converter.adapter import find_base
    from rfctl.converter.provenance import Provenance, hash_source
    from rfctl.core.error import RfctlError
    from rfctl.ollama.ledger import Ledger

    if adapter is None:
        source, adapter = find_base(source)
    ledger = Ledger(app.directories.data / LEDGER, app.reporter())

    def hash_folder(folder: Path) -> str:
        try:
            return hash_source(
                folder,
                recall=lambda path: ledger.find_digest(path, _VARIANT),
                record=lambda fresh: ledger.record_digests(fresh, _VARIANT),
                reporter=app.reporter(),
            )
        except OSError as error:
            detail = error.strerror or str(error)
            raise RfctlError("model.file-unreadable", file=error.filename or folder, what=detail) from error

    return Provenance(
        source=hash_folder(source),
        adapter=hash_folder(adapter) if adapter is not None else "",
        options=f"--outtype {outtype.lower()}",
    )
