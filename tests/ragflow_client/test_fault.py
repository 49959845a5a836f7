"""Between client and server things break: no document twice, none lost, no wait without an end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_proxy import FaultProxy
from ragflow_bench import KEY, Bench

from rfctl.core.error import RfctlError, UnreachableError
from rfctl.ragflow_client import upload as upload_room
from rfctl.ragflow_client.connection import Ragflow
from rfctl.ragflow_client.dataset import Dataset
from rfctl.ragflow_client.parse import Patience
from rfctl.ragflow_client.transport import Api

QUICK = Patience(poll=0.1, silent=2.0, stall=6.0, offline=2.0, total=20.0)
UPLOAD = r"POST /api/v1/datasets/\w+/documents$"
SEEDS = range(int(os.environ.get("RFCTL_FAULT_SEEDS", "4")))
PARSE = r"POST /api/v1/datasets/\w+/chunks$"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_room, "_LOOK_AGAIN_SECONDS", (0.1, 0.3))
    monkeypatch.setattr("rfctl.ragflow_client.transport.PAUSE_SECONDS", 0.05)


@pytest.fixture
def proxy(engine: Bench) -> Iterator[FaultProxy]:
    with FaultProxy(engine.url) as made:
        yield made


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[Ragflow]:
    with Ragflow(Api(proxy.url, KEY, read_seconds=5.0)) as made:
        yield made


def files(folder: Path, count: int) -> list[Path]:
    made = []
    for number in range(count):
        path = folder / f"note {number}.txt"
        path.write_text(f"Note number {number}. The heron nests in tree {number}.\n")
        made.append(path)
    return made


def documents(engine: Bench, dataset: Dataset) -> list[tuple[str, str]]:
    found = engine.call("GET", f"/datasets/{dataset.id}/documents", params={"page_size": 100})
    return sorted((one["name"], one["run"]) for one in found["docs"])


@pytest.mark.parametrize(
    "faults",
    [["lost"], ["unanswered"], ["502"], ["late-504"], ["delay"], ["doubled"], ["lost", "unanswered"]],
    ids=lambda faults: "+".join(faults),
)
def test_an_upload_that_breaks_leaves_one_document(
    engine: Bench, proxy: FaultProxy, client: Ragflow, tmp_path: Path, faults: list[str]
) -> None:
    dataset, _ = client.create_dataset("notes")
    proxy.break_next(UPLOAD, *faults)
    report = client.upload(dataset, files(tmp_path, 1), patience=QUICK)
    assert [(one.status, one.cause) for one in report.items] == [("parsed", None)]
    assert documents(engine, dataset) == [("note 0.txt", "DONE")]
    assert sum(proxy.injected.values()) == len(faults)


def test_an_upload_that_never_works_is_named_and_goes_on_later(
    engine: Bench, proxy: FaultProxy, client: Ragflow, tmp_path: Path
) -> None:
    dataset, _ = client.create_dataset("notes")
    paths = files(tmp_path, 3)
    proxy.break_next(UPLOAD, *["lost"] * 6)
    report = client.upload(dataset, paths, patience=QUICK)
    assert {one.cause.id for one in report.failed if one.cause} == {"ragflow.cut"}
    assert documents(engine, dataset) == []
    proxy.heal()
    assert client.upload(dataset, paths, patience=QUICK).failed == ()
    assert len(documents(engine, dataset)) == 3


@pytest.mark.parametrize("fault", ["lost", "unanswered", "doubled"])
def test_a_start_that_breaks_is_made_good(
    engine: Bench, proxy: FaultProxy, client: Ragflow, tmp_path: Path, fault: str
) -> None:
    dataset, _ = client.create_dataset("notes")
    proxy.break_next(PARSE, fault)
    report = client.upload(dataset, files(tmp_path, 1), patience=QUICK)
    assert report.failed == ()
    assert documents(engine, dataset) == [("note 0.txt", "DONE")]


def test_a_web_page_instead_of_an_answer_is_that_files_failure(
    engine: Bench, proxy: FaultProxy, client: Ragflow, tmp_path: Path
) -> None:
    dataset, _ = client.create_dataset("notes")
    proxy.break_next(UPLOAD, "page")
    report = client.upload(dataset, files(tmp_path, 3), patience=QUICK)
    assert [one.cause.id for one in report.failed if one.cause] == ["ragflow.not-api"]
    with pytest.raises(RfctlError) as caught:
        report.check()
    assert (caught.value.id, caught.value.exit_code) == ("upload.partly-failed", 6)
    assert len(documents(engine, dataset)) == 2


@pytest.mark.parametrize("fault", ["lost", "unanswered", "doubled"])
def test_things_are_made_once(
    engine: Bench, proxy: FaultProxy, client: Ragflow, fault: str, tmp_path: Path
) -> None:
    proxy.break_next(r"POST /api/v1/datasets$", fault)
    if fault == "lost":
        with pytest.raises(UnreachableError):
            client.create_dataset("notes")
        client.create_dataset("notes")
    else:
        client.create_dataset("notes")
    names = sorted(one["name"] for one in engine.call("GET", "/datasets"))
    # A doubled delivery is the proxy's: the second one is there under the server's name, ours has its own.
    assert names == (["notes", "notes(1)"] if fault == "doubled" else ["notes"])
    assert client.dataset("notes").name == "notes"
    assert client.create_dataset("notes")[1] is False


@pytest.mark.parametrize("fault", ["lost", "unanswered", "502"])
def test_a_removal_is_certain(proxy: FaultProxy, client: Ragflow, fault: str) -> None:
    dataset, _ = client.create_dataset("notes")
    proxy.break_next(r"DELETE /api/v1/datasets$", fault)
    if fault == "unanswered":
        client.remove_dataset(dataset)
    else:
        with pytest.raises(UnreachableError):
            client.remove_dataset(dataset)
        client.remove_dataset(dataset)
    assert client.find_dataset("notes") is None


def test_a_replacement_that_breaks_keeps_the_old_document(
    engine: Bench, proxy: FaultProxy, client: Ragflow, tmp_path: Path
) -> None:
    dataset, _ = client.create_dataset("notes")
    (path,) = files(tmp_path, 1)
    client.upload(dataset, [path], patience=QUICK)
    path.write_text("Another text altogether.\n")
    proxy.break_next(UPLOAD, *["lost"] * 2)
    assert client.upload(dataset, [path], replace=True, patience=QUICK).failed
    assert documents(engine, dataset) == [("note 0.txt", "DONE")]
    # Killed between deleting the old one and renaming: the next run goes on there.
    proxy.heal()
    proxy.break_next(r"PATCH ", *["lost"] * 3)
    report = client.upload(dataset, [path], replace=True, patience=QUICK)
    assert documents(engine, dataset) == [("note 0(1).txt", "DONE")]
    assert [one.cause.id for one in report.failed if one.cause] == ["ragflow.cut"]
    assert client.upload(dataset, [path], patience=QUICK).failed == ()
    assert documents(engine, dataset) == [("note 0.txt", "DONE")]


def test_a_model_that_hangs_ends_the_wait(engine: Bench, client: Ragflow, tmp_path: Path) -> None:
    dataset, _ = client.create_dataset("notes")
    engine.double.gate.clear()
    begin = time.monotonic()
    patience = Patience(poll=0.1, silent=1.0, stall=1.5, offline=2.0, total=20.0)
    report = client.upload(dataset, files(tmp_path, 1), patience=patience)
    assert time.monotonic() - begin < 8
    assert [one.cause.id for one in report.failed if one.cause] == ["upload.stalled"]
    engine.double.gate.set()
    assert client.upload(dataset, files(tmp_path, 1), patience=QUICK).failed == ()


def test_a_server_that_stays_away_ends_the_wait(
    engine: Bench, proxy: FaultProxy, client: Ragflow, tmp_path: Path
) -> None:
    dataset, _ = client.create_dataset("notes")
    proxy.break_next(r"GET /api/v1/datasets/\w+/documents\?.*id", *["lost"] * 1000)
    begin = time.monotonic()
    with pytest.raises(UnreachableError):
        client.upload(dataset, files(tmp_path, 1), patience=QUICK)
    assert time.monotonic() - begin < 8


def test_a_server_that_is_away_for_a_moment_does_not(
    engine: Bench, proxy: FaultProxy, client: Ragflow, tmp_path: Path
) -> None:
    dataset, _ = client.create_dataset("notes")
    proxy.break_next(r"GET /api/v1/datasets/\w+/documents\?.*id", *["lost", "502", "unanswered"] * 2)
    assert client.upload(dataset, files(tmp_path, 1), patience=QUICK).failed == ()


@pytest.mark.parametrize("seed", SEEDS)
def test_random_faults_end_in_one_document_each(
    engine: Bench, proxy: FaultProxy, client: Ragflow, tmp_path: Path, seed: int
) -> None:
    dataset, _ = client.create_dataset("notes")
    paths = files(tmp_path, 8)
    proxy._random.seed(seed)
    proxy.chance = 0.25
    begin = time.monotonic()
    rounds = 0
    while rounds < 3 or sum(proxy.injected.values()) < 3:  # the first fault may end a round
        rounds += 1
        try:
            client.upload(dataset, paths, patience=QUICK)
        except RfctlError as error:
            assert error.id.startswith("ragflow.")
        assert time.monotonic() - begin < 60
    proxy.heal()
    report = client.upload(dataset, paths, patience=QUICK)
    assert report.failed == ()
    assert documents(engine, dataset) == [(path.name, "DONE") for path in sorted(paths)]
