"""The multipart body: what a form parser reads is the file, and its length is what was promised."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from python_multipart.multipart import FormParser, parse_options_header

from rfctl.core.error import RfctlError
from rfctl.ragflow_client.multipart import PIECE_BYTES, Multipart

names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=2000), names)
def test_a_parser_gets_field_name_and_content(tmp_path: Path, content: bytes, filename: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    body = Multipart("file", path, filename)
    data = b"".join(body)
    assert len(data) == len(body)
    assert b"".join(body) == data  # a retry reads it again
    kind, options = parse_options_header(body.content_type)
    assert kind == b"multipart/form-data"
    boundary = options[b"boundary"]
    assert content.count(boundary) == 0
    head, _, rest = data.partition(b"\r\n\r\n")
    assert rest == content + b"\r\n--" + boundary + b"--\r\n"
    sent = re.search(rb'name="file"; filename="([^"\r\n]*)"', head)
    assert sent is not None
    assert sent[1].decode().replace("%22", '"') == filename.replace("%22", '"')


def test_a_real_parser_agrees(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * 3000)
    body = Multipart("file", path, '极光 "a"\r\n.pdf')
    found = []
    parser = FormParser(
        "multipart/form-data",
        on_field=None,
        on_file=found.append,
        boundary=re.search("boundary=(.*)", body.content_type)[1].encode(),  # type: ignore[index]
        config={"MAX_BODY_SIZE": 1 << 30},
    )
    for piece in body:
        assert len(piece) <= PIECE_BYTES
        parser.write(piece)
    parser.finalize()
    (file,) = found
    assert file.field_name == b"file"
    assert file.file_name.decode() == "极光 %22a%22%0D%0A.pdf"
    file.file_object.seek(0)
    assert file.file_object.read() == path.read_bytes()


def test_a_file_that_changes_is_not_sent_as_if_whole(tmp_path: Path) -> None:
    path = tmp_path / "growing.txt"
    path.write_bytes(b"x" * 1000)
    shrunk = Multipart("file", path, "a.txt")
    path.write_bytes(b"x" * 10)
    with pytest.raises(RfctlError, match=r"upload\.file-changed"):
        list(shrunk)
    grown = Multipart("file", path, "a.txt")
    path.write_bytes(b"x" * 20)
    with pytest.raises(RfctlError, match=r"upload\.file-changed"):
        list(grown)
    path.unlink()
    with pytest.raises(RfctlError, match=r"upload\.unreadable"):
        list(grown)


def test_progress_adds_up(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"y" * (3 * PIECE_BYTES + 5))
    steps: list[int] = []
    list(Multipart("file", path, "x", steps.append))
    assert (sum(steps), len(steps)) == (3 * PIECE_BYTES + 5, 4)
