"""Recorded exchanges of RAGFlow v0.27.0 against the engine: every difference is in the table or a fault."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from ragflow_bench import Bench, bench
from ragflow_replay import Difference, Replay


@dataclass(frozen=True)
class Deviation:
    """A difference that is meant. scenario, path: regular expressions; indexes empty = any exchange."""

    scenario: str
    path: str
    reason: str
    indexes: tuple[int, ...] = ()

    def covers(self, scenario: str, difference: Difference) -> bool:
        return (
            re.fullmatch(self.scenario, scenario) is not None
            and re.fullmatch(self.path, difference.path) is not None
            and (not self.indexes or difference.index in self.indexes)
        )


DOC = r"data(\.docs)?(\.\d+)?"
FILES = "the recording does not hold these files"
DEVIATIONS = [
    Deviation("system", "data", "the version says that this is rfctl's engine", (1,)),
    Deviation("system", r"data\.(disablePasswordLogin|registerEnabled)", "one account", (4,)),
    Deviation(".*", r".*nickname|.*tenant_name", "the account is called rfctl"),
    Deviation("providers|setup", r"data\.name", "the account is called rfctl", (13, 55)),
    Deviation("setup", r"data\.(database|doc_engine|task_executor).*", "SQLite and one worker", (22,)),
    Deviation("providers", r"data\..*", "Ollama is the only provider", (1,)),
    Deviation("providers", r"data\.answer", "words of another chat model", (56,)),
    Deviation("providers", r"data\.answer", "the error does not pass through LiteLLM", (57,)),
    Deviation("datasets-create-errors", "message", "the refusal of 129 bytes says why", (6,)),
    Deviation("datasets-create-errors", "message", "the size names a number of characters", (51,)),
    Deviation(".*", rf"{DOC}\.thumbnail", "no thumbnails"),
    Deviation("documents-upload", rf"{DOC}\.content_hash", FILES, (5, 14, 18, 19, 20, 29)),
    Deviation("documents-delete", rf"{DOC}\.content_hash", FILES, (17,)),
    Deviation("documents-download", "content_disposition", "RFC 5987 instead of raw bytes", (2,)),
    Deviation("parse.*", rf"{DOC}\.progress_msg|data.*\.(chunk|token)_(num|count)", "other chunks"),
]


def check(replay: Replay, used: set[Deviation]) -> None:
    """Fail with every difference that no deviation covers."""
    faults = []
    for difference in replay.differences:
        covering = [one for one in DEVIATIONS if one.covers(replay.name, difference)]
        used.update(covering)
        if not covering:
            values = f"{difference.expected!r:.200} -> {difference.actual!r:.200}"
            faults.append(f"[{difference.index}] {difference.path}: {values}")
    assert not faults, f"{replay.name}\n" + "\n".join(faults)


USED: set[Deviation] = set()


def replay_all(
    golden: Path, engine: Bench, names: list[str], bind: Callable[[Replay], dict[str, str]] | None = None
) -> None:
    for name in names:
        replay = Replay(engine, golden, name)
        if bind is not None:
            replay.bound.update(bind(replay))
            replay.bind_names()
        if name.startswith("parse"):
            engine.double.gate.clear()
        # Unreadable PDFs: RAGFlow leaves them RUNNING for ever; what the engine does instead is tested below.
        replay.run(first=16 if name == "parse-bad-files" else 0)
        engine.double.gate.set()
        check(replay, USED)


def test_system_and_credentials(golden: Path, tmp_path: Path) -> None:
    with bench(tmp_path, registered=False) as engine:
        replay_all(golden, engine, ["system"])
        for name, mine in (("auth-errors", range(11)), ("routes", range(16))):
            replay = Replay(engine, golden, name)
            for index in mine:
                replay.run(index, index + 1)
            check(replay, USED)


def test_setup_with_a_key(golden: Path, tmp_path: Path) -> None:
    """Keys, models of the account and the state of a server where nothing is set; there is no login."""
    with bench(tmp_path, registered=False) as engine:
        replay = Replay(engine, golden, "setup")
        replay.bound.clear()
        replay.run(11, 23)
        check(replay, USED)


def test_providers(golden: Path, tmp_path: Path) -> None:
    with bench(tmp_path, registered=False) as engine:
        replay_all(golden, engine, ["providers"])


def test_datasets(golden: Path, tmp_path: Path) -> None:
    def bind(replay: Replay) -> dict[str, str]:
        found = replay.bench.call("GET", "/datasets", params={"page_size": 100})
        ids = {one["name"]: one["id"] for one in found}
        if replay.name == "datasets-update":
            return {"<dataset_1>": ids["minimal"], "<dataset_2>": ids["by-sdk"]}
        if replay.name == "datasets-delete":
            return {"<dataset_1>": ids["renamed"], "<dataset_2>": ids["m-tag"]}
        return {}

    names = ["create", "create-errors", "list", "update", "delete"]
    with bench(tmp_path) as engine:
        replay_all(golden, engine, [f"datasets-{name}" for name in names], bind)
        assert not list((tmp_path / "document").iterdir())


# Which document a placeholder means, where the recording itself does not show the name before its use.
DOCUMENTS = {
    "documents-download": ("handbook.pdf", "note.txt", "极光.txt", "zero.txt"),
    "documents-update": ("note.txt", "handbook.pdf"),
    "documents-delete": ("virtual.txt", "second.txt", "sdk.txt"),
    "parse-errors": ("handbook.pdf", "zero.txt", "second.txt"),
}


def test_documents_and_parsing(golden: Path, tmp_path: Path) -> None:
    def bind(replay: Replay) -> dict[str, str]:
        found = replay.bench.call("GET", f"/datasets/{dataset}/documents", params={"page_size": 100})
        ids = {one["name"]: one["id"] for one in found["docs"]}
        names = DOCUMENTS.get(replay.name, ())
        return {"<dataset_1>": dataset} | {
            f"<document_{number}>": ids[name] for number, name in enumerate(names, 1)
        }

    names = ["upload", "list", "download", "update", "delete"]
    parses = ["parse", "parse-reparse", "parse-stop", "parse-errors", "parse-sdk", "parse-bad-files"]
    with bench(tmp_path) as engine:
        dataset = engine.create_dataset("docs")
        replay_all(golden, engine, [f"documents-{name}" for name in names] + parses, bind)


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("corrupt.pdf", "document.corrupt"),
        ("encrypted.pdf", "document.encrypted"),
        ("not-a-pdf.pdf", "document.corrupt"),
        ("zero.pdf", "document.empty"),
    ],
)
def test_an_unreadable_pdf_fails_and_stops_nothing(golden: Path, tmp_path: Path, name: str, id: str) -> None:
    fixtures = golden / "ragflow" / "fixtures"
    with bench(tmp_path) as engine:
        dataset = engine.create_dataset("bad")
        bad, good = engine.upload(
            dataset, (name, (fixtures / name).read_bytes()), ("zh.pdf", (fixtures / "zh.pdf").read_bytes())
        )
        ids = [bad["id"], good["id"]]
        engine.call("POST", f"/datasets/{dataset}/chunks", json={"document_ids": ids})
        failed = engine.wait(dataset, bad["id"])
        assert (failed["run"], failed["progress"], failed["chunk_count"]) == ("FAIL", -1.0, 0)
        assert re.search(rf"\n\d\d:\d\d:\d\d \[ERROR\]\[{id}\]: {name}: ", failed["progress_msg"])
        assert engine.wait(dataset, good["id"])["run"] == "DONE"


def test_every_deviation_is_needed(golden: Path) -> None:
    """The last test of this file: a line of the table that nothing uses is out of date."""
    if not USED:
        pytest.skip("runs after the other tests of this file")
    assert [one for one in DEVIATIONS if one not in USED] == []
