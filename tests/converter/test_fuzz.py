"""A few hundred rounds of the fuzzer with a fixed seed, and what it must not let through."""

from __future__ import annotations

import os
from pathlib import Path

import fuzz_source
import pytest
from made_model import make_llama, make_qwen

from rfctl.converter.check import check
from rfctl.converter.source import open_source, read_text
from rfctl.core.error import RfctlError


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_directories_end_in_a_report_or_an_error_with_an_id(seed: int) -> None:
    outcome = fuzz_source.fuzz(seed, 50)
    assert not outcome.finds, "\n".join(outcome.finds[:3])
    assert outcome.counts["check: report"] == 50
    assert outcome.counts["plan: plan"] > 5
    assert len(outcome.counts) > 15


def test_the_fuzzer_sees_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(path: Path, **options: object) -> None:
        raise KeyError(path.name)

    monkeypatch.setattr(fuzz_source, "check", crash)
    outcome = fuzz_source.fuzz(1, 2)
    assert len(outcome.finds) == 4 and "KeyError" in outcome.finds[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name")
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors.index.json", "chat_template.jinja"]
)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(name: str, tmp_path: Path) -> None:
    made = make_qwen()
    made.files["tokenizer_config.json"] = {}
    path = made.write(tmp_path / "made")
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    report = check(path)
    ids = {finding.id for finding in report.errors}
    assert ids & {"model.file-unreadable", "model.tokenizer-missing"}


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own")
def test_a_link_out_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{{ 'secret' }}", "utf-8")
    made = make_llama()
    del made.files["tokenizer_config.json"]
    path = made.write(tmp_path / "made")
    (path / "chat_template.jinja").symlink_to(secret)
    report = check(path)
    assert [finding.id for finding in report.errors] == ["model.link-outside"]
    with pytest.raises(RfctlError, match=r"model\.link-outside"):
        open_source(path).text("chat_template.jinja")
    (path / "chat_template.jinja").unlink()
    (path / "inner").write_text("a", "utf-8")
    (path / "chat_template.jinja").symlink_to("inner")
    assert read_text(path / "chat_template.jinja") == "a"


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own")
def test_the_links_of_the_hub_s_cache_are_followed(tmp_path: Path) -> None:
    repo = tmp_path / "models--org--name"
    snapshot = make_llama().write(repo / "snapshots" / ("a" * 40))
    (repo / "blobs").mkdir()
    for number, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(repo / "blobs" / str(number))
        file.symlink_to(f"../../blobs/{number}")
    assert check(snapshot).will_work
    linked = tmp_path / "linked"
    linked.symlink_to(snapshot)
    assert check(linked).will_work


@pytest.mark.parametrize("text", [b"1" * 5000, b"[" * 100_000, b"\xff", b"{", b"NaN"])
def test_json_that_python_stumbles_over(text: bytes, tmp_path: Path) -> None:
    made = make_llama()
    path = made.write(tmp_path / "made")
    (path / "config.json").write_bytes(text)
    report = check(path)
    assert {finding.id for finding in report.errors} & {"model.json-malformed", "model.file-unreadable"}


@pytest.mark.parametrize("round_number", [493, 3376])
def test_what_the_fuzzer_once_found(round_number: int, tmp_path: Path) -> None:
    """An id of 1e999 in added_tokens_decoder; a piece that is no UTF-8. Two rounds of seed 77."""
    outcome = fuzz_source.Outcome()
    fuzz_source.run_round(77, round_number, tmp_path / "Fuzzed-1B", outcome)
    assert not outcome.finds
    assert outcome.counts["plan: model.tokenizer-malformed"] == 1
