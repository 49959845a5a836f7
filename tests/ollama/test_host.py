"""The address of a server as people write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfctl.core.error import UsageError
from rfctl.ollama.client import OllamaClient, normalise_host


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:5000", "http://127.0.0.1:5000"),
        ("http://0.0.0.0:5000/", "http://127.0.0.1:5000"),
        ("[::]:80", "http://[::1]:80"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[fe80::1]:9", "http://[fe80::1]:9"),
        (":56789", "http://127.0.0.1:56789"),
        (' "example.com" ', "http://example.com:11434"),
        ("'example.com:1'", "http://example.com:1"),
        ("http://example.com", "http://example.com:80"),
        ("https://example.com", "https://example.com:443"),
        ("https://example.com:1/path/", "https://example.com:1/path"),
        ("example.com/path", "http://example.com:11434/path"),
        ("example.com:99999", "http://example.com:11434"),
        ("example.com:abc", "http://example.com:11434"),
    ],
)
def test_host_is_read_as_ollama_reads_it(text: str, url: str) -> None:
    assert normalise_host(text) == url


@given(st.text(max_size=40))
def test_a_normalised_host_stays_as_it_is_or_is_refused(text: str) -> None:
    try:
        with OllamaClient(text) as client:
            assert normalise_host(client.url) == client.url
    except UsageError as error:
        assert error.id == "ollama.url-invalid"
