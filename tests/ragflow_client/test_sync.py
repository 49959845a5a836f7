"""A folder and a dataset kept equal, against the embedded engine."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest
from fault_proxy import FaultProxy, Rule
from ragflow_bench import KEY, Bench

from rfctl.core.error import RfctlError
from rfctl.ragflow_client.connection import Ragflow
from rfctl.ragflow_client.dataset import Dataset, ParserOptions
from rfctl.ragflow_client.ledger import Ledger
from rfctl.ragflow_client.parse import Patience
from rfctl.ragflow_client.sync import SyncReport
from rfctl.ragflow_client.transport import Api

QUICK = Patience(poll=0.1)


class Pair:
    """A folder and the dataset that follows it."""

    def __init__(self, ragflow: Ragflow, root: Path) -> None:
        self.ragflow = ragflow
        self.folder = root / "papers"
        self.folder.mkdir()
        self.ledger = root / "ledger"
        self.dataset: Dataset = ragflow.create_dataset("papers")[0]

    def write(self, name: str, text: str = "") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text or f"The heron of {name} is grey.")
        return path

    def sync(self, *, prune: bool = False, ragflow: Ragflow | None = None) -> SyncReport:
        used = ragflow or self.ragflow
        dataset = self.ragflow.dataset("papers")
        report = used.sync(dataset, self.folder, self.ledger, prune=prune, patience=QUICK)
        assert report is not None
        return report

    def names(self) -> list[str]:
        return sorted(one.name for one in self.ragflow.documents(self.dataset))

    def ids(self) -> dict[str, str]:
        return {one.name: one.id for one in self.ragflow.documents(self.dataset)}


@pytest.fixture
def pair(ragflow: Ragflow, tmp_path: Path) -> Pair:
    return Pair(ragflow, tmp_path)


def counts(report: SyncReport) -> dict[str, int]:
    return {name: count for name, count in report.counts.items() if count}


def test_only_what_differs_is_sent(pair: Pair, engine: Bench) -> None:
    for name in ("a.txt", "b.txt", "sub/c.txt"):
        pair.write(name)
    assert counts(pair.sync()) == {"parsed": 3}
    before = pair.ids()
    embedded = len(engine.double.requests)
    assert counts(pair.sync()) == {"unchanged": 3}
    pair.write("b.txt", "Now the heron is white.")
    os.utime(pair.folder / "a.txt")  # touched, not changed
    report = pair.sync()
    assert counts(report) == {"unchanged": 2, "replaced": 1}
    after = pair.ids()
    assert pair.names() == ["a.txt", "b.txt", "c.txt"]
    assert (after["a.txt"], after["c.txt"]) == (before["a.txt"], before["c.txt"])
    assert after["b.txt"] != before["b.txt"]
    assert len(engine.double.requests) == embedded + 2  # name and text of one document
    assert "white" in pair.ragflow.search([pair.dataset], "heron white").sources[0].content


def test_only_documents_of_sync_are_pruned(pair: Pair, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.txt"
    theirs.write_text("Somebody else's heron.")
    same = pair.write("same.txt")
    pair.ragflow.upload(pair.dataset, [theirs, same], patience=QUICK)
    pair.write("ours.txt")
    gone = pair.write("gone.txt")
    assert counts(pair.sync()) == {"parsed": 2, "unchanged": 1}
    gone.unlink()
    same.unlink()
    report = pair.sync()
    assert (counts(report), report.left) == ({"unchanged": 1, "left": 1}, ("gone.txt",))
    assert len(pair.names()) == 4
    report = pair.sync(prune=True)
    assert (counts(report), report.removed) == ({"unchanged": 1, "removed": 1}, ("gone.txt",))
    assert pair.names() == ["ours.txt", "same.txt", "theirs.txt"]


def test_a_document_of_another_is_never_replaced(pair: Pair, tmp_path: Path) -> None:
    theirs = tmp_path / "note.txt"
    theirs.write_text("Somebody else's heron.")
    pair.ragflow.upload(pair.dataset, [theirs], patience=QUICK)
    pair.write("note.txt", "Another heron.")
    before = pair.ids()
    report = pair.sync()
    assert [one.cause.id if one.cause else "" for one in report.changed] == ["sync.name-taken"]
    assert pair.ids() == before


def test_other_parser_settings_parse_anew_without_a_gap(pair: Pair) -> None:
    pair.write("a.txt")
    # Looks like the server's own second a.txt, but is a file of this folder with the same content.
    pair.write("a(1).txt", "The heron of a.txt is grey.")
    assert counts(pair.sync()) == {"parsed": 2}
    before = pair.ids()
    pair.ragflow.edit_dataset(pair.dataset, options=ParserOptions(chunk_tokens=64))
    assert counts(pair.sync()) == {"replaced": 2}
    assert pair.names() == ["a(1).txt", "a.txt"]
    assert not set(before.values()) & set(pair.ids().values())
    assert counts(pair.sync()) == {"unchanged": 2}


def test_a_second_file_of_one_name_renames_the_first(pair: Pair) -> None:
    pair.write("x/read.txt", "In x.")
    assert counts(pair.sync()) == {"parsed": 1}
    first = pair.ids()["read.txt"]
    pair.write("read.txt", "At the top.")
    assert counts(pair.sync()) == {"parsed": 1, "renamed": 1}
    assert pair.names() == ["read.txt", "x - read.txt"]
    assert pair.ids()["x - read.txt"] == first
    (pair.folder / "read.txt").unlink()
    assert counts(pair.sync(prune=True)) == {"unchanged": 1, "removed": 1}
    assert counts(pair.sync()) == {"renamed": 1}
    assert pair.ids() == {"read.txt": first}


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc")
def test_a_file_that_cannot_be_read_keeps_its_document(pair: Pair) -> None:
    path = pair.write("x/read.txt", "In x.")
    pair.sync()
    first = pair.ids()["read.txt"]
    pair.write("read.txt", "At the top.")
    path.unlink()
    path.symlink_to("/proc/self/mem")  # a file that nobody can read from its beginning, not even root
    report = pair.sync(prune=True)
    assert counts(report) == {"parsed": 1, "failed": 1}
    assert pair.ids()["x - read.txt"] == first
    path.unlink()
    pair.write("x/read.txt", "In x.")
    assert counts(pair.sync()) == {"unchanged": 2}


def test_a_moved_file_keeps_its_document(pair: Pair) -> None:
    path = pair.write("a.txt")
    pair.sync()
    before = pair.ids()
    (pair.folder / "old").mkdir()
    path.rename(pair.folder / "old" / "a.txt")
    assert counts(pair.sync(prune=True)) == {"unchanged": 1}
    assert pair.ids() == before
    assert counts(pair.sync(prune=True)) == {"unchanged": 1}


def test_what_the_server_has_lost_comes_back(pair: Pair) -> None:
    pair.write("a.txt")
    pair.write("b.txt")
    pair.sync()
    pair.ragflow.remove_documents(pair.dataset, ["a.txt"])
    assert counts(pair.sync()) == {"parsed": 1, "unchanged": 1}
    assert pair.names() == ["a.txt", "b.txt"]


@pytest.mark.parametrize("rule", [r"POST .*/documents", r"POST .*/chunks", r"DELETE .*/documents", r"PATCH "])
def test_an_interrupted_sync_is_finished_by_the_next(pair: Pair, engine: Bench, rule: str) -> None:
    pair.write("a.txt")
    pair.write("b.txt")
    pair.sync()
    pair.write("a.txt", "A new heron, and larger.")
    pair.write("c.txt")
    with FaultProxy(engine.url) as proxy:
        proxy.rules.append(Rule(re.compile(rule), ["unanswered"] * 2 + ["lost"] * 20))
        with Ragflow(Api(proxy.url, KEY, read_seconds=2, retries=0)) as broken:
            try:
                pair.sync(ragflow=broken)
            except RfctlError as error:
                assert error.exit_code == 3
        assert proxy.injected
    final = counts(pair.sync())
    assert "failed" not in final
    assert pair.names() == ["a.txt", "b.txt", "c.txt"]
    assert counts(pair.sync()) == {"unchanged": 3}
    for name in "abc":
        (pair.folder / f"{name}.txt").unlink()
    assert counts(pair.sync(prune=True)) == {"removed": 3}
    assert pair.names() == []


def test_two_syncs_of_one_dataset_do_not_mix(pair: Pair) -> None:
    pair.write("a.txt")
    with Ledger(pair.ledger, pair.dataset.id, pair.folder), pytest.raises(RfctlError) as caught:
        pair.sync()
    assert caught.value.id == "sync.busy"
    assert "Another rfctl" in caught.value.text().why
    assert counts(pair.sync()) == {"parsed": 1}


def test_a_broken_ledger_is_named(pair: Pair) -> None:
    pair.write("a.txt")
    pair.sync()
    for path in pair.ledger.glob("sync.sqlite3*"):
        path.write_bytes(b"no database" * 1000)
    with pytest.raises(RfctlError) as caught:
        pair.sync()
    assert caught.value.id == "sync.ledger-broken"
    for path in pair.ledger.glob("sync.sqlite3*"):
        path.unlink()
    assert counts(pair.sync(prune=True)) == {"unchanged": 1}


def test_ninety_are_done_and_ten_are_named(pair: Pair, golden: Path) -> None:
    for number in range(90):
        pair.write(f"note-{number}.txt")
    fixtures = golden / "ragflow" / "fixtures"
    broken = ["zero.pdf", "not-a-pdf.pdf", "corrupt.pdf", "encrypted.pdf", "blank.pdf"]
    for copy in "ab":
        for name in broken:
            (pair.folder / f"{copy}-{name}").write_bytes((fixtures / name).read_bytes())
    report = pair.sync()
    assert counts(report) == {"parsed": 90, "failed": 10}
    assert Counter(one.cause.id for one in report.failed if one.cause) == {
        "upload.empty": 2,
        "upload.not-a-pdf": 2,
        "upload.corrupt": 2,
        "upload.encrypted": 2,
        "upload.blank": 2,
    }
    with pytest.raises(RfctlError) as caught:
        report.check()
    assert (caught.value.id, caught.value.exit_code) == ("upload.partly-failed", 6)
    assert len(pair.names()) == 90
