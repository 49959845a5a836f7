"""Who takes an architecture: llama.cpp builds, Ollama releases, Ollama's own safetensors importer.

The tables are data (`data/support.json`, `data/architecture.json`, with sources and dates). A build whose
list has not been read is judged from its neighbours: what both the last list before and the first list after
it name is supported, what neither names is not, everything else is unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rfctl.converter.finding import Answer, Verdict

_DATA = Path(__file__).parent / "data"
REFERENCE_BUILD = "b11434"


@dataclass(frozen=True)
class Need:
    """What a model asks of an inference engine.

    architecture   `general.architecture`, e.g. "qwen2"; "" when it is not known
    pre_tokenizer  `tokenizer.ggml.pre` where the vocabulary makes the engine look at it (BPE), else ""
    """

    architecture: str
    pre_tokenizer: str = ""


@dataclass(frozen=True)
class _Known:
    architectures: frozenset[str]
    pre_tokenizers: frozenset[str]


def hf_architecture(name: str) -> str:
    """The llama.cpp architecture of the Hugging Face class `name`, or ""."""
    found: str = _architectures()["text"].get(name, "")
    return found


def hf_names() -> tuple[str, ...]:
    """Every Hugging Face class that llama.cpp's converter registers for text models."""
    return tuple(_architectures()["text"])


def is_projector_only(name: str) -> bool:
    """Whether llama.cpp knows the class only as the image or audio part of a model."""
    table = _architectures()
    return name in table["projector"] and name not in table["text"]


def judge_llamacpp(need: Need, build: str = REFERENCE_BUILD) -> Verdict:
    """Whether llama.cpp `build` ("b10488") loads the model."""
    match = re.fullmatch(r"b?(\d+)", build)
    builds = _builds()
    params = _params(need, build)
    if match is None or not need.architecture:
        return Verdict("llama.cpp", build, Answer.UNKNOWN, "", "support.unknown", params)
    answer, reason = _between(need, int(match[1]))
    since = next((f"b{number}" for number, known in builds if _judge(need, known) is Answer.SUPPORTED), "")
    return Verdict("llama.cpp", f"b{match[1]}", answer, since, reason, params)


def judge_ollama(need: Need, version: str | None = None) -> Verdict:
    """Whether Ollama `version` loads a GGUF of the model; without a version, the newest release of the
    table."""
    releases = [release for release in _support()["releases"] if release["last"]]
    wanted = version or releases[-1]["last"]
    params = _params(need, wanted)
    number = parse_version(wanted)
    first = parse_version(releases[0]["first"])
    if not need.architecture or number is None or first is None or number < first:
        return Verdict("ollama", wanted, Answer.UNKNOWN, "", "support.unknown", params)
    since = next((row["first"] for row in releases if _judge_release(need, row)[0] is Answer.SUPPORTED), "")
    for row in releases:
        begin, end = parse_version(row["first"]), parse_version(row["last"])
        if begin is not None and end is not None and begin <= number <= end:
            answer, reason = _judge_release(need, row)
            return Verdict("ollama", wanted, answer, since, reason, params | {"since": since})
    last = parse_version(releases[-1]["last"])
    if last is None or number < last:
        return Verdict("ollama", wanted, Answer.UNKNOWN, since, "support.unknown", params)
    # A later release than the table: names have not been dropped since 0.30, so what the newest lists of both
    # sides know is known; what they do not know may have been added.
    answer, _ = _judge_release(need, releases[-1])
    if answer is Answer.SUPPORTED and _judge(need, _builds()[-1][1]) is Answer.SUPPORTED:
        return Verdict("ollama", wanted, answer, since, "support.newer", params | {"since": since})
    return Verdict("ollama", wanted, Answer.UNKNOWN, since, "support.unknown", params)


def judge_importer(hf_name: str, version: str | None = None) -> Verdict:
    """Whether `ollama create` converts the safetensors of the Hugging Face class `hf_name` itself."""
    table = _support()["importer"]
    server: str = table["server"]
    wanted = version or server
    params = {"architecture": hf_name, "version": server}
    asked, read = parse_version(wanted), parse_version(server)
    is_listed = hf_name in table["classes"]
    if not hf_name or asked is None or read is None:
        return Verdict("ollama-importer", wanted, Answer.UNKNOWN, "", "support.unknown", params)
    if is_listed and asked >= read:
        return Verdict("ollama-importer", wanted, Answer.SUPPORTED, "", "support.importer-listed", params)
    if not is_listed and asked <= read:
        return Verdict("ollama-importer", wanted, Answer.UNSUPPORTED, "", "support.importer-absent", params)
    return Verdict("ollama-importer", wanted, Answer.UNKNOWN, "", "support.importer-unread", params)


