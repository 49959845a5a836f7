"""Files of one upload that have the same content under different names: both are kept, and that is said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rfctl.ragflow_client.document import hash_file
from rfctl.ragflow_client.report import UploadItem


def find_twins(items: Sequence[UploadItem]) -> tuple[tuple[str, ...], ...]:
    """Names of the documents with one content, a group each; only files of equal size are read.

    What failed is left out, and a file that is gone by now.
    """
    by_size: defaultdict[int, list[UploadItem]] = defaultdict(list)
    for item in items:
        if item.cause is None and item.size:
            by_size[item.size].append(item)
    found: list[tuple[str, ...]] = []
    for group in by_size.values():
        by_hash: defaultdict[str, list[str]] = defaultdict(list)
        for item in group if len(group) > 1 else ():
            try:
                by_hash[hash_file(item.path)].append(item.name)
            except OSError:
                continue
        found += [tuple(names) for names in by_hash.values() if len(names) > 1]
    return tuple(found)
