"""A check of a hub repository: small files are fetched whole, of the weights the headers, of a large
tokenizer.json its two ends (`hub_tokenizer.py`)."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rfctl.converter.check import CheckReport, check
from rfctl.converter.hub_reader import HubReader, Listing
from rfctl.converter.hub_tokenizer import WHOLE_BYTES, complete_tokenizer, fetch_ends
from rfctl.converter.source import INDEX, HeadOnly, read_index
from rfctl.converter.tokenizer import FILE as TOKENIZER_FILE
from rfctl.core.error import RfctlError

# Bytes that are read of each file at most: what a family or the check looks at (`source.json`, `.text`).
_SMALL = {
    "config.json": 4 << 20,
    "generation_config.json": 1 << 20,
    "tokenizer_config.json": 8 << 20,
    "special_tokens_map.json": 1 << 20,
    "added_tokens.json": 8 << 20,
    "chat_template.jinja": 1 << 20,
    "chat_template.json": 1 << 20,
    "adapter_config.json": 1 << 20,
    "hf_quant_config.json": 1 << 20,
    "modules.json": 1 << 20,
    "1_Pooling/config.json": 1 << 20,
    "training_args.yaml": 1 << 20,
    "llamaboard_config.yaml": 1 << 20,
    INDEX: 32 << 20,
}
_VOCABULARIES = (TOKENIZER_FILE, "tokenizer.model", "sentencepiece.bpe.model")
_VOCABULARY_BYTES = 64 << 20
# Findings that may come from the vocabulary that stands in for the real one.
_DOUBTS = ("model.tokenizer-", "model.vocabulary-", "model.pre-tokenizer-")
_PLAIN = ("vocab.txt", "vocab.json", "merges.txt")
_FIRST = 1 << 16
# All headers together, and one: the largest models have some 100,000 tensors of about 120 bytes each.
_MOST_HEADERS, _MOST_HEADER = 256 << 20, 16 << 20
_MOST_SHARDS = 4000
_WORKERS = 8
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf")


@dataclass(frozen=True)
class HubModel:
    """A repository as far as a check reads it.

    path            folder with the small files and the headers
    commit          the commit that was read
    endpoint        the server
    sizes           bytes of every weight file, by name
    download_bytes  bytes of what a conversion would have to download; 0 where the server tells no sizes
    bytes_read      bytes of the answers
    requests        how many requests were made
    head            set where of tokenizer.json only the ends were read
    """

    repo: str
    revision: str
    commit: str
    endpoint: str
    path: Path = field(repr=False)
    sizes: Mapping[str, int] = field(repr=False)
    download_bytes: int
    bytes_read: int
    requests: int
    head: HeadOnly | None = None


def check_repository(reader: HubReader, folder: Path, **options: Any) -> tuple[HubModel, CheckReport]:
    """Check the repository of `reader` with what is fetched into `folder`; `options` are those of `check`.

    What is said against a tokenizer of which only the ends were read is believed of the whole file alone,
    which is read then. Raises as `fetch_model` and `check`.
    """
    model = fetch_model(reader, folder)

    def run() -> CheckReport:
        return check(
            model.path,
            sizes=model.sizes,
            head=model.head,
            download_bytes=model.download_bytes,
            label=f"{model.repo}@{model.commit[:12]}",
            **options,
        )

    report = run()
    if model.head is not None and any(finding.id.startswith(_DOUBTS) for finding in report.findings):
        complete_tokenizer(reader, model.path, _VOCABULARY_BYTES)
        model = replace(model, head=None, bytes_read=reader.bytes_read, requests=reader.requests)
        report = run()
    return model, report


def fetch_model(reader: HubReader, folder: Path) -> HubModel:
    """Fetch what a check of the repository of `reader` needs into a new folder under `folder`.

    Weight files get their header and nothing else; other weight files are there by name, empty.
    Raises RfctlError `hub.*`; a header that cannot be one is left to the check.
    """
    listing = reader.list_files()
    path = folder / reader.repo.id.rsplit("/", 1)[1]
    path.mkdir(parents=True)
    names = [name for name in listing.files if _NAME.fullmatch(name) or name in _SMALL]
    small = {name: limit for name, limit in _SMALL.items() if name in listing.files}
    small |= {name: _VOCABULARY_BYTES for name in _VOCABULARIES if name in listing.files}
    if not any(name in listing.files for name in _VOCABULARIES):
        small |= {name: _VOCABULARY_BYTES for name in _PLAIN if name in listing.files}
    with ThreadPoolExecutor(_WORKERS) as pool:

        def every[T](work: Callable[[str], T], items: list[str]) -> list[T]:
            futures = [pool.submit(work, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                raise

        whole = [name for name in small if name != TOKENIZER_FILE]
        head = pool.submit(_fetch_tokenizer, reader, listing, path) if TOKENIZER_FILE in small else None
        every(lambda name: _fetch_whole(reader, listing, path, name, small[name]), whole)
        ends = head.result() if head is not None else None
        shards = _choose_shards(path, names)
        for name in names:
            if name.endswith(_WEIGHTS) and name not in shards:
                (path / name).touch()
        if len(shards) > _MOST_SHARDS:
            raise RfctlError("hub.file-large", file=f"{len(shards)} *.safetensors", limit=_MOST_SHARDS)
        budget = min(_MOST_HEADER, _MOST_HEADERS // max(len(shards), 1))
        found = every(lambda name: _fetch_header(reader, listing, path, name, budget), shards)
    sizes = {name: size for name, size in zip(shards, found, strict=True) if size is not None}
    wanted = [*small, *shards]
    return HubModel(
        repo=reader.repo.id,
        revision=reader.repo.revision,
        commit=listing.commit,
        endpoint=reader.endpoint,
        path=path,
        sizes=sizes,
        download_bytes=sum(listing.files.get(name) or sizes.get(name) or 0 for name in wanted),
        bytes_read=reader.bytes_read,
        requests=reader.requests,
        head=ends,
    )


def _fetch_tokenizer(reader: HubReader, listing: Listing, path: Path) -> HeadOnly | None:
    """Fetch tokenizer.json, of a large one the ends if they are enough."""
    has_other = any(name in listing.files for name in _VOCABULARIES[1:])
    size = listing.files[TOKENIZER_FILE]
    if size is None or size <= WHOLE_BYTES:
        _fetch_whole(reader, listing, path, TOKENIZER_FILE, _VOCABULARY_BYTES)
        return None
    return fetch_ends(reader, path, size, limit=_VOCABULARY_BYTES, has_other=has_other)


def _choose_shards(path: Path, names: list[str]) -> list[str]:
    """Weight files that count: those of the index and those that converters look for."""
    try:
        index = read_index(path)
    except RfctlError:
        index = None  # told by the check
    named = set(index.values()) if index else set()
    return sorted(
        name
        for name in names
        if name in named or (name.startswith("model") and name.endswith(".safetensors"))
    )


def _fetch_whole(reader: HubReader, listing: Listing, path: Path, name: str, limit: int) -> None:
    size = listing.files[name]
    if size is not None and size > limit:
        raise RfctlError("hub.file-large", file=name, limit=limit)
    piece = reader.read(name, 0, limit + 1)
    if piece is None:
        return
    if len(piece.data) > limit:
        raise RfctlError("hub.file-large", file=name, limit=limit)
    target = path / name
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(piece.data)


def _fetch_header(reader: HubReader, listing: Listing, path: Path, name: str, limit: int) -> int | None:
    """The header of one weight file; returns the size of the whole file."""
    size = listing.files[name]
    end = _FIRST if size is None else min(_FIRST, size)
    piece = reader.read(name, 0, end) if end else None
    if piece is None:
        (path / name).touch()
        return size
    data, size = piece.data, size if size is not None else piece.total
    if len(data) >= 8:
        (length,) = struct.unpack("<Q", data[:8])
        whole = 8 + min(length, limit)
        if size is not None:
            whole = min(whole, size)
        if whole > len(data):
            rest = reader.read(name, len(data), whole)
            data += rest.data if rest is not None else b""
        data = data[:whole]
    (path / name).write_bytes(data)
    return size
