"""Request bodies, durations, Host headers, and the words of a dying worker."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfctl.engine.failure import ApiError
from rfctl.engine.host_check import is_allowed_host, is_allowed_origin
from rfctl.engine.ollama.body import check_fields, parse_duration, parse_json
from rfctl.engine.ollama.model import human_number
from rfctl.engine.process import describe_cause


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (5, 5.0),
        (1.5, 1.5),
        (-1, -1.0),
        ("0", 0.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("200ms", 0.2),
        ("1.5s", 1.5),
        ("-1m", -1.0),
    ],
)
def test_durations(value: object, seconds: float | None) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize("value", ["bogus", "", "5", "5x", "1..2s", True, [], {}, "-"])
def test_wrong_durations(value: object) -> None:
    with pytest.raises(ApiError) as error:
        parse_duration(value)
    assert error.value.status == 400


@given(st.text())
def test_any_duration_is_seconds_or_a_400(text: str) -> None:
    try:
        assert isinstance(parse_duration(text), float)
    except ApiError as error:
        assert error.status == 400


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{bad", "invalid character 'b' looking for beginning of object key string"),
        ("{", "unexpected EOF"),
        ('{"a":}', "invalid character '}' looking for beginning of value"),
        ('{"a" 1}', "invalid character '1' after object key"),
        ("NaN", "invalid character 'N' looking for beginning of value"),
        ("[" * 100000, "exceeded max depth"),
    ],
)
def test_json_errors(text: str, error: str) -> None:
    with pytest.raises(ApiError) as found:
        parse_json(text)
    assert found.value.text == error


@given(st.text())
def test_any_text_is_json_or_a_400(text: str) -> None:
    try:
        json.dumps(parse_json(text))
    except ApiError as error:
        assert error.status == 400


def test_null_is_absent_and_unknown_keys_pass() -> None:
    assert check_fields({"a": None, "b": 1, "x": []}, "R", {"a": "string", "b": "int"}) == {"b": 1, "x": []}
    with pytest.raises(ApiError, match=r"cannot unmarshal bool into Go struct field R\.b of type int"):
        check_fields({"b": True}, "R", {"b": "int"})


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("", True),
        ("LOCALHOST", True),
        ("[::1]:80", True),
        ("10.1.2.3", True),
        ("172.17.0.1:11434", True),
        ("evil.localhost.example.com", False),
        ("localhost.evil.com:80", False),
        ("[2001:4860:4860::8888]", False),
    ],
)
def test_hosts(host: str, allowed: bool) -> None:
    assert is_allowed_host(host) is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("", True),
        ("http://localhost:5173", True),
        ("https://127.0.0.1", True),
        ("tauri://localhost", True),
        ("http://evil.example", False),
        ("http://localhost.evil.example", False),
        ("null", False),
    ],
)
def test_origins(origin: str, allowed: bool) -> None:
    assert is_allowed_origin(origin) is allowed


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (999, "999"),
        (1000, "1K"),
        (77_952, "78K"),
        (134_515_008, "134.52M"),
        (7 * 10**9, "7B"),
        (1_540_000_000, "1.5B"),
    ],
)
def test_human_numbers(count: int, text: str) -> None:
    assert human_number(count) == text


def test_the_cause_among_the_last_words() -> None:
    lines = [
        "0.1 E llama_model_load: error loading model: unknown model architecture: 'x'",
        "0.1 E llama_model_load_from_file_impl: failed to load model",
        "0.2 E llama_model_load: error loading model: unknown model architecture: 'x'",
        "0.2 E srv init: exiting due to model loading error",
    ]
    assert describe_cause(lines) == "error loading model: unknown model architecture: 'x'"
    assert describe_cause(["a/b.cpp:1: GGML_ASSERT(n > 0) failed"]) == "GGML_ASSERT(n > 0) failed"
    assert describe_cause(["something else"]) == "something else"
    assert describe_cause([]) == ""
