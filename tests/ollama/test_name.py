"""Model names as the recorded server reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfctl.core.error import UsageError
from rfctl.ollama.name import ModelName, is_valid_name, parse_name

LIBRARY = ("registry.ollama.ai", "library")


@pytest.mark.parametrize(
    ("text", "parts", "short"),
    [
        ("tiny", (*LIBRARY, "tiny", "latest"), "tiny:latest"),
        ("tiny:V1.2-q4_K", (*LIBRARY, "tiny", "V1.2-q4_K"), "tiny:V1.2-q4_K"),
        ("acme/demo:v1", ("registry.ollama.ai", "acme", "demo", "v1"), "acme/demo:v1"),
        ("example.com/ns/m:v3", ("example.com", "ns", "m", "v3"), "example.com/ns/m:v3"),
        ("localhost:5000/ns/m", ("localhost:5000", "ns", "m", "latest"), "localhost:5000/ns/m:latest"),
        ("http://h/ns/m", ("h", "ns", "m", "latest"), "h/ns/m:latest"),
        ("registry.ollama.ai/library/x:y", (*LIBRARY, "x", "y"), "x:y"),
        ("_x.y:_", (*LIBRARY, "_x.y", "_"), "_x.y:_"),
    ],
)
def test_parts_and_shortest_form(text: str, parts: tuple[str, ...], short: str) -> None:
    name = parse_name(text)
    assert (name.host, name.namespace, name.model, name.tag) == parts
    assert str(name) == short
    assert name.full == f"{parts[0]}/{parts[1]}/{parts[2]}:{parts[3]}"


def test_refuses_what_the_server_refused(golden: Path) -> None:
    exchanges = json.loads((golden / "ollama/exchanges/create-errors.json").read_text("utf-8"))["exchanges"]
    refused = [
        exchange["request"]["json"].get("model", "")
        for exchange in exchanges
        if exchange["response"].get("json") == {"error": "invalid model name"}
    ]
    assert len(refused) == 9
    assert [name for name in refused if is_valid_name(name)] == []


@pytest.mark.parametrize("text", ["a.b/x", "x" * 81, "x:" + "y" * 81, "/x", "x/", "a//b", "x\n", " x"])
def test_refuses(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_name(text)
    assert error.value.id == "store.name-invalid"


@given(st.text(max_size=40))
def test_any_text_is_refused_or_safe_as_a_path(text: str) -> None:
    try:
        name = parse_name(text)
    except UsageError:
        return
    assert len(name.path.parts) == 4
    assert not any(part in {"", ".", ".."} or part.startswith(".") for part in name.path.parts)
    assert parse_name(str(name)).same(name)


def test_letter_case_does_not_matter() -> None:
    assert parse_name("Tiny:V1").same(ModelName("REGISTRY.ollama.ai", "Library", "tiny", "v1"))
