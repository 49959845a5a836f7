"""Documents fetched from the web, against a site on loopback."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from web_site import Page, WebSite

from rfctl.core.error import RefusedError, RfctlError, UnreachableError, UsageError
from rfctl.ragflow_client.web_connection import check_url, is_private
from rfctl.ragflow_client.web_document import Fetcher, WebDocument, name_document

PDF = {"content-type": "application/pdf"}
BOMB = gzip.compress(b"x" * 5_000_000)
HTML = b"<!doctype html><title>Heron</title><p>The heron is grey."


@pytest.fixture
def site() -> Iterator[WebSite]:
    with WebSite() as made:
        yield made


def fetch(site: WebSite, path: str, folder: Path, **options: object) -> WebDocument:
    return Fetcher(folder, allow_private=True, **options).fetch(site.url + path)  # type: ignore[arg-type]


def refuse(site: WebSite, path: str, folder: Path, **options: object) -> RfctlError:
    with pytest.raises(RfctlError) as caught:
        fetch(site, path, folder, **options)
    for language in ("en", "zh"):
        text = caught.value.text(language)
        assert "{" not in text.message + text.why + text.next
    return caught.value


def test_a_page_is_kept_as_it_is(site: WebSite, tmp_path: Path) -> None:
    site.pages["/docs/heron"] = Page(HTML)
    found = fetch(site, "/docs/heron", tmp_path)
    assert (found.name, found.url) == ("127.0.0.1 - docs - heron.html", site.url + "/docs/heron")
    assert found.path.read_bytes() == HTML
    assert found.fetched.endswith("Z")
    assert site.lines == ["/robots.txt", "/docs/heron"]
    assert site.agents == {"rfctl"}


def test_robots_are_asked_once_per_host_and_obeyed(site: WebSite, tmp_path: Path) -> None:
    rules = (
        b"\xef\xbb\xbfUser-agent: other\nDisallow: /\n\nUser-agent: *\nDisallow: /private/\nCrawl-delay: 2\n"
    )
    site.pages |= {"/robots.txt": Page(rules, "text/plain"), "/a": Page(HTML), "/b": Page(HTML)}
    pauses: list[float] = []
    fetcher = Fetcher(tmp_path, allow_private=True, sleep=pauses.append)
    assert {fetcher.fetch(site.url + path).path.name for path in ("/a", "/b")} == {
        "127.0.0.1 - a.html",
        "127.0.0.1 - b.html",
    }
    assert site.lines == ["/robots.txt", "/a", "/b"]
    assert len(pauses) == 1 and 1 < pauses[0] <= 2
    with pytest.raises(RefusedError) as caught:
        fetcher.fetch(site.url + "/private/c")
    assert (caught.value.id, site.lines[-1]) == ("fetch.robots", "/b")


@pytest.mark.parametrize(("status", "kind"), [(503, UnreachableError), (429, UnreachableError)])
def test_a_site_that_cannot_be_asked_is_left_alone(
    site: WebSite, tmp_path: Path, status: int, kind: type[RfctlError]
) -> None:
    site.pages |= {"/robots.txt": Page(status=status), "/a": Page(HTML)}
    error = refuse(site, "/a", tmp_path)
    assert (error.id, type(error), site.lines) == ("fetch.robots-unreachable", kind, ["/robots.txt"])


def test_a_site_without_rules_allows_everything(site: WebSite, tmp_path: Path) -> None:
    for status in (404, 401, 403):
        site.pages |= {"/robots.txt": Page(status=status), "/a": Page(HTML)}
        assert fetch(site, "/a", tmp_path).size == len(HTML)


def test_redirects_are_followed_and_checked(site: WebSite, tmp_path: Path) -> None:
    site.pages |= {
        "/robots.txt": Page(b"User-agent: *\nDisallow: /secret", "text/plain"),
        "/a": Page(status=301, headers={"Location": "/b"}),
        "/b": Page(status=302, headers={"Location": f"{site.url}/manual.pdf"}),
        "/manual.pdf": Page(b"%PDF-1.7", "application/pdf"),
        "/c": Page(status=302, headers={"Location": "/secret"}),
        "/d": Page(status=302, headers={"Location": "file:///etc/passwd"}),
        "/e": Page(status=302, headers={"Location": "/e"}),
    }
    found = fetch(site, "/a", tmp_path)
    assert (found.name, found.url) == ("manual.pdf", f"{site.url}/manual.pdf")
    assert refuse(site, "/c", tmp_path).id == "fetch.robots"
    assert refuse(site, "/d", tmp_path).id == "fetch.url-invalid"
    assert refuse(site, "/e", tmp_path).id == "fetch.redirects"


def test_private_addresses_are_refused_at_every_step(site: WebSite, tmp_path: Path) -> None:
    fetcher = Fetcher(tmp_path)
    for url in (
        site.url,
        "http://localhost/",
        "http://[::1]/",
        "http://169.254.169.254/latest/",
        "http://0/",
    ):
        with pytest.raises(RefusedError, match=r"fetch\.private"):
            fetcher.fetch(url)
    assert site.lines == []
    # A name that only the proxy knows passes, and leads into the local network.
    site.pages["known-to-proxy.invalid/a"] = Page(
        status=302, headers={"Location": "http://169.254.169.254/latest/meta-data/"}
    )
    through = Fetcher(tmp_path, proxies={"http": site.url})
    with pytest.raises(RefusedError) as caught:
        through.fetch("http://known-to-proxy.invalid/a")
    assert (caught.value.id, caught.value.params["address"]) == ("fetch.private", "169.254.169.254")
    assert [line for line in site.lines if "169.254" in line] == []


def test_a_proxy_is_used_but_not_for_this_machine(site: WebSite, tmp_path: Path) -> None:
    site.pages["known-to-proxy.invalid/a"] = Page(HTML)
    proxies = {"http": site.url, "no": "other.invalid, .example.org"}
    fetcher = Fetcher(tmp_path, proxies=proxies)
    assert fetcher.fetch("http://known-to-proxy.invalid/a").name == "known-to-proxy.invalid - a.html"
    with pytest.raises(UnreachableError, match=r"fetch\.unreachable"):
        fetcher.fetch("http://sub.other.invalid/a")
    with WebSite() as local:
        local.pages["/a"] = Page(HTML)
        assert Fetcher(tmp_path, allow_private=True, proxies=proxies).fetch(local.url + "/a").size == len(
            HTML
        )
        assert local.lines == ["/robots.txt", "/a"]


@pytest.mark.parametrize(
    ("page", "id"),
    [
        (Page(b"x", "application/x-executable"), "fetch.type-unknown"),
        (Page(b"x", ""), "fetch.type-unknown"),
        (Page(b"", "text/html"), "fetch.empty"),
        (Page(b"x" * 2000, "text/plain"), "fetch.too-large"),
        (Page(b"x" * 10, "text/plain", length=50), "fetch.broken"),
        (Page(b"x", "text/plain", headers={"Content-Encoding": "br"}), "fetch.broken"),
        (Page(b"no gzip", "text/plain", headers={"Content-Encoding": "gzip"}), "fetch.broken"),
        (Page(BOMB, "text/plain", headers={"Content-Encoding": "gzip"}), "fetch.too-large"),
        (Page(b"x", status=404), "fetch.status"),
        (Page(b"x", status=500), "fetch.status"),
    ],
)  # fmt: skip
def test_what_is_no_document(site: WebSite, tmp_path: Path, page: Page, id: str) -> None:
    site.pages["/a"] = page
    assert refuse(site, "/a", tmp_path, max_bytes=1000).id == id


def test_a_compressed_page_is_unpacked(site: WebSite, tmp_path: Path) -> None:
    site.pages["/a"] = Page(gzip.compress(HTML), headers={"Content-Encoding": "gzip"})
    assert fetch(site, "/a", tmp_path).path.read_bytes() == HTML


def test_an_endless_answer_ends(site: WebSite, tmp_path: Path) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        for _ in range(400):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)

    site.pages["/a"] = Page(b"", "text/plain", write=drip)
    begin = time.monotonic()
    assert refuse(site, "/a", tmp_path, total_seconds=0.5).id == "fetch.timeout"
    assert time.monotonic() - begin < 10


def test_nobody_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UnreachableError, match=r"fetch\.unreachable"):
        Fetcher(tmp_path, allow_private=True).fetch(f"http://127.0.0.1:{port}/a")
    with pytest.raises(UnreachableError, match=r"fetch\.unreachable"):
        Fetcher(tmp_path).fetch("http://no-such-host.invalid/")


@pytest.mark.parametrize(
    ("path", "headers", "name"),
    [
        ("/", {"content-type": "text/html"}, "h.org.html"),
        ("/docs/", {"content-type": "text/html; charset=gbk"}, "h.org - docs.html"),
        ("/a/index.htm", {"content-type": "text/html"}, "h.org - a - index.html"),
        ("/a/page.php?id=7", {"content-type": "text/html"}, "h.org - a - page.html"),
        ("/%E6%89%8B%E5%86%8C.pdf", {"content-type": "application/pdf"}, "手册.pdf"),
        ("/get?id=7", {"content-type": "application/pdf"}, "get.pdf"),
        ("/get", PDF | {"content-disposition": "inline; filename=\"../a b.pdf\""}, "a b.pdf"),
        ("/get", PDF | {"content-disposition": "attachment; filename*=UTF-8''%E6%89%8B.pdf"}, "手.pdf"),
        ("/notes.md", {"content-type": "text/plain"}, "notes.md"),
        ("/notes", {"content-type": "text/plain"}, "notes.txt"),
        ("/v1.2", {"content-type": "text/plain"}, "v1.txt"),
        ("/a.docx", {"content-type": "application/octet-stream"}, "a.docx"),
        ("/a.pdf", {}, "a.pdf"),
        ("/..%2f..%2fetc%2fpasswd.txt", {"content-type": "text/plain"}, "passwd.txt"),
    ],
)  # fmt: skip
def test_names(path: str, headers: dict[str, str], name: str) -> None:
    assert name_document("https://h.org" + path, headers) == name


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_a_name_is_never_a_path(path: str, given_name: str) -> None:
    headers = {
        "content-type": "application/pdf",
        "content-disposition": f'attachment; filename="{given_name}"',
    }
    name = name_document("https://h.org/" + path, headers)
    assert name.endswith(".pdf") and len(name.encode("utf-8", errors="replace")) <= 184
    assert not set(name) & set('/\\\x00\n:*?"<>|') and not name.startswith(".")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("HTTPS://例子.测试/路 径?q=a b#x", "https://xn--fsqu00a.xn--0zwm56d/%E8%B7%AF%20%E5%BE%84?q=a%20b"),
        ("http://h", "http://h/"),
        ("http://[::1]:8/a%20b", "http://[::1]:8/a%20b"),
    ],
)
def test_addresses(text: str, url: str) -> None:
    assert check_url(text) == url


@pytest.mark.parametrize(
    "text", ["", "ftp://h/", "http://", "http://u:p@h/", "http://h:99999/", "//h/a", "http://a\r\nb/"]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"fetch\.url-invalid"):
        check_url(text)


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("172.16.0.1", True),
        ("192.168.0.1", True),
        ("169.254.169.254", True),
        ("100.64.0.1", True),
        ("0.0.0.0", True),
        ("224.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("64:ff9b::7f00:1", True),
        ("2002:7f00:1::", True),
        ("fe80::1%eth0", True),
        ("fd00::1", True),
        ("8.8.8.8", False),
        ("2606:4700::1111", False),
        ("64:ff9b::808:808", False),
        ("::7f00:1", True),
        ("::808:808", False),
        ("fec0::1", True),
    ],
)
def test_what_is_private(address: str, private: bool) -> None:
    assert is_private(address) == private


def test_headers_that_drip_for_ever_are_cut(tmp_path: Path) -> None:
    """Every byte breaks the silence that a timeout waits for."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                    for _ in range(600):
                        connection.sendall(b"a")
                        time.sleep(0.05)

        threading.Thread(target=drip, daemon=True).start()
        begin = time.monotonic()
        with pytest.raises(UnreachableError):
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/a.pdf"
            Fetcher(tmp_path, allow_private=True, total_seconds=1).fetch(url)
        assert time.monotonic() - begin < 8
