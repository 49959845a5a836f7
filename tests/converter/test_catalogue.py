"""Every case of the catalogue: a directory that has it, found by its id, and one that has not."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_model import Made, added, make_bert, make_llama, make_qwen, write_shard

import rfctl.converter
from rfctl.cli.main import execute
from rfctl.converter.check import CheckReport, check
from rfctl.converter.convert import convert
from rfctl.converter.pre_tokenizer import hash_pre_tokenizer
from rfctl.converter.pre_tokenizer_table import read_hashes
from rfctl.converter.source import open_source
from rfctl.converter.tokenizer import load_tokenizer
from rfctl.core.catalog import entries
from rfctl.core.error import RfctlError

DATA = Path(next(iter(rfctl.converter.__path__))) / "data"
CASES: list[dict[str, Any]] = tomllib.loads((DATA / "case.toml").read_text("utf-8"))["case"]
BY_NUMBER = {case["number"]: case for case in CASES}
IDS = sorted({id for case in CASES for id in case["finding"]})
LAYER = "model.layers.0.mlp.down_proj"
ADAPTER = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}

Change = Callable[[Made], object]


def change(make: Callable[[], Made], *steps: Change) -> Made:
    made = make()
    for step in steps:
        step(made)
    return made


def config(**values: Any) -> Change:
    return lambda made: made.config.update(values)


def files(**values: Any) -> Change:
    """Files by name, with `__` for the dot; None removes."""

    def apply(made: Made) -> None:
        for name, content in values.items():
            name = name.replace("__", ".")
            if content is None:
                del made.files[name]
            else:
                made.files[name] = content

    return apply


def settings(**values: Any) -> Change:
    return lambda made: made.files["tokenizer_config.json"].update(values)


def tensors(**values: Any) -> Change:
    """Tensors by the name behind the first layer's down_proj."""
    return lambda made: made.tensors.update(
        {f"{LAYER}.{name.replace('__', '.')}": v for name, v in values.items()}
    )


def rows(count: int) -> Change:
    return lambda made: made.tensors.update({"model.embed_tokens.weight": ("BF16", [count, 64])})


def rename(pattern: str, by: str) -> Change:
    def apply(made: Made) -> None:
        made.tensors = {re.sub(pattern, by, name): value for name, value in made.tensors.items()}

    return apply


def tokenizer(apply: Callable[[dict[str, Any]], object]) -> Change:
    return lambda made: apply(made.files["tokenizer.json"])


def split(*names: str) -> Change:
    return lambda made: made.split(*names)


def put(name: str, value: tuple[str, list[int]]) -> Change:
    return lambda made: made.tensors.update({name: value})


def punctuate(document: dict[str, Any]) -> None:
    document["pre_tokenizer"] = {"type": "Punctuation", "behavior": "Isolated"}


def other_vocabulary(document: dict[str, Any]) -> None:
    document["model"]["merges"] = ["t h", "3 3"]
    document["model"]["vocab"]["33"] = 257
    for entry in document["added_tokens"]:
        entry["id"] += 1


def unigram(document: dict[str, Any]) -> None:
    document["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"}
    words = ["<s>", "<pad>", "</s>", "<unk>", *(f"\u2581w{number}" for number in range(36))]
    document["model"] = {
        "type": "Unigram",
        "unk_id": 3,
        "vocab": [[word, -float(id)] for id, word in enumerate(words)],
    }
    document["added_tokens"] = [added(id, word) for id, word in enumerate(words[:4])]
    document["normalizer"] = document["decoder"] = None


def adapter_only(base: str) -> Change:
    def apply(made: Made) -> None:
        made.config, made.tensors, made.files = {}, {}, {}
        made.files["adapter_config.json"] = ADAPTER | {"base_model_name_or_path": base}

    return apply


def add_token(id: int) -> Change:
    return tokenizer(lambda document: document["added_tokens"].append(added(id, "<tool>", special=False)))


def remove(path: Path, name: str) -> None:
    (path / name).unlink()


def cut(path: Path) -> None:
    file = path / "model.safetensors"
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 100)


def stray(path: Path, name: str) -> None:
    write_shard(path / name, {"model.norm.weight": ("BF16", [64])})