def parse_version(text: str) -> tuple[int, int, int, int, int] | None:
    """A comparable release number; None for text that is none and for 0.0.0, which development builds
    report."""
    match = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)(?:-rc(\d+))?(?:\+.*)?", text.strip())
    if match is None:
        return None
    major, minor, patch = int(match[1]), int(match[2]), int(match[3])
    if (major, minor, patch) == (0, 0, 0):
        return None
    return major, minor, patch, 0 if match[4] else 1, int(match[4] or 0)


def _params(need: Need, version: str) -> dict[str, object]:
    return {"architecture": need.architecture, "pre": need.pre_tokenizer, "version": version}


def _judge_release(need: Need, row: Mapping[str, Any]) -> tuple[Answer, str]:
    known = _lists()[row["lists"]] if row["lists"] else None
    if need.architecture in row.get("engine_architectures", ()):
        # Ollama's own engine runs it; its pre-tokenizers have not been read, so llama.cpp's must do.
        if not need.pre_tokenizer or (known and need.pre_tokenizer in known.pre_tokenizers):
            return Answer.SUPPORTED, "support.listed"
        return Answer.UNKNOWN, "support.unknown"
    if known:
        return _with_reason(need, known)
    match = re.fullmatch(r"b(\d+)", row["llama_cpp"] or "")
    return _between(need, int(match[1])) if match else (Answer.UNKNOWN, "support.unknown")


def _between(need: Need, build: int) -> tuple[Answer, str]:
    builds = _builds()
    before = [known for number, known in builds if number <= build]
    after = [known for number, known in builds if number >= build]
    exact = [known for number, known in builds if number == build]
    if exact:
        return _with_reason(need, exact[0])
    if not before:
        return Answer.UNKNOWN, "support.unknown"
    if not after:
        answer = _judge(need, before[-1])
        if answer is Answer.SUPPORTED:
            return answer, "support.newer"
        return Answer.UNKNOWN, "support.unknown"
    answers = {_judge(need, before[-1]), _judge(need, after[0])}
    if len(answers) == 1:
        (answer,) = answers
        return answer, "support.neighbours" if answer is Answer.SUPPORTED else _with_reason(need, after[0])[1]
    return Answer.UNKNOWN, "support.unknown"


def _judge(need: Need, known: _Known) -> Answer:
    return _with_reason(need, known)[0]


def _with_reason(need: Need, known: _Known) -> tuple[Answer, str]:
    if need.architecture not in known.architectures:
        return Answer.UNSUPPORTED, "support.architecture-absent"
    if need.pre_tokenizer and need.pre_tokenizer not in known.pre_tokenizers:
        if not known.pre_tokenizers:
            return Answer.UNKNOWN, "support.unknown"
        return Answer.UNSUPPORTED, "support.pre-tokenizer-absent"
    return Answer.SUPPORTED, "support.listed"


@cache
def _lists() -> Mapping[str, _Known]:
    found: dict[str, _Known] = {}
    architectures: set[str] = set()
    pre_tokenizers: set[str] = set()
    for name, entry in _support()["lists"].items():
        for target, word in ((architectures, "architectures"), (pre_tokenizers, "pre_tokenizers")):
            target.update(entry.get(word, ()), entry.get(f"add_{word}", ()))
            target.difference_update(entry.get(f"drop_{word}", ()))
        found[name] = _Known(frozenset(architectures), frozenset(pre_tokenizers))
    return found


@cache
def _builds() -> list[tuple[int, _Known]]:
    """Builds of llama.cpp itself whose lists were read, oldest first."""
    return sorted(
        ((int(name[1:]), known) for name, known in _lists().items() if re.fullmatch(r"b\d+", name)),
        key=lambda pair: pair[0],
    )


@cache
def _support() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_DATA / "support.json").read_text("utf-8"))
    return found


@cache
def _architectures() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_DATA / "architecture.json").read_text("utf-8"))
    return found
