"""What comes back from servers, proxies and broken connections, over real sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_server import ScriptedServer, Step, event_stream, http

from rfctl.core.error import AuthError, RfctlError, UnreachableError, UsageError
from rfctl.ragflow_client.address import check_key, normalise_url
from rfctl.ragflow_client.failure import ServerError, UncertainError
from rfctl.ragflow_client.server import detect
from rfctl.ragflow_client.transport import Api

OK = {"code": 0, "data": [1]}
PAGE = "<!DOCTYPE html><html><body>Hello</body></html>"


def catch(api: Api, method: str = "GET", json: object = None) -> RfctlError:
    with pytest.raises(RfctlError) as caught:
        api.call(method, "/x", json=json)
    return caught.value


BAD_KEY = {"code": 109, "message": "API key is invalid!", "data": False}
NO_ROUTE = {"code": 100, "message": "<NotFound '404: Not Found'>"}


@pytest.mark.parametrize(
    ("answer", "id", "kind", "exit_code"),
    [
        (http(200, {"code": 102, "message": "no"}), "ragflow.refused", ServerError, 1),
        (
            http(200, BAD_KEY),
            "ragflow.key-refused",
            AuthError,
            4,
        ),
        (http(200, {"code": 109, "message": "no authorization"}), "ragflow.not-yours", ServerError, 1),
        (http(200, {"code": 0, "data": False}), "ragflow.key-refused", AuthError, 4),
        (http(401, {"code": 401, "message": "x"}), "ragflow.key-refused", AuthError, 4),
        (http(200, PAGE, "text/html"), "ragflow.not-api", ServerError, 1),
        (http(404, PAGE, "text/html"), "ragflow.not-api", ServerError, 1),
        (http(404, {"code": 404, "message": "Not Found: /x"}), "ragflow.route-missing", ServerError, 1),
        (
            http(200, NO_ROUTE),
            "ragflow.route-missing",
            ServerError,
            1,
        ),
        (http(413, PAGE, "text/html"), "ragflow.too-large", ServerError, 1),
        (http(501, {"code": 501, "message": "not here"}), "ragflow.not-supported", ServerError, 1),
        (http(500, "oops", "text/plain"), "ragflow.http-status", ServerError, 1),
        (http(302, "", Location="https://h/"), "ragflow.redirected", ServerError, 1),
        (http(200, "pong", "text/plain"), "ragflow.answer-broken", ServerError, 1),
        (http(200, "[1]"), "ragflow.shape", ServerError, 1),
        (http(200, '{"message":"?"}'), "ragflow.shape", ServerError, 1),
        (http(200, "[" * 100_000), "ragflow.answer-broken", ServerError, 1),
    ],
)
def test_answers_that_are_no_success(
    scripted: ScriptedServer, api: Api, answer: bytes, id: str, kind: type, exit_code: int
) -> None:
    scripted.say(answer)
    error = catch(api)
    assert (error.id, type(error), error.exit_code) == (id, kind, exit_code)
    assert len(scripted.requests) == 1
    for language in ("en", "zh"):
        text = error.text(language)
        assert "{" not in text.message + text.next
        assert "ragflow-test" not in text.message + text.why + text.next


def test_the_key_is_sent_and_a_netrc_does_not_replace_it(
    scripted: ScriptedServer, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    scripted.say(http(200, OK))
    assert api.call("GET", "/x") == [1]
    assert scripted.requests[0].header("Authorization") == "Bearer ragflow-test"
    assert scripted.requests[0].line == "GET /api/v1/x HTTP/1.1"


def test_reading_is_repeated_after_a_gateway_error_and_a_cut(scripted: ScriptedServer, api: Api) -> None:
    scripted.say(http(502, PAGE, "text/html"), b"HTTP/1.1 200 OK\r\nContent-Len", http(200, OK))
    assert api.call("GET", "/x") == [1]
    assert len(scripted.requests) == 3


def test_reading_is_repeated_three_times_at_most(scripted: ScriptedServer, api: Api) -> None:
    scripted.say(*[http(503, "busy", "text/plain")] * 5)
    error = catch(api)
    assert (error.id, error.exit_code, len(scripted.requests)) == ("ragflow.gateway", 3, 3)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_change_is_never_sent_twice(scripted: ScriptedServer, api: Api, method: str) -> None:
    scripted.say(b"", http(200, OK))
    error = catch(api, method, {"a": 1})
    assert isinstance(error, UncertainError)
    assert (error.id, len(scripted.requests)) == ("ragflow.cut", 1)
    scripted.steps.clear()
    scripted.say(http(502, ""), http(200, OK))
    assert catch(api, method, {"a": 1}).id == "ragflow.gateway"
    assert len(scripted.requests) == 2


def test_a_body_cut_short_is_an_error(scripted: ScriptedServer, api: Api) -> None:
    whole = http(200, {"code": 0, "data": "x" * 1000})
    scripted.say(whole[:-500])
    assert catch(api, "POST", {}).id == "ragflow.cut"
    chunked = (
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"co'
    )
    scripted.say(chunked)
    assert catch(api, "POST", {}).id == "ragflow.cut"


def test_silence_ends_in_time(scripted: ScriptedServer, api: Api) -> None:
    scripted.say(Step(http(200, OK), hang=5))
    begin = time.monotonic()
    error = catch(api)
    assert (error.id, error.exit_code) == ("ragflow.timeout", 3)
    assert time.monotonic() - begin < 3


def test_an_answer_that_drips_ends_in_time(scripted: ScriptedServer) -> None:
    drops = tuple(b"x" for _ in range(200))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
    scripted.say(Step(pieces=(head, *drops), pause=0.05))
    with Api(scripted.url, "k", read_seconds=0.2) as api:
        begin = time.monotonic()
        assert catch(api).id == "ragflow.timeout"
    assert time.monotonic() - begin < 4


def test_nobody_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Api(f"http://127.0.0.1:{port}", "k") as api:
        error = catch(api, "POST", {})
    assert (error.id, type(error)) == ("ragflow.unreachable", UnreachableError)
    with Api("http://no-such-host.invalid", "k", retries=0) as api:
        assert catch(api).id == "ragflow.unreachable"


def test_an_endless_answer_is_not_read_to_the_end(
    scripted: ScriptedServer, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rfctl.ragflow_client.transport.MAX_ANSWER_BYTES", 100_000)
    scripted.say(http(200, "x" * 300_000))
    assert catch(api).id == "ragflow.answer-too-large"


FRAME = b'data:{"code":0,"message":"","data":{"answer":"a","final":false}}\n\n'
END = b'data:{"code":0,"message":"","data":true}\n\n'


def frames(api: Api) -> Iterator[object]:
    return (frame["data"] for frame in api.stream("/c", {}, seconds=1.0))


def test_a_stream_is_read_frame_by_frame(scripted: ScriptedServer, api: Api) -> None:
    scripted.say(event_stream(FRAME[:20], FRAME[20:], FRAME + END[:5], END[5:], pause=0.05))
    assert list(frames(api)) == [{"answer": "a", "final": False}] * 2


def test_a_stream_arrives_while_it_is_made(scripted: ScriptedServer, api: Api) -> None:
    scripted.say(event_stream(FRAME, FRAME, END, pause=0.4))
    begin = time.monotonic()
    next(stream := frames(api))
    assert time.monotonic() - begin < 0.7
    assert len(list(stream)) == 1


@pytest.mark.parametrize(
    ("step", "id"),
    [
        (event_stream(FRAME), "ragflow.stream-cut"),
        (event_stream(FRAME, b"data:{broken\n\n"), "ragflow.answer-broken"),
        (
            event_stream(b'data:{"code":500,"message":"no","data":{"answer":"**ERROR**: no"}}\n\n'),
            "ragflow.refused",
        ),
        (Step(http(200, {"code": 102, "message": "Session not found!"})), "ragflow.refused"),
        (Step(http(200, PAGE, "text/html")), "ragflow.not-api"),
        (Step(http(504, PAGE, "text/html")), "ragflow.gateway"),
        (event_stream(FRAME, b"", b"data:", pause=1.5), "ragflow.timeout"),
    ],
)
def test_streams_that_go_wrong(scripted: ScriptedServer, api: Api, step: Step, id: str) -> None:
    scripted.say(step)
    with pytest.raises(RfctlError) as caught:
        list(frames(api))
    assert caught.value.id == id


def test_a_proxy_that_refuses_early_is_understood(scripted: ScriptedServer, api: Api, tmp_path: Path) -> None:
    path = tmp_path / "big.pdf"
    path.write_bytes(b"x" * (8 << 20))
    scripted.say(Step(http(413, PAGE, "text/html"), read_body=False))
    with pytest.raises(RfctlError) as caught:
        api.upload("/datasets/d/documents", path, "big.pdf")
    # Whether the answer can still be read depends on the system's buffers.
    assert caught.value.id in ("ragflow.too-large", "ragflow.cut")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h:9380/", "http://h:9380"),
        ("h:9380", "http://h:9380"),
        ("HTTPS://h/api/v1/", "https://h"),
        (" http://h/rag/api/v1 ", "http://h/rag"),
        ("http://h/v1", "http://h"),
        ("http://h/?a=1#b", "http://h"),
        ("http://[::1]:9380//", "http://[::1]:9380"),
        ('"http://h"', "http://h"),
    ],
)
def test_addresses_as_people_write_them(text: str, url: str) -> None:
    assert normalise_url(text) == url


@pytest.mark.parametrize("text", ["", "ftp://h", "http://", "http://h:99999", "http://[::1", "http://u:p@h"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"ragflow\.url-"):
        normalise_url(text)


@pytest.mark.parametrize(
    "text", ["", "  ", '"ragflow-x"', "ragflow-a b", "Bearer ragflow-x", "ragflow-\u201c"]
)
def test_keys_that_are_none(text: str) -> None:
    with pytest.raises(AuthError) as caught:
        check_key(text)
    assert text.strip() == "" or text not in str(caught.value)


NOT_FOUND = http(404, {"code": 404, "message": "Not Found"})


@pytest.mark.parametrize(
    ("answers", "id"),
    [
        ([http(200, {"code": 0, "data": "v0.24.0"})], "ragflow.too-old"),
        ([NOT_FOUND, http(200, {"code": 0, "data": "v0.24.0"})], "ragflow.too-old"),
        (
            [
                http(200, NO_ROUTE),
                http(200, {"code": 401, "message": "<Unauthorized '401: Unauthorized'>"}),
            ],
            "ragflow.too-old",
        ),
        ([http(200, PAGE, "text/html"), http(200, PAGE, "text/html")], "ragflow.not-ragflow"),
        ([http(404, "404 page not found", "text/plain")] * 2, "ragflow.not-ragflow"),
    ],
)
def test_servers_that_are_refused(scripted: ScriptedServer, api: Api, answers: list[bytes], id: str) -> None:
    scripted.say(*answers)
    with pytest.raises(UsageError) as caught:
        detect(api)
    assert (caught.value.id, caught.value.exit_code) == (id, 2)


@pytest.mark.parametrize(
    ("text", "version"), [("v0.27.3-5-gabc", (0, 27, 3)), ("nightly", None), ("0.25", (0, 25, 0))]
)
def test_versions_that_are_taken(
    scripted: ScriptedServer, api: Api, text: str, version: tuple[int, int, int] | None
) -> None:
    scripted.say(http(200, {"code": 0, "data": text}), NOT_FOUND, NOT_FOUND)
    found = detect(api)
    assert (found.version, found.is_embedded, found.has_providers) == (version, False, False)


def test_a_stream_of_nothing_but_comments_ends() -> None:
    """Each comment breaks the silence, none is a frame: only the clock ends it."""
    begin = time.monotonic()
    with ScriptedServer() as server:
        server.say(event_stream(*[b": ping\n\n"] * 400, pause=0.05))
        with Api(server.url, "ragflow-k") as api, pytest.raises(UnreachableError) as caught:
            list(api.stream("/x", {}, seconds=0.1))
    assert caught.value.id == "ragflow.timeout"
    assert time.monotonic() - begin < 10