TWO = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
ODD = ("model.safetensors-00001-of-00002.safetensors", "model.safetensors-00002-of-00002.safetensors")
BYTES = {name.replace(".", "__"): content for name, content in make_qwen().files.items()}
TOOL = {"added_tokens__json": {"<tool>": 260}}
NO_HEAD = config(tie_word_embeddings=False)
HEAD = put("lm_head.weight", ("BF16", [260, 64]))
# A family whose reader does not complete such names by itself.
GEMMA = config(architectures=["GemmaForCausalLM"], model_type="gemma", head_dim=16)
NAN, HUGE = float("nan"), 1e6
BOS = "{{ bos_token }}{{ messages[0].content }}"
# number -> (directories that have the case, a directory that has not); a third value is
# done to the first ones after they were written, a fourth to the last.
FIXTURES: dict[int, tuple[Any, ...]] = {
    1: ([change(make_qwen, tokenizer(punctuate))], make_qwen()),
    2: ([change(make_qwen, tokenizer(other_vocabulary), config(vocab_size=261), rows(261))], make_qwen()),
    3: ([change(make_bert, tokenizer(unigram))], make_bert()),
    4: (
        [change(make_qwen, settings(extra_special_tokens=["<a>"]))],
        change(make_qwen, settings(extra_special_tokens={"a": "<a>"})),
    ),
    5: (
        [change(make_qwen, files(tokenizer__json=None, vocab__json={"a": 0}, merges__txt="#version"))],
        change(make_qwen, files(vocab__json={"a": 0}, merges__txt="#version")),
    ),
    6: (
        [change(make_llama, files(tokenizer__model=None))],
        change(make_llama, files(tokenizer__model=None, **BYTES), config(vocab_size=260), rows(260)),
    ),
    7: ([change(make_qwen, rows(259))], make_qwen()),
    8: (
        [change(make_qwen, rows(254), config(vocab_size=254))],
        change(make_qwen, rows(320), config(vocab_size=320)),
    ),
    9: (
        [change(make_llama, files(added_tokens__json={"<pad>": 40}), config(vocab_size=41))],
        change(make_llama, files(added_tokens__json={"<pad>": 40}), config(vocab_size=41), rows(41)),
    ),
    10: (
        [change(make_qwen, files(**TOOL), config(vocab_size=261), rows(261))],
        change(make_qwen, files(**TOOL), config(vocab_size=261), rows(261), add_token(260)),
    ),
    11: (
        [change(make_qwen, tensors(weight=("U8", [3072, 1]), weight__absmax=("F32", [96])))],
        change(make_qwen, put("model.layers.0.mlp.down_proj.weight", ("F16", [64, 96]))),
    ),
    12: ([change(make_qwen, tensors(weight=("I8", [64, 96]), SCB=("F32", [64])))], make_qwen()),
    13: ([change(make_qwen, tensors(weight_scale=("F32", [1])))], make_qwen()),
    14: (
        [change(make_qwen, tensors(qweight=("I32", [9, 64]), qzeros=("I32", [1, 6]), g_idx=("I32", [96])),
                config(quantization_config={"quant_method": "gptq", "bits": 3}))],
        make_qwen(),
    ),
    15: (
        [change(make_qwen, adapter_only("org/base"))],
        change(make_qwen, files(adapter_config__json=ADAPTER)),
    ),
    16: ([change(make_qwen, put(f"{LAYER}.lora_A.default.weight", ("BF16", [4, 96])))], make_qwen()),
    17: (
        [change(make_qwen, adapter_only("unsloth/base-bnb-4bit"))],
        change(make_qwen, adapter_only("org/base")),
    ),
    18: (
        [change(make_qwen, put("v_head.summary.weight", ("BF16", [1, 64])), split(*ODD))],
        change(make_qwen, split(*ODD)),
    ),
    19: ([change(make_llama, GEMMA, rename("^model\\.", ""))], change(make_llama, GEMMA)),
    20: ([change(make_qwen, config(architectures=["Qwen2_5_VLModel"]))], make_qwen()),
    21: (
        [change(make_qwen, split(*TWO))], change(make_qwen, split(*TWO)), lambda path: remove(path, TWO[1]),
    ),
    22: ([make_qwen()], make_qwen(), cut),
    23: (
        [change(make_qwen, split(*TWO))], change(make_qwen, split(*TWO)),
        lambda path: stray(path, "model.safetensors"),
        lambda path: stray(path, "consolidated.safetensors"),
    ),
    24: ([change(make_llama, config(architectures=["MistralForCausalLM"]))], make_llama()),
    25: ([change(make_qwen, tokenizer(lambda d: d["model"].update(merges=[["t", "h"]])))], make_qwen()),
    26: (
        [change(make_qwen, files(training_args__yaml="lora_rank: 8\ntemplate: llama3\n")),
         change(make_qwen, settings(chat_template=None))],
        change(make_qwen, files(training_args__yaml="template: qwen\n")),
    ),
    27: (
        [change(make_llama, settings(chat_template=BOS, add_bos_token=True))],
        change(make_llama, settings(chat_template=BOS, add_bos_token=False)),
    ),
    28: ([change(make_qwen, lambda made: made.values.update({f"{LAYER}.weight": NAN}))], make_qwen()),
    29: ([change(make_qwen, lambda made: made.values.update({f"{LAYER}.weight": HUGE}))], make_qwen()),
    30: (
        [change(make_qwen, config(quantization_config=value)) for value in (
            {"quant_method": "awq", "bits": 4}, {"load_in_4bit": True}, {"quant_method": "eetq"})],
        change(make_qwen, config(quantization_config=None)),
    ),
    31: (
        [change(make_qwen, config(mtp_num_hidden_layers=1))],
        change(make_qwen, config(mtp_num_hidden_layers=0)),
    ),
    32: (
        [change(make_qwen, HEAD), change(make_qwen, NO_HEAD)],
        change(make_qwen, HEAD, NO_HEAD),
    ),
}  # fmt: skip
# Sound but for other reasons: an adapter without its base is never convertible.
NOT_SOUND = {17}


