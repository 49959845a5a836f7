"""The Modelfile parser against every recorded case of Ollama's own, and its properties."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfctl.core.error import RfctlError
from rfctl.core.file import sha256_file
from rfctl.ollama.create_request import to_create_request
from rfctl.ollama.modelfile import (
    Command,
    Modelfile,
    ModelfileError,
    parse_modelfile,
    read_modelfile,
)
from rfctl.ollama.parameter import ParameterError, check_parameters, parse_parameter


def load_cases(golden: Path) -> list[dict[str, Any]]:
    text = (golden / "ollama" / "modelfile" / "cases.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def source_of(case: dict[str, Any]) -> str | bytes:
    return base64.b64decode(case["text_base64"]) if "text_base64" in case else case["text"]


def test_every_recorded_case_parses_as_ollama_parses_it(golden: Path) -> None:
    cases = load_cases(golden)
    assert len(cases) >= 100
    for case in cases:
        source = source_of(case)
        if "error" in case:
            with pytest.raises(ModelfileError) as caught:
                parse_modelfile(source)
            assert caught.value.reason == case["error"], case
            if case["error"].startswith("(line "):
                assert f"(line {caught.value.line})" in case["error"]
            continue
        parsed = parse_modelfile(source)
        assert [{"name": c.name, "args": c.args} for c in parsed.commands] == case["commands"], case
        assert str(parsed) == case["string"], case


def test_every_recorded_case_becomes_the_recorded_request(golden: Path, tmp_path: Path) -> None:
    for number, case in enumerate(load_cases(golden)):
        if "error" in case:
            continue
        folder = tmp_path / str(number)
        for name, content in case.get("files", {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content.encode("latin-1"))
        folder.mkdir(exist_ok=True)
        parsed = parse_modelfile(source_of(case))

        def place(text: str, folder: Path = folder) -> str:
            return text.replace("<dir>", str(folder))

        if "request_error" in case:
            with pytest.raises((ModelfileError, ParameterError)) as caught:
                to_create_request(parsed, folder, digest)
            assert caught.value.reason == place(case["request_error"]), case
            continue
        request = to_create_request(parsed, folder, digest)
        wanted = json.loads(place(json.dumps(case["request"])))
        assert json.loads(json.dumps(request.body)) == wanted, case
        assert list(request.warnings) == case.get("warnings", [])


def digest(path: Path) -> str:
    return f"sha256:{sha256_file(path)}"


plain = st.text(st.characters(categories=["L", "N", "P", "S"], include_characters=" \n"), max_size=60)


@given(values=st.lists(st.tuples(st.sampled_from(["system", "license", "template"]), plain), max_size=4))
@settings(max_examples=200, deadline=None)
def test_written_text_reads_back(values: list[tuple[str, str]]) -> None:
    # Ollama's own quoting cannot carry quotes at the edges and trims what is left unquoted.
    commands = [Command("model", "base")]
    for name, value in values:
        text = value.strip("\r\n").replace('"', "'")
        commands.append(Command(name, text))
    once = Modelfile(tuple(commands))
    assert parse_modelfile(str(once)) == once


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda t: "FROM b\n" + t)))
@settings(max_examples=300, deadline=None)
def test_any_input_parses_or_names_the_reason(source: bytes | str) -> None:
    try:
        parsed = parse_modelfile(source)
    except ModelfileError as error:
        assert error.reason
    else:
        assert any(command.name == "model" for command in parsed.commands)


def test_a_long_quoted_value_takes_linear_time() -> None:
    body = "line\n" * 200_000
    parsed = parse_modelfile(f'FROM base\nSYSTEM """{body}"""\n')
    assert parsed.last("system") == body


def test_parameters_get_ollamas_types() -> None:
    assert parse_parameter("temperature", "0.7") == 0.7
    assert parse_parameter("num_ctx", "8192") == 8192
    assert check_parameters({"stop": "x", "temperature": 1}) == {"stop": ("x",), "temperature": 1.0}
    for bad in (
        {"num_ctx": "8192"},
        {"num_ctx": True},
        {"stop": [1]},
        {"nonsense": 1},
        {"temperature": "hot"},
    ):
        with pytest.raises(ParameterError):
            check_parameters(bad)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    path.write_bytes(b"FROM x\n" + b"#" * (17 << 20))
    with pytest.raises(RfctlError) as caught:
        read_modelfile(path)
    assert caught.value.id == "ollama.modelfile-size"
