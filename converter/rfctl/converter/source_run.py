"""What a training run leaves in the place of a model: folders of checkpoints, weights in parts of the
processes that trained them.

Layouts: LLaMA-Factory 0.9 (`saves/MODEL/METHOD/RUN/checkpoint-N`), DeepSpeed ZeRO and FSDP checkpoints
(`data/distributed.toml`). Names are looked at, nothing is opened.
"""

from __future__ import annotations

import os
import re
import tomllib
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from rfctl.core.catalog import quote_path
from rfctl.core.error import RfctlError

_DATA = Path(__file__).parent / "data" / "distributed.toml"
_CONFIGS = ("config.json", "adapter_config.json")
_DEPTH, _MOST_ENTRIES = 4, 20_000
_NUMBER = re.compile(r"(\d{1,12})$")


def find_models(path: Path) -> list[str]:
    """Folders below `path` that hold a model or an adapter, relative to it: the nearest first, of one depth
    the one with the highest number first (the last checkpoint)."""
    found: list[tuple[int, int, str]] = []
    level, left = [path], _MOST_ENTRIES
    for depth in range(1, _DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            folders, left = _list_folders(folder, left)
            below += folders
        for folder in below:
            if _is_model(folder):
                number = _NUMBER.search(folder.name)
                found.append((depth, -int(number[1]) if number else 0, folder.relative_to(path).as_posix()))
        level = below
    return [name for _, _, name in sorted(found)]


def _list_folders(path: Path, left: int) -> tuple[list[Path], int]:
    """Folders in `path` that are no links, and how many of `left` entries may still be looked at."""
    names = []
    try:
        with os.scandir(path) as entries:
            for entry in islice(entries, left):
                left -= 1
                if entry.is_dir(follow_symlinks=False):
                    names.append(entry.name)
    except OSError:
        pass  # not ours to read: what is in it is not offered
    return [path / name for name in sorted(names)], left


def refuse_folder(path: Path, names: list[str]) -> RfctlError:
    """The error `model.inside` for a folder with the models `names` in it."""
    others = ", ".join(names[1:4]) + (f" (+{len(names) - 4})" if len(names) > 4 else "")
    return RfctlError("model.inside", path=path, nearest=path / names[0], others=others or "-")


def find_parts(path: Path) -> RfctlError | None:
    """The error `model.weights-distributed` where the weights lie in parts of processes, None elsewhere."""
    for entry in _read_table():
        if next(path.glob(entry["marker"]), None) is not None:
            command = entry["command"].replace("{path}", quote_path(path))
            return RfctlError(
                "model.weights-distributed", path=path, framework=entry["framework"], command=command
            )
    return None


def _is_model(folder: Path) -> bool:
    try:
        return any((folder / name).is_file() for name in _CONFIGS)
    except OSError:
        return False


@cache
def _read_table() -> list[dict[str, Any]]:
    with _DATA.open("rb") as file:
        table: list[dict[str, Any]] = tomllib.load(file)["part"]
    return table