@pytest.fixture(scope="module", autouse=True)
def known_hash(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The made-up byte-level vocabularies are in the table of hashes, so that nothing stops early."""
    table = read_hashes()["hash"]
    before = dict(table)
    for number, made in enumerate([make_qwen(), FIXTURES[10][1], make_bert()]):
        folder = made.write(tmp_path_factory.mktemp("hash") / str(number))
        table[hash_pre_tokenizer(load_tokenizer(open_source(folder)))] = "qwen2"
    yield
    table.clear()
    table.update(before)


def write(number: int, tmp_path: Path) -> tuple[list[Path], Path]:
    bad, good, *steps = FIXTURES[number]
    paths = [made.write(tmp_path / f"bad-{count}") for count, made in enumerate(bad)]
    sound = good.write(tmp_path / "good")
    for step, targets in zip(steps, (paths, [sound]), strict=False):
        for path in targets:
            step(path)
    return paths, sound


class Notes:
    """The reporter of a conversion that keeps what it was told."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **params: self

    def warn(self, id: str, /, **params: object) -> None:
        self.ids.append(id)

    note = warn

    def __enter__(self) -> Notes:
        return self

    def __exit__(self, *error: object) -> None: ...


def convert_ids(path: Path) -> list[str]:
    notes = Notes()
    try:
        convert(path, path / "out.gguf", outtype="f16", reporter=notes)  # type: ignore[arg-type]
    except RfctlError as error:
        return [*notes.ids, error.id]
    return notes.ids


def test_the_catalogue_is_whole_and_every_case_has_fixtures() -> None:
    assert [case["number"] for case in CASES] == list(range(1, 33)) == sorted(FIXTURES)
    for case in CASES:
        assert case["stage"] in ("check", "convert")
        assert case["finding"] and set(case["finding"].values()) <= {"error", "warn", "info"}


@pytest.mark.parametrize("id", IDS)
def test_every_finding_has_text_and_a_way_out_in_both_languages(id: str) -> None:
    for language in ("en", "zh"):
        entry = entries(language)[id]
        assert entry["message"] and entry.get("next"), id


@pytest.mark.parametrize("number", [n for n, case in BY_NUMBER.items() if case["stage"] == "check"])
def test_a_case_is_found_by_its_id_and_only_where_it_is(number: int, tmp_path: Path) -> None:
    expected: dict[str, str] = BY_NUMBER[number]["finding"]
    paths, sound = write(number, tmp_path)
    found: dict[str, str] = {}
    for path in paths:
        report = check(path)
        found |= {finding.id: finding.severity.value for finding in report.findings}
        assert report.will_work is not any(f.severity == "error" for f in report.findings)
        for finding in report.findings:
            for language in ("en", "zh"):
                text = finding.text(language)
                assert not re.search(r"\{\w", text.message + text.why + text.next), text
    assert expected.items() <= found.items(), found
    report = check(sound)
    assert not set(expected) & {finding.id for finding in report.findings}
    assert report.will_work is (number not in NOT_SOUND), explain(report)


@pytest.mark.parametrize("number", [n for n, case in BY_NUMBER.items() if case["stage"] == "convert"])
def test_a_fault_in_the_values_is_found_while_converting(number: int, tmp_path: Path) -> None:
    expected = set(BY_NUMBER[number]["finding"])
    paths, sound = write(number, tmp_path)
    for path in paths:
        # The headers are sound, and the check says what it did not look at.
        assert "model.data-unread" in {finding.id for finding in check(path).findings}
        assert expected <= set(convert_ids(path))
    assert not expected & set(convert_ids(sound))


@pytest.mark.parametrize("number", [n for n, case in BY_NUMBER.items() if case["stage"] == "check"])
def test_the_command_shows_it(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RFCTL_LANG", "en")
    paths, _ = write(number, tmp_path)
    shown, listed = "", {}
    for path in paths:
        execute(["model", "check", str(path)])
        shown += capsys.readouterr().out
        code = execute(["model", "check", str(path), "--json"])
        document = json.loads(capsys.readouterr().out)
        assert code == (0 if document["will_work"] else 5)
        listed |= {finding["id"]: finding for finding in document["findings"]}
    for id, severity in BY_NUMBER[number]["finding"].items():
        word = {"error": "error", "warn": "warning", "info": "note"}[severity]
        assert f"{word}[{id}]: {listed[id]['message']}" in shown
        assert listed[id]["severity"] == severity
        assert listed[id]["next"]


def explain(report: CheckReport) -> str:
    return "; ".join(f"{finding.id}: {finding.text().message}" for finding in report.findings)
