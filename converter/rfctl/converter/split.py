"""A file in several pieces, as llama.cpp's converter cuts it: names, keys and what goes where.

Rules: `gguf-py/gguf/gguf_writer.py` (add_tensor_info, add_shard_kv_data, SHARD_NAME_FORMAT) and
`convert_hf_to_gguf.py` (split_str_to_n_bytes), llama.cpp b11434. Only the first piece holds the model's
pairs; llama.cpp is given that one and finds the others by their names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from rfctl.converter.pair import sint
from rfctl.converter.plan import KeyValue, Plan, TensorPlan, ValueType
from rfctl.converter.quantization.type import tensor_type
from rfctl.core.error import UsageError

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3}
_SIZE = re.compile(r"([0-9]{1,15})([KMG]?)", re.IGNORECASE)
_MAX_PIECES = 0xFFFF  # split.count has 16 bits
_NAME = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")


@dataclass(frozen=True)
class SplitRule:
    """When a new piece begins; 0: no such limit.

    max_bytes    tensor data of one piece (a larger tensor has a piece to itself)
    max_tensors  tensors of one piece
    """

    max_bytes: int = 0
    max_tensors: int = 0

    def __bool__(self) -> bool:
        return bool(self.max_bytes or self.max_tensors)


WHOLE = SplitRule()


def parse_size(text: str) -> int:
    """ "500M" or "2G" in bytes; units are powers of 1000. Raises UsageError `model.split-size`."""
    found = _SIZE.fullmatch(text.strip())
    size = int(found[1]) * _UNITS[found[2].upper()] if found else 0
    if size <= 0:
        raise UsageError("model.split-size", text=text)
    return size


def split_plan(plan: Plan, rule: SplitRule) -> tuple[Plan, ...]:
    """The plans of the pieces of `plan`; the plan itself when one piece is enough.

    Raises UsageError `model.split-count` when there would be more pieces than the format can number.
    """
    pieces: list[list[TensorPlan]] = [[]]
    held = 0
    for tensor in plan.tensors:
        size = tensor_type(tensor.type).row_bytes(tensor.columns) * tensor.rows
        is_full = rule.max_tensors and len(pieces[-1]) >= rule.max_tensors
        if pieces[-1] and (is_full or (rule.max_bytes and held + size > rule.max_bytes)):
            pieces.append([])
            held = 0
        pieces[-1].append(tensor)
        held += size
    if len(pieces) == 1:
        return (plan,)
    if len(pieces) > _MAX_PIECES:
        raise UsageError("model.split-count", count=len(pieces), limit=_MAX_PIECES)
    return tuple(
        replace(
            plan,
            tensors=tuple(tensors),
            pairs=(
                *(plan.pairs if number == 0 else ()),
                KeyValue("split.no", ValueType.UINT16, number),
                KeyValue("split.count", ValueType.UINT16, len(pieces)),
                sint("split.tensors.count", len(plan.tensors)),
            ),
        )
        for number, tensors in enumerate(pieces)
    )


def name_pieces(target: Path, count: int) -> tuple[Path, ...]:
    """`model.gguf` in three pieces: `model-00001-of-00003.gguf` and so on; `target` itself for one."""
    if count == 1:
        return (target,)
    return tuple(
        target.with_name(f"{target.stem}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)
    )


def find_siblings(path: Path, count: int) -> tuple[Path, ...] | None:
    """All pieces of the set that `path` names itself a piece of, None when its name is no such name."""
    found = _NAME.fullmatch(path.name)
    if found is None or int(found["count"]) != count:
        return None
    return name_pieces(path.with_name(found["stem"] + ".gguf"), count)
