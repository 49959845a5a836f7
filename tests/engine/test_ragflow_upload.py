"""Multipart bodies of every shape, hostile names, and a disk that takes no more."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from ragflow_bench import KEY, Bench, bench
from starlette.requests import Request

from rfctl.engine.ragflow import upload
from rfctl.engine.ragflow.document_file import Incoming
from rfctl.engine.ragflow.envelope import Failure

BOUNDARY = "----b0"
NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters='"\\%'), min_size=1, max_size=40
)


def encode(parts: list[tuple[str, str, bytes]]) -> bytes:
    body = b""
    for field, name, data in parts:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        body += head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + data + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def receive(body: bytes, cuts: list[int], directory: Path, kind: str | None = None) -> list[upload.Part]:
    """Feed the body in pieces cut at the given places."""
    edges = [0, *sorted({cut % (len(body) + 1) for cut in cuts}), len(body)]
    pieces = [body[left:right] for left, right in itertools.pairwise(edges)]
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    feed = iter(messages)

    async def read() -> dict[str, object]:
        return next(feed)

    header = kind or f"multipart/form-data; boundary={BOUNDARY}"
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", header.encode())]}
    number = iter(range(10_000))
    return asyncio.run(
        upload.receive(Request(scope, read), lambda name: Incoming(directory, f"{next(number):032x}"))  # type: ignore[arg-type]
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["file", "other"]), NAMES, st.binary(max_size=300)), max_size=4),
    st.lists(st.integers(0, 10_000), max_size=12),
)
def test_any_body_arrives_whole_however_it_is_cut(
    parts: list[tuple[str, str, bytes]], cuts: list[int]
) -> None:
    with TemporaryDirectory() as folder:
        received = receive(encode(parts), cuts, Path(folder))
        wanted = [(name, data) for field, name, data in parts if field == "file"]
        assert [part.name for part in received] == [name for name, _ in wanted]
        for part, (_, data) in zip(received, wanted, strict=True):
            assert part.file is not None
            assert part.file.path.read_bytes() == data
            assert part.content_hash == xxhash.xxh128_hexdigest(data)
        assert len(list(Path(folder).iterdir())) == len(wanted)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.lists(st.integers(0, 10_000), max_size=4), st.integers(0, 600))
def test_garbage_is_refused_or_read_and_leaves_nothing_half(
    garbage: bytes, cuts: list[int], end: int
) -> None:
    with TemporaryDirectory() as folder:
        body = encode([("file", "a.txt", garbage)])[:end] + garbage
        try:
            received = receive(body, cuts, Path(folder))
        except Failure:
            received = []
        kept = {part.file.path.name for part in received if part.file is not None}
        assert {path.name for path in Path(folder).iterdir()} == kept


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("filename=\"plain.txt\"; filename*=utf-8''%E6%9E%81%E5%85%89.txt", "极光.txt"),
        ('filename="a %22quoted%22 name.txt"', 'a "quoted" name.txt'),
        ('filename="极光.txt"', "极光.txt"),
        ('filename="100%25.txt"', "100%25.txt"),
        ('filename="C:\\\\dir\\\\x.txt"', "x.txt"),
    ],
)
def test_names_in_the_forms_that_clients_send(tmp_path: Path, header: str, name: str) -> None:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; {header}\r\n\r\n'
    body = f"{head}x\r\n--{BOUNDARY}--\r\n"
    assert [part.name for part in receive(body.encode(), [], tmp_path)] == [name]


def test_a_header_without_end_is_refused(tmp_path: Path) -> None:
    body = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{"x" * 100_000}'
    with pytest.raises(Failure, match="Maximum header size"):
        receive(body.encode(), list(range(0, 100_000, 1000)), tmp_path)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("upload")) as made:
        yield made


@pytest.mark.parametrize("name", ["../../etc/passwd.txt", "/tmp/x.txt", "a\u202etxt.txt", ".txt.txt"])
def test_a_hostile_name_is_only_a_name(engine: Bench, tmp_path: Path, name: str) -> None:
    dataset = engine.create_dataset("hostile")
    added = engine.upload(dataset, (name, b"content"))[0]
    assert added["name"] == name
    response = engine.client.get(f"/datasets/{dataset}/documents/{added['id']}")
    assert response.content == b"content"
    assert "\n" not in response.headers["content-disposition"]


def test_a_full_disk_is_an_answer_and_leaves_nothing(tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: writes beyond 1 MiB fail in the middle of the upload."""
    resource = pytest.importorskip("resource")
    assert resource
    program = f"""
        import resource, sys
        from pathlib import Path
        import httpx
        from ragflow_bench import bench
        folder = Path({str(tmp_path)!r})
        with bench(folder) as engine:
            dataset = engine.create_dataset("d")
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
            url = f"/datasets/{{dataset}}/documents"
            answer = engine.client.post(url, files={{"file": ("big.txt", b"x" * (4 << 20))}}).json()
            assert answer["code"] == 500 and "could not be stored" in answer["message"], answer
            assert list((folder / "document").iterdir()) == []
            # A body that has arrived whole before the disk refuses it.
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, 1 << 20))
            answer = engine.client.post(url, files={{"file": ("b.txt", b"x" * 20_000)}}).json()
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
            assert answer["code"] == 500 and "could not be stored" in answer["message"], answer
            assert list((folder / "document").iterdir()) == []
            engine.upload(dataset, ("small.txt", b"x"))
            assert engine.call("GET", url)["total"] == 1
        print("good")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=Path(__file__).parent,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.stdout.endswith("good\n"), done.stderr


def test_the_body_is_read_although_the_dataset_is_unknown(engine: Bench) -> None:
    """A client that is still sending gets the answer, not a reset connection."""

    async def send() -> int:
        import httpx

        async def pieces() -> AsyncIterator[bytes]:
            yield encode([("file", "a.txt", b"x" * 3_000_000)])

        headers = {
            "Authorization": f"Bearer {KEY}",
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        }
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"{engine.url}/api/v1/datasets/{'0' * 32}/documents"
            return int((await client.post(url, content=pieces(), headers=headers)).json()["code"])

    assert asyncio.run(send()) == 102


@pytest.mark.parametrize(
    "head",
    [
        f'Content-Disposition: form-data; name="file"; filename="{"a" * 200_000}"\r\n',
        "".join(f"X-{number}: a\r\n" for number in range(100)),
    ],
)
def test_headers_without_measure_are_refused(tmp_path: Path, head: str) -> None:
    body = f"--{BOUNDARY}\r\n{head}\r\ndata\r\n--{BOUNDARY}--\r\n".encode()
    with pytest.raises(Failure):
        receive(body, [], tmp_path)
    assert list(tmp_path.iterdir()) == []
