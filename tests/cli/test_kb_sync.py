"""`rfctl kb sync`: whole output and exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ragflow_command import KEY, Run, serving


@pytest.fixture
def kb(tmp_path: Path, rfctl: Run) -> Iterator[Run]:
    """`rfctl` beside a folder `papers` with two notes and an empty PDF."""
    folder = tmp_path / "papers"
    folder.mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(f"The heron of {name} is grey.")
    (folder / ".hidden.txt").write_text("not for others")
    with serving(tmp_path, rfctl) as (engine, run):
        run.__dict__["engine"] = engine
        yield run


def test_sync_says_what_it_did_and_what_it_would_do(kb: Run, tmp_path: Path) -> None:
    assert kb("kb", "sync", "papers", "--dry-run", "-q").code == 2  # makes no knowledge base
    first = kb("kb", "sync", "papers")
    assert (first.code, first.out) == (
        0,
        "DOCUMENT  RESULT  CHUNKS\n"
        "a.txt     parsed  1\n"
        "b.txt     parsed  1\n"
        "\n"
        "papers: 0 unchanged, 2 added, 0 replaced, 0 renamed, 0 removed, 0 failed\n",
    )
    assert first.err == (
        "No knowledge base yet: created papers\n"
        "Comparing with the knowledge base …\n"
        "Uploading and parsing what differs …\n"
        "Left out: 1 hidden files or folders\n"
    )
    again = kb("kb", "sync", "papers", "papers", "-q")
    assert again.out == "papers: 2 unchanged, 0 added, 0 replaced, 0 renamed, 0 removed, 0 failed\n"
    (tmp_path / "papers" / "a.txt").write_text("The heron is white now.")
    (tmp_path / "papers" / "b.txt").unlink()
    (tmp_path / "papers" / "c.pdf").write_text("")
    plan = kb("kb", "sync", "papers", "--dry-run", "--prune", "-q")
    assert (plan.code, plan.out) == (
        0,
        "replace  a.txt\nadd      c.pdf\nremove   b.txt\n0 unchanged, 3 to change; nothing was changed\n",
    )
    document = json.loads(kb("kb", "sync", "papers", "--dry-run", "--json").out)
    assert [(one["name"], one["action"]) for one in document["changes"]] == [
        ("a.txt", "replace"),
        ("c.pdf", "add"),
    ]
    assert (document["remove"], document["left"]) == ([], ["b.txt"])
    refused = kb("kb", "sync", "papers", "--prune", "-q")
    assert (refused.code, refused.err.split(":")[0]) == (7, "error[cli.needs-yes]")
    done = kb("kb", "sync", "papers", "--prune", "--yes", "-q")
    assert (done.code, done.out) == (
        6,
        "DOCUMENT  RESULT    CHUNKS\n"
        "a.txt     replaced  1\n"
        "c.pdf     failed    -\n"
        "b.txt     removed   -\n"
        "\n"
        "error[upload.empty]: c.pdf is empty (0 bytes)\n"
        "  why: Often a copy or download that was cut off\n"
        "  next: Get the file again\n"
        "\n"
        "papers: 0 unchanged, 0 added, 1 replaced, 0 renamed, 1 removed, 1 failed\n",
    )
    report = json.loads(kb("kb", "sync", "papers", "--json").out)
    assert (report["schema_version"], report["counts"]) == (
        1,
        {"failed": 1, "unchanged": 1, "removed": 0, "left": 0},
    )
    assert report["changed"][0]["error"]["id"] == "upload.empty"
    assert kb("kb", "sync", "papers/a.txt").code == 2


def test_a_sync_that_is_killed_is_finished_by_the_next(
    kb: Run, tmp_path: Path, environment: dict[str, str]
) -> None:
    folder = tmp_path / "papers"
    for number in range(40):
        (folder / f"note-{number}.txt").write_text(f"Heron number {number}.")
    assert kb("kb", "create", "papers").code == 0
    assert kb("kb", "sync", "papers", "-q").code == 0
    for number in range(0, 40, 4):
        (folder / f"note-{number}.txt").write_text(f"Heron number {number} has changed.")
    (folder / "new.txt").write_text("A new heron.")
    engine = kb.__dict__["engine"]
    (dataset,) = engine.call("GET", "/datasets")
    documents = f"/datasets/{dataset['id']}/documents"
    engine.double.gate.clear()  # nothing is parsed to its end
    variables = environment | {"RAGFLOW_BASE_URL": engine.url, "RAGFLOW_API_KEY": KEY}
    command = [sys.executable, "-m", "rfctl.cli.main", "kb", "sync", "papers", "-q"]
    with subprocess.Popen(command, env=variables, cwd=tmp_path) as process:
        deadline = time.monotonic() + 60
        while engine.call("GET", documents, params={"page_size": 1})["total"] < 48:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.kill()
    engine.double.gate.set()
    done = kb("kb", "sync", "papers", "-q", "--json")
    assert done.code == 0
    listed = engine.call("GET", documents, params={"page_size": 100})["docs"]
    assert sorted(one["name"] for one in listed) == sorted(
        path.name for path in folder.iterdir() if not path.name.startswith(".")
    )
    assert {(one["run"], one["chunk_count"]) for one in listed} == {("DONE", 1)}
    assert json.loads(kb("kb", "sync", "papers", "--json").out)["counts"]["unchanged"] == 43
    for path in folder.iterdir():
        if path.name != "a.txt":
            path.unlink()
    pruned = kb("kb", "sync", "papers", "--prune", "--yes", "-q", "--json")
    assert json.loads(pruned.out)["counts"] == {"unchanged": 1, "removed": 42, "left": 0}
