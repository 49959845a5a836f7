"""Where a file came from, as pairs in its own header: `general.source.*`.

A plain conversion writes none of them, so that its bytes stay those of llama.cpp's converter. Nothing here
depends on the clock or on paths: the same source and options give the same file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rfctl.converter.pair import text
from rfctl.converter.plan import KeyValue, Plan, merge_pairs
from rfctl.converter.source import list_shards
from rfctl.converter.support import REFERENCE_BUILD
from rfctl.core.file import sha256_file
from rfctl.core.progress import SILENT, Reporter
from rfctl.core.version import __version__

PREFIX = "general.source."
# Small files that decide what a converted model is: configuration, vocabulary, templates.
_TEXTS = frozenset({".json", ".model", ".txt", ".jinja", ".vocab", ".tiktoken"})
_THREADS = 4


@dataclass(frozen=True)
class Provenance:
    """source, adapter: hex sha256 by `hash_source` ("" for no adapter); options: as on the command line."""

    source: str
    adapter: str = ""
    options: str = ""
    converter: str = f"rfctl {__version__}"
    reference: str = f"llama.cpp {REFERENCE_BUILD}"

    @property
    def values(self) -> dict[str, str]:
        """GGUF key -> value, without what is empty."""
        found = {
            "sha256": self.source,
            "adapter.sha256": self.adapter,
            "converter": self.converter,
            "reference": self.reference,
            "options": self.options,
        }
        return {PREFIX + key: value for key, value in found.items() if value}

    @property
    def pairs(self) -> tuple[KeyValue, ...]:
        return tuple(text(key, value) for key, value in self.values.items())


def add_provenance(plan: Plan, provenance: Provenance) -> Plan:
    """The plan with the pairs behind all others."""
    return replace(plan, pairs=tuple(merge_pairs([*plan.pairs, *provenance.pairs])))


def list_source(folder: Path) -> list[Path]:
    """The files of a model or adapter directory that decide what it is, by name. Raises OSError,
    RfctlError."""
    texts = (path for path in folder.iterdir() if path.suffix in _TEXTS and not path.name.startswith("."))
    weights = (path for path in list_shards(folder) if path.is_file())
    adapters = (path for path in folder.glob("adapter_model*.safetensors"))
    card = (folder / "README.md",)  # general.* values are read from it
    chosen = {path.name: path for path in (*texts, *card, *weights, *adapters) if path.is_file()}
    return [chosen[name] for name in sorted(chosen, key=str.encode)]


def hash_source(
    folder: Path,
    *,
    recall: Callable[[Path], str] = lambda path: "",
    record: Callable[[Mapping[Path, str]], None] = lambda fresh: None,
    reporter: Reporter = SILENT,
) -> str:
    """Hex sha256 over the lines `<sha256>  <name>` of the files that decide what the model is, in byte order
    of the names: what `sha256sum FILES | sha256sum` prints for them.

    recall   gives the digest of a file that is known already, or ""
    record   is given the digests of all others
    Reads every other byte once, several files at the same time. Raises OSError, RfctlError.
    """
    files = list_source(folder)
    digests = {path: digest for path in files if (digest := recall(path))}
    unknown = [path for path in files if path not in digests]
    if unknown:
        total = sum(path.stat().st_size for path in unknown)
        with (
            reporter.stage("model.stage-hash-source", total=total, path=folder.name) as stage,
            ThreadPoolExecutor(_THREADS, thread_name_prefix="hash") as pool,
        ):
            fresh = pool.map(lambda path: sha256_file(path, stage.advance), unknown)
            found = dict(zip(unknown, fresh, strict=True))
        record(found)
        digests |= found
    lines = "".join(f"{digests[path]}  {path.name}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()
