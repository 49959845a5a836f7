"""Seeded mutations of model and adapter directories against everything that reads them.

    python tests/converter/fuzz_source.py [--seed N] [--iterations N | --seconds S] [--keep DIR]

Every round damages one or two files of a small sound directory (JSON values, raw bytes, safetensors headers,
links, pipes) and runs the check, the plan of a conversion and the merge of an adapter on it. What counts as
sound is a report, a plan, or an RfctlError whose id has a text in both languages. Anything else is a find: an
exception of another kind, a round that takes longer than a few seconds, or one that reads far more than there
is. A find prints its seed and round; `--keep` copies the directory. Tests run a few rounds with a fixed seed
(tests/converter/test_fuzz.py).
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from made_model import Made, make_bert, make_llama, make_qwen, write_shard

from rfctl.converter.check import check
from rfctl.converter.convert import make_plan
from rfctl.converter.layout import lay_out
from rfctl.converter.pre_tokenizer import hash_pre_tokenizer
from rfctl.converter.pre_tokenizer_table import read_hashes
from rfctl.converter.source import open_source
from rfctl.converter.tokenizer import load_tokenizer
from rfctl.core.catalog import entries
from rfctl.core.error import RfctlError

MOST_SECONDS = 8.0
MOST_READ = 64 << 20
NUMBERS: list[Any] = [
    0,
    -1,
    1,
    2,
    7,
    1 << 15,
    1 << 31,
    1 << 32,
    1 << 53,
    1 << 63,
    1 << 64,
    10**30,
    -(1 << 63),
]
NUMBERS += [0.0, -0.5, 1e-30, 1e30, 1e308, float("nan"), float("inf"), float("-inf"), 3.0]
TEXTS = [
    "",
    " ",
    "x",
    "\0",
    "\ud800",
    "\u2581",
    "../../etc/passwd",
    "/etc/passwd",
    "a" * 5000,
    "{{ x }}",
    "F16",
    "BF16",
    "F64",
    "I64",
    "BOOL",
    "<0x00>",
    "model.safetensors",
    "1e5",
    "true",
    "LlamaForCausalLM",
    "%s{0}",
]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None] * 3, {"": None}, [0] * 500, {"type": "x"}]
DEEP = "@deep@"  # becomes nested lists and objects in the text, too many for a recursion of Python's own
RAW = [b"", b"\0", b"\xff\xfe", b"{", b"[" * 200_000, b'{"a":' * 100_000, b"null", b"[]", b"1" * 5000, b"NaN"]
RAW += [b'{"weight_map": {"a": "../x.safetensors"}}', b"\xef\xbb\xbf{}", b'{"a":1,"a":2}', b'"\\ud800"']


@dataclass
class Outcome:
    """Counts of what came out, and the finds as text."""

    counts: Counter[str] = field(default_factory=Counter)
    finds: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    started = time.monotonic()
    outcome = fuzz(
        options.seed, options.iterations or (0 if options.seconds else 500), options.seconds, options.keep
    )
    for id, count in outcome.counts.most_common():
        print(f"{count:7} {id}")
    rounds = sum(outcome.counts.values())
    print(f"{rounds} outcomes in {time.monotonic() - started:.0f} s, {len(outcome.finds)} finds")
    for find in outcome.finds:
        print("\n" + find)
    sys.exit(bool(outcome.finds))


def fuzz(seed: int, iterations: int, seconds: float = 0, keep: Path | None = None) -> Outcome:
    """Run `iterations` rounds, or as many as fit into `seconds`."""
    outcome = Outcome()
    end = time.monotonic() + seconds if seconds else None
    number = 0
    with tempfile.TemporaryDirectory(prefix="rfctl-fuzz-") as work, _known_hashes(Path(work)):
        while number < iterations or (end is not None and time.monotonic() < end):
            path = Path(work) / "Fuzzed-1B"
            run_round(seed, number, path, outcome)
            if keep is not None and outcome.finds and not (keep / str(number)).exists():
                with contextlib.suppress(shutil.Error, OSError):
                    shutil.copytree(path, keep / str(number), symlinks=True)
            shutil.rmtree(path, ignore_errors=True)
            number += 1
    return outcome


def run_round(seed: int, number: int, path: Path, outcome: Outcome) -> None:
    """One damaged directory at `path` (new), and everything that reads it."""
    chance = random.Random(f"{seed}/{number}")
    make_directory(chance, path)
    for name, work in _list_work(path):
        read, began = _count_read(), time.monotonic()
        try:
            outcome.counts[f"{name}: {work()}"] += 1
        except RfctlError as error:
            outcome.counts[f"{name}: {error.id}"] += 1
            if any(error.id not in entries(language) for language in ("en", "zh")):
                outcome.finds.append(f"seed {seed} round {number} {name}: no text for {error.id}")
            for language in ("en", "zh"):
                error.text(language).message.encode("utf-8", errors="replace")
        except Exception:  # every other exception is what is looked for
            trace = "".join(traceback.format_exc().splitlines(keepends=True)[-14:])
            outcome.finds.append(f"seed {seed} round {number} {name}:\n{trace}")
        took, got = time.monotonic() - began, _count_read() - read
        if took > MOST_SECONDS:
            outcome.finds.append(f"seed {seed} round {number} {name}: {took:.1f} s")
        if got > MOST_READ:
            outcome.finds.append(f"seed {seed} round {number} {name}: {got} bytes read")


def make_directory(chance: random.Random, path: Path) -> None:
    """A small directory with one or two faults."""
    made = chance.choice([make_llama, make_qwen, make_qwen, make_bert])()
    if chance.random() < 0.3:
        made.split("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    _enrich(chance, made)
    made.write(path)
    _write_adapter(path / "adapter", chance)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        target = chance.choice([*sorted(path.iterdir()), *sorted((path / "adapter").iterdir())])
        if target.is_file() and not target.is_symlink():
            _damage(chance, target)


def _enrich(chance: random.Random, made: Made) -> None:
    """Settings and files that only some models have, so that they get damaged too."""
    made.files["generation_config.json"] = {"temperature": 0.5, "top_k": 5, "eos_token_id": [1, 2]}
    made.files["README.md"] = "---\nlicense: mit\nbase_model: a/b\ntags: [a, b]\nlanguage: zh\n---\n# x\n"
    made.files["added_tokens.json"] = {"<a>": 3}
    made.files["special_tokens_map.json"] = {"pad_token": {"content": "</s>", "lstrip": False}}
    made.files["chat_template.jinja"] = "{% for m in messages %}{{ m.content }}{% endfor %}"
    if chance.random() < 0.3:
        made.files["modules.json"] = [
            {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
        ]
    made.config |= chance.choice([
        {},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                          "high_freq_factor": 4.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [8, 8], "bits": 4}},
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}},
        {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8},
        {"text_config": {"hidden_size": 64}, "num_experts": 4, "head_dim": 16},
    ])  # fmt: skip


def _write_adapter(folder: Path, chance: random.Random) -> None:
    folder.mkdir()
    config = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 4}, "alpha_pattern": {},
        "use_rslora": False, "modules_to_save": [], "base_model_name_or_path": "org/base",
        "target_modules": ["q_proj"],
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    stem = f"base_model.model.model.layers.{chance.choice([0, 1])}.self_attn.q_proj"
    tensors = {f"{stem}.lora_A.weight": ("F32", [4, 64]), f"{stem}.lora_B.weight": ("F32", [64, 4])}
    write_shard(folder / "adapter_model.safetensors", tensors)


def _damage(chance: random.Random, path: Path) -> None:
    roll = chance.random()
    if roll < 0.06:
        _replace(chance, path)
    elif path.suffix == ".safetensors":
        _damage_header(chance, path)
    elif path.suffix == ".json" and roll < 0.8:
        _damage_json(chance, path)
    elif roll < 0.9:
        _damage_bytes(chance, path)
    else:
        path.write_bytes(chance.choice(RAW))


def _replace(chance: random.Random, path: Path) -> None:
    """Something else in the place of a file."""
    path.unlink()
    kind = chance.randrange(7)
    if kind == 0:
        path.mkdir()
    elif kind == 1 and hasattr(os, "mkfifo"):
        os.mkfifo(path)
    elif kind > 1:
        target = ["/dev/zero", "/etc/passwd", path.name, "nowhere", "config.json"][kind - 2]
        with contextlib.suppress(OSError):
            path.symlink_to(target)


def _damage_bytes(chance: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes()) or bytearray(b" ")
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.randrange(len(data))
        kind = chance.randrange(5)
        if kind == 0:
            data[at] = chance.randrange(256)
        elif kind == 1:
            del data[at : at + chance.choice([1, 2, 50])]
        elif kind == 2:
            data[at:at] = chance.choice(RAW)[:100]
        elif kind == 3:
            data = data[: max(at, 1)]
        else:
            data[at:at] = data[at : at + chance.choice([1, 10, 1000])]
        data = data or bytearray(b" ")
    path.write_bytes(data)


def _damage_json(chance: random.Random, path: Path) -> None:
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    for _ in range(chance.choice([1, 1, 2, 4])):
        document = _mutate(chance, document)
    with contextlib.suppress(ValueError, RecursionError):
        text = _deepen(chance, json.dumps(document))
        if chance.random() < 0.1 and text.startswith("{"):
            text = '{"architectures": ["a"], "weight_map": {}, ' + text[1:]  # the same key twice
        path.write_text(text, "utf-8")


def _deepen(chance: random.Random, text: str) -> str:
    count = chance.choice([3, 60, 200, 900, 5000])
    left, right = chance.choice([("[", "]"), ('{"a":', "}")])
    return text.replace(f'"{DEEP}"', left * count + "1" + right * count)


def _damage_header(chance: random.Random, path: Path) -> None:
    """The length, the JSON, single entries or the size of a safetensors file."""
    data = path.read_bytes()
    if len(data) < 8:
        return
    (length,) = struct.unpack("<Q", data[:8])
    text, rest = data[8 : 8 + length], data[8 + length :]
    kind = chance.randrange(6)
    if kind == 0:
        number = chance.choice([0, 1, length - 1, length + 1, 1 << 32, (1 << 64) - 1, 100_000_001, len(data)])
        path.write_bytes(struct.pack("<Q", max(0, number)) + data[8:])
    elif kind == 1:
        path.write_bytes(data[: chance.randrange(len(data))])
    elif kind == 2:
        text = chance.choice(RAW)
        path.write_bytes(struct.pack("<Q", len(text)) + text + rest)
    else:
        try:
            document = json.loads(text)
            for _ in range(chance.choice([1, 1, 3])):
                document = _mutate_entry(chance, document) if kind < 5 else _mutate(chance, document)
            text = _deepen(chance, json.dumps(document)).encode()
        except (ValueError, RecursionError):
            return
        path.write_bytes(struct.pack("<Q", len(text)) + text + rest)


def _mutate_entry(chance: random.Random, document: Any) -> Any:
    if not isinstance(document, dict) or not document:
        return document
    name = chance.choice(list(document))
    entry = document[name]
    if not isinstance(entry, dict):
        return document
    kind = chance.randrange(5)
    if kind == 0:
        entry["dtype"] = chance.choice(["F16", "F32", "U8", "I64", "F64", "F8_E4M3", "x", None, 5])
    elif kind == 1:
        entry["shape"] = chance.choice(
            [[], [0], [64], [64, 0], [1 << 40, 1 << 40], [-1, 5], [2] * 9, [1.5], "x", [True]]
        )
    elif kind == 2:
        entry["data_offsets"] = chance.choice(
            [[0, 0], [8, 4], [0, 1 << 62], [-8, 8], [0], [0, 8, 16], None, [0, 1 << 80]]
        )
    elif kind == 3:
        document[chance.choice(TEXTS) + name] = document.pop(name)
    else:
        document[name + chance.choice([".absmax", ".weight_scale", ".lora_A.weight", ".SCB", ".qweight"])] = (
            entry
        )
    return document


def _mutate(chance: random.Random, document: Any) -> Any:
    """One value somewhere replaced, removed, doubled or renamed."""
    places = list(_list_places(document))
    if not places:
        return chance.choice(OTHERS)
    parent, key = chance.choice(places)
    kind = chance.random()
    if kind < 0.15:
        del parent[key]
    elif kind < 0.25 and isinstance(parent, dict):
        parent[chance.choice(TEXTS)] = parent.pop(key)
    elif kind < 0.35:
        parent[key] = DEEP
    elif kind < 0.5:
        other, name = chance.choice(places)
        with contextlib.suppress(KeyError, IndexError, RecursionError):
            parent[key] = copy.deepcopy(other[name])
    else:
        parent[key] = copy.deepcopy(chance.choice(chance.choice([NUMBERS, NUMBERS, TEXTS, OTHERS])))
    return document


def _list_places(document: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    items: Any = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = enumerate(document)
    for number, (key, value) in enumerate(list(items)):
        if number < 60 and depth < 8:  # vocabularies are long
            yield document, key
            yield from _list_places(value, depth + 1)


def _list_work(path: Path) -> list[tuple[str, Callable[[], str]]]:
    def plan(**options: Any) -> str:
        lay_out(make_plan(path, "q8_0", **options))
        return "plan"

    def look(folder: Path, **options: Any) -> str:
        report = check(folder, **options)
        for finding in report.findings:
            assert all(finding.id in entries(language) for language in ("en", "zh")), finding.id
            finding.text("zh")
        return "report"

    return [
        ("check", lambda: look(path)),
        ("plan", plan),
        ("check adapter", lambda: look(path, adapter=path / "adapter")),
        ("plan adapter", lambda: plan(adapter=path / "adapter")),
    ]


@contextlib.contextmanager
def _known_hashes(work: Path) -> Iterator[None]:
    """The made-up vocabularies are in the table of hashes, so that nothing stops early."""
    table = read_hashes()["hash"]
    before = dict(table)
    for make in (make_qwen, make_bert):
        folder = make().write(work / make.__name__)
        table[hash_pre_tokenizer(load_tokenizer(open_source(folder)))] = "qwen2"
    try:
        yield
    finally:
        table.clear()
        table.update(before)


def _count_read() -> int:
    """Bytes that this process has read; 0 where the kernel does not say."""
    try:
        return int(Path("/proc/self/io").read_text("ascii").split("rchar: ")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return 0


if __name__ == "__main__":
    main()
