"""The tokenizer files of a directory and whether they fit the configuration and the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfctl.converter.check_weight import from_error
from rfctl.converter.finding import Finding, Severity, shorten
from rfctl.converter.header import SourceTensor
from rfctl.converter.source import read_json, read_text
from rfctl.core.error import RfctlError

_CONFIG = "tokenizer_config.json"
_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "sentencepiece.bpe.model")
_FLOATS = ("F32", "F16", "BF16")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "lm_head.weight")


@dataclass(frozen=True)
class TokenizerFiles:
    """What the small files say.

    config    tokenizer_config.json, {} if there is none
    template  the chat template, "" when there is none
    bos       text of the beginning-of-sequence token, ""
    """

    config: Mapping[str, Any]
    template: str
    bos: str


def examine_tokenizer(path: Path) -> tuple[TokenizerFiles, list[Finding]]:
    """Tokenizer files of the model directory `path`, without loading the tokenizer."""
    findings: list[Finding] = []
    config: Any = {}
    try:
        config = read_json(path / _CONFIG, 1 << 26)
    except RfctlError as error:
        findings.append(from_error(error))
    config = config if isinstance(config, dict) else {}
    if not any((path / name).is_file() for name in _FILES):
        wanted = ", ".join(_FILES[:2])
        findings.append(Finding("model.tokenizer-missing", Severity.ERROR, {"files": wanted, "path": path}))
    findings += _find_code(path, config)
    if isinstance(config.get("extra_special_tokens"), list):
        findings.append(Finding("model.extra-special-tokens", Severity.ERROR, {"file": _CONFIG}))
    template, failed = read_template(path, config)
    bos = config.get("bos_token")
    bos = bos.get("content") if isinstance(bos, dict) else bos
    return TokenizerFiles(config, template, bos if isinstance(bos, str) else ""), [*findings, *failed]


def guess_kind(path: Path) -> tuple[str, int]:
    """Kind of the tokenizer ("BPE", "WordPiece", "Unigram", "SentencePiece" or "") and its largest token id,
    or -1."""
    try:
        tokenizer = read_json(path / "tokenizer.json")
    except RfctlError:
        return "", -1  # the fault itself is found when the vocabulary is read
    if not isinstance(tokenizer, dict):
        return ("SentencePiece" if (path / "tokenizer.model").is_file() else ""), -1
    model = tokenizer.get("model")
    model = model if isinstance(model, dict) else {}
    kind = str(model.get("type") or ("BPE" if "merges" in model else ""))[:20]
    return kind, _largest_id(tokenizer, model)


def read_template(path: Path, config: Mapping[str, Any]) -> tuple[str, list[Finding]]:
    """The chat template: tokenizer_config.json, then chat_template.jinja, then chat_template.json.

    The order is that of `gguf/vocab.py` (SpecialVocab) in llama.cpp b11434; of several named templates
    "default" wins.
    """
    found = config.get("chat_template")
    findings: list[Finding] = []
    if not found:
        try:
            found = read_text(path / "chat_template.jinja", 1 << 24)
            if not found:
                other = read_json(path / "chat_template.json", 1 << 24)
                found = other.get("chat_template") if isinstance(other, dict) else None
        except RfctlError as error:
            findings.append(from_error(error))
    if isinstance(found, list):
        named = [entry for entry in found if isinstance(entry, dict)]
        default = [entry for entry in named if entry.get("name") == "default"]
        found = (default or named or [{}])[0].get("template")
    return (found if isinstance(found, str) else ""), findings


def compare_rows(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, SourceTensor], *, cuts_rows: bool = False
) -> list[Finding]:
    """Rows of the embedding and of the output of the model at `path` against `vocab_size`; more rows are no
    fault where the converter cuts them off.

    llama.cpp gives a vocabulary `vocab_size` entries and wants as many rows when it loads the file
    (check_tensor_dims in src/llama-model-loader.cpp, b11434).
    """
    size = config.get("vocab_size")
    if not isinstance(size, int) or isinstance(size, bool):
        return []
    wrong: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        is_embedding = name.endswith(_EMBEDDINGS) and len(tensor.shape) == 2 and tensor.dtype in _FLOATS
        if is_embedding and tensor.shape[0] != size and not (cuts_rows and tensor.shape[0] > size):
            wrong.setdefault(tensor.shape[0], []).append(name)
    return [
        Finding(
            "model.vocabulary-rows",
            Severity.ERROR,
            {"tensor": shorten(names), "rows": rows, "tokens": size, "path": path},
        )
        for rows, names in wrong.items()
    ]


def _find_code(path: Path, config: Mapping[str, Any]) -> list[Finding]:
    """Tokenizer code that a model brings along and that no tokenizer.json makes superfluous."""
    classes = config.get("auto_map")
    classes = classes.get("AutoTokenizer") if isinstance(classes, dict) else None
    classes = classes if isinstance(classes, list) else [classes]
    # "module.Class", or "owner/name--module.Class" where the code stays in another repository.
    parts = [name.rpartition("--")[2].rpartition(".")[0] for name in classes if isinstance(name, str)]
    names = [f"{part[:80]}.py" for part in parts if part]
    if not names or (path / _FILES[0]).is_file() or not (path / _FILES[1]).is_file():
        return []
    params = {"code": shorten(names[:1]), "file": _FILES[1]}
    return [Finding("model.tokenizer-code", Severity.INFO, params)]


def _largest_id(tokenizer: Mapping[str, Any], model: Mapping[str, Any]) -> int:
    vocabulary = model.get("vocab")
    largest = -1
    if isinstance(vocabulary, dict):
        largest = max((id for id in vocabulary.values() if isinstance(id, int)), default=-1)
    elif isinstance(vocabulary, list):
        largest = len(vocabulary) - 1
    added = tokenizer.get("added_tokens")
    for entry in added if isinstance(added, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("id"), int):
            largest = max(largest, entry["id"])
    return largest
