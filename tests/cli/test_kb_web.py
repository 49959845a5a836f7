"""`rfctl kb upload URL` against a site on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ragflow_command import Bench, Run, serving
from web_site import Page, WebSite

PAGE = b"<!doctype html><html><body><h1>Heron</h1><p>The heron stands in shallow water.</p></body></html>"


@pytest.fixture
def served(tmp_path: Path, rfctl: Run) -> Iterator[tuple[Bench, Run]]:
    with serving(tmp_path, rfctl) as made:
        yield made


def test_pages_become_documents_with_their_source(served: tuple[Bench, Run], tmp_path: Path) -> None:
    engine, rfctl = served
    note = tmp_path / "note.txt"
    note.write_text("The heron is grey.")
    with WebSite() as site:
        site.pages |= {"/birds/heron": Page(PAGE), "/notes.md": Page(b"# Stork\n\nwhite", "text/markdown")}
        words = [f"{site.url}/birds/heron", str(note), f"{site.url}/notes.md", f"{site.url}/gone"]
        first = rfctl("kb", "upload", *words, "--allow-private", "--json")
        assert first.code == 6, first.err
        report = json.loads(first.out)
        items = {item["name"]: item for item in report["documents"]}
        assert {name: item["status"] for name, item in items.items()} == {
            "127.0.0.1 - birds - heron.html": "parsed",
            "note.txt": "parsed",
            "notes.md": "parsed",
            f"{site.url}/gone": "failed",
        }
        assert items["notes.md"]["source"] == f"{site.url}/notes.md"
        assert "source" not in items["note.txt"]
        assert items[f"{site.url}/gone"]["error"]["id"] == "fetch.status"
        again = rfctl("kb", "upload", words[0], "--allow-private", "--json")
        assert json.loads(again.out)["documents"][0]["status"] == "unchanged"
    (dataset,) = engine.call("GET", "/datasets")
    rows = engine.call("GET", f"/datasets/{dataset['id']}/documents")["docs"]
    meta = {row["name"]: row["meta_fields"] for row in rows}
    assert meta["127.0.0.1 - birds - heron.html"]["url"] == f"{site.url}/birds/heron"
    assert meta["127.0.0.1 - birds - heron.html"]["fetched"].endswith("Z")
    assert meta["note.txt"] == {}


def test_one_address_that_cannot_be_fetched_is_its_own_error(served: tuple[Bench, Run]) -> None:
    _, rfctl = served
    with WebSite() as site:
        site.pages["/a"] = Page(PAGE)
        for language in ("en", "zh"):
            done = rfctl("kb", "upload", f"{site.url}/a", env={"RFCTL_LANG": language})
            assert (done.code, done.out, "[fetch.private]" in done.err) == (7, "", True)
        site.pages["/robots.txt"] = Page(b"User-agent: *\nDisallow: /", "text/plain")
        done = rfctl("kb", "upload", f"{site.url}/a", "--allow-private")
        assert (done.code, "[fetch.robots]" in done.err) == (7, True)
        assert site.lines == ["/robots.txt"]
    assert rfctl("kb", "ls", "--json").out.strip() == "[]"
